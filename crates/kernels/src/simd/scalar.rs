//! The lanes as a plain array: the meaning of every vector operation.

use cuvier_tensor::formats::bf16_to_f32;

use super::{LANES, Simd};
use crate::isa::Vectorized;

/// Plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

#[inline(always)]
fn map2(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type V = [f32; LANES];
    type Part = [f32; LANES];
    const PARTS: usize = 1;
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn apart<W: Vectorized>(self, work: W) -> W::Output {
        work.run(self)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn splat_part(self, x: f32) -> Self::Part {
        [x; LANES]
    }
    #[inline(always)]
    fn load_part(self, x: &[f32; LANES], _: usize) -> Self::Part {
        *x
    }
    #[inline(always)]
    fn store_part(self, v: Self::Part, out: &mut [f32; LANES], _: usize) {
        *out = v;
    }
    #[inline(always)]
    fn fma_part(self, a: Self::Part, b: Self::Part, c: Self::Part) -> Self::Part {
        self.fma(a, b, c)
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn exp2_integral(self, n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::V {
        std::array::from_fn(|i| bf16_to_f32(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])))
    }
    #[inline(always)]
    fn load_e4m3_over_256(self, x: &[u8; 16]) -> Self::V {
        // As e4m3_to_f32, but for the NaN bytes, which checked checkpoints do not hold.
        x.map(|b| {
            f32::from_bits(u32::from(b & 0x80) << 24 | u32::from(b & 0x7F) << 20) * f32::from_bits(239 << 23)
        })
    }
    #[inline(always)]
    fn load_e2m1(self, x: &[u8; 8], table: Self::V) -> Self::V {
        std::array::from_fn(|i| table[usize::from(x[i / 2] >> (4 * (i % 2)) & 0xF)])
    }
    #[inline(always)]
    fn load_e2m1_pair(self, x: &[u8; 16], table: Self::V) -> [Self::V; 2] {
        let (halves, _) = x.as_chunks::<8>();
        [self.load_e2m1(&halves[0], table), self.load_e2m1(&halves[1], table)]
    }
    #[inline(always)]
    fn store_i8(self, v: Self::V, out: &mut [i8; LANES]) {
        *out = v.map(|x| x as i8);
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn prefetch_far(self, _: *const u8) {}
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let a: [f32; 8] = std::array::from_fn(|i| v[i] + v[i + 8]);
        let b: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
        (b[0] + b[2]) + (b[1] + b[3])
    }
    #[inline(always)]
    fn sum_four(self, v: [Self::V; 4]) -> [f32; 4] {
        v.map(|v| self.sum(v))
    }
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
}
