//! Quads as a plain array: the meaning of every operation.

use cuvier_tensor::formats::e8m0_to_f32;

use super::{E2M1_CODES, QuadBytes, Quads};
use crate::simd::{LANES, Scalar, Simd};

impl Quads for Scalar {
    type Quad = QuadBytes;
    type Sum = [i32; LANES];
    type Int = [i32; LANES];

    #[inline(always)]
    fn load_quad(self, bytes: &QuadBytes) -> QuadBytes {
        *bytes
    }
    #[inline(always)]
    fn store_quad(self, quad: QuadBytes, out: &mut QuadBytes) {
        *out = quad;
    }
    #[inline(always)]
    fn load_quads(self, bytes: &[u8], stride: usize) -> [QuadBytes; 4] {
        std::array::from_fn(|q| std::array::from_fn(|i| bytes[i / 4 * stride + 4 * q + i % 4]))
    }
    #[inline(always)]
    fn e2m1_codes(self, nibbles: QuadBytes) -> [QuadBytes; 2] {
        [nibbles.map(|b| E2M1_CODES[usize::from(b & 0xF)]), nibbles.map(|b| E2M1_CODES[usize::from(b >> 4)])]
    }
    #[inline(always)]
    fn bias(self, x: &[[i8; 4]; 8], offset: i32) -> i32 {
        -offset * x.as_flattened().iter().map(|&x| i32::from(x)).sum::<i32>()
    }
    #[inline(always)]
    fn start(self, bias: i32) -> Self::Sum {
        [bias; LANES]
    }
    #[inline(always)]
    fn multiply(self, mut sum: Self::Sum, w: QuadBytes, x: [i8; 4]) -> Self::Sum {
        let x = x.map(i32::from);
        for (sum, w) in sum.iter_mut().zip(w.as_chunks::<4>().0) {
            let w = w.map(i32::from);
            *sum += w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
        }
        sum
    }
    #[inline(always)]
    fn add_scaled(self, total: Self::Int, sum: Self::Sum, multiplier: Self::Int) -> Self::Int {
        std::array::from_fn(|r| total[r] + sum[r] * multiplier[r])
    }
    #[inline(always)]
    fn zero_int(self) -> Self::Int {
        [0; LANES]
    }
    #[inline(always)]
    fn load_int(self, x: &[i32; LANES]) -> Self::Int {
        *x
    }
    #[inline(always)]
    fn store_int(self, v: Self::Int, out: &mut [i32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn int_to_f32(self, v: Self::Int) -> <Self as Simd>::V {
        v.map(|v| v as f32)
    }
    #[inline(always)]
    fn block_scales(self, bytes: QuadBytes) -> ([Self::Int; 4], <Self as Simd>::V) {
        let (mut multipliers, mut units) = ([[0; LANES]; 4], [0.0; LANES]);
        for (r, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let largest = bytes[0].max(bytes[1]).max(bytes[2].max(bytes[3]));
            units[r] = e8m0_to_f32(largest) * f32::from_bits((127 - 14) << 23);
            for (multipliers, byte) in multipliers.iter_mut().zip(bytes) {
                multipliers[r] = (1 << 13u8.saturating_sub(largest - byte)) & !i32::from(largest - byte > 13);
            }
        }
        (multipliers, units)
    }
}
