//! Quads as a plain array: the meaning of every operation.

use cuvier_tensor::formats::e8m0_to_f32;

use super::{E2M1_CODES, E2M1_OFFSET, FourBlocks, QuadBytes, Quads};
use crate::simd::{LANES, Scalar, Simd};

/// What sums of the block with scale `scale` among these four count.
#[inline(always)]
fn multiplier(scales: &[u8; 4], scale: u8) -> i32 {
    let below = scales[0].max(scales[1]).max(scales[2].max(scales[3])) - scale;
    (1 << 13u8.saturating_sub(below)) & -i32::from(below <= 13)
}

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
    fn four_sums<const T: usize>(
        self,
        codes: &[u8; 16 * LANES],
        scales: &[u8; LANES],
        x: [&FourBlocks; T],
    ) -> [[i32; 4]; T] {
        x.map(|x| {
            std::array::from_fn(|block| {
                let scales = &scales.as_chunks::<4>().0[block];
                let bytes = codes[4 * LANES * block..][..4 * LANES].chunks_exact(LANES);
                let [even, odd] = x.codes[block].each_ref().map(|x| x.as_chunks::<LANES>().0);
                let mut sum = 0;
                for ((bytes, (even, odd)), &scale) in bytes.zip(even.iter().zip(odd)).zip(scales) {
                    let mut part = 0;
                    for ((byte, &even), &odd) in bytes.iter().zip(even).zip(odd) {
                        let weight = |nibble| i32::from(E2M1_CODES[usize::from(nibble)]) - E2M1_OFFSET;
                        part += weight(byte & 0xF) * i32::from(even) + weight(byte >> 4) * i32::from(odd);
                    }
                    sum += part * multiplier(scales, scale);
                }
                sum
            })
        })
    }
    #[inline(always)]
    fn quad_to_int(self, quad: QuadBytes) -> Self::Int {
        std::array::from_fn(|r| i32::from_le_bytes(std::array::from_fn(|i| quad[4 * r + i])))
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
            for (multipliers, &byte) in multipliers.iter_mut().zip(bytes) {
                multipliers[r] = multiplier(bytes, byte);
            }
        }
        (multipliers, units)
    }
}
