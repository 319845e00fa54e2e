//! Sixteen f32 lanes, the same on every instruction set.
//!
//! An operation is written once over [`Simd`]; AVX-512 holds the lanes in one register, AVX2 in two, plain Rust
//! in an array. Every method gives the same bits everywhere, so whole operations do.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
mod math;
mod quads;
mod scalar;
mod signed;
#[cfg(test)]
mod tests;

use crate::isa::Vectorized;
#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use lanes::{Lanes, copy_lanes};
pub use quads::{E2M1_OFFSET, FourBlocks, QuadBytes, Quads};
pub use scalar::Scalar;
pub use signed::SignedQuads;

/// Lanes per vector.
pub const LANES: usize = 16;

/// Vectors of sixteen f32. A value of an implementing type proves that the CPU has the instructions, so its
/// methods are safe to call; they only become fast inside [`crate::Isa::dispatch`].
pub trait Simd: Quads + SignedQuads + Send + Sync + 'static {
    /// Sixteen numbers.
    type V: Copy;

    /// The lanes of one register: the first, the second, ... [`Simd::PARTS`]th of a vector.
    type Part: Copy;

    /// Registers per vector.
    const PARTS: usize;

    /// How many vector accumulators fit into the registers beside what a product needs. Tile sizes may depend on
    /// it, results may not.
    const ACCUMULATORS: usize;

    /// Runs `work` in a function of its own, which has all registers to itself: for loops that fill them. Changes no
    /// result.
    fn apart<W: Vectorized>(self, work: W) -> W::Output;

    /// All lanes equal to `x`.
    fn splat(self, x: f32) -> Self::V;
    /// One register, all lanes equal to `x`.
    fn splat_part(self, x: f32) -> Self::Part;
    /// Register `part` of a vector in memory.
    fn load_part(self, x: &[f32; LANES], part: usize) -> Self::Part;
    /// Register `part` of a vector to memory.
    fn store_part(self, v: Self::Part, out: &mut [f32; LANES], part: usize);
    /// `a * b + c`, rounded once, of one register.
    fn fma_part(self, a: Self::Part, b: Self::Part, c: Self::Part) -> Self::Part;
    /// Sixteen numbers from memory.
    fn load(self, x: &[f32; LANES]) -> Self::V;
    /// Sixteen numbers to memory.
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of each pair; when one is NaN, `b`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each pair; when one is NaN, `b`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square roots, correctly rounded.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// The nearest integers, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `2^n` for integral `n` in -126 ..= 127.
    fn exp2_integral(self, n: Self::V) -> Self::V;
    /// Sixteen BF16 numbers, little endian.
    fn load_bf16(self, x: &[u8; 32]) -> Self::V;
    /// Sixteen E4M3 numbers divided by 256, without scale; NaN bytes give ±480 / 256.
    fn load_e4m3_over_256(self, x: &[u8; 16]) -> Self::V;
    /// Sixteen E2M1 numbers times `table`'s scale: byte `k` holds element `2k` in its low and `2k + 1` in its
    /// high nibble, and code `c` stands for lane `c` of `table`.
    fn load_e2m1(self, x: &[u8; 8], table: Self::V) -> Self::V;
    /// Thirty-two E2M1 numbers, as two times [`Simd::load_e2m1`].
    fn load_e2m1_pair(self, x: &[u8; 16], table: Self::V) -> [Self::V; 2];
    /// Integral numbers in -128 ..= 127 to memory, a byte each.
    fn store_i8(self, v: Self::V, out: &mut [i8; LANES]);
    /// Asks for the cache line at `at`, which need not exist. Changes no result.
    fn prefetch(self, at: *const u8);
    /// The same, but into the second cache level, to which more lines can be on their way at a time than to the first.
    fn prefetch_far(self, at: *const u8);
    /// The sum of all lanes: lane `i` + lane `i + 8`, then `i` + `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, v: Self::V) -> f32;
    /// [`Simd::sum`] of each vector.
    fn sum_four(self, v: [Self::V; 4]) -> [f32; 4];
    /// The largest lane.
    fn max_lane(self, v: Self::V) -> f32;

    /// The numbers `x`, at most sixteen, and `fill` in the lanes behind them.
    #[inline(always)]
    fn load_partial(self, x: &[f32], fill: f32) -> Self::V {
        if let Some(all) = x.as_array() {
            return self.load(all);
        }
        let mut lanes = [fill; LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// Sixteen E4M3 numbers, without scale; NaN bytes give ±480.
    #[inline(always)]
    fn load_e4m3(self, x: &[u8; 16]) -> Self::V {
        self.mul(self.load_e4m3_over_256(x), self.splat(256.0))
    }

    /// The first lanes to memory, as many as `out` has room for (at most sixteen).
    #[inline(always)]
    fn store_partial(self, v: Self::V, out: &mut [f32]) {
        if let Some(all) = out.as_mut_array() {
            return self.store(v, all);
        }
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }

    /// The sixteen E2M1 values, each times `scale` (exact: scales are powers of two).
    #[inline(always)]
    fn e2m1_table(self, scale: f32) -> Self::V {
        self.mul(self.load(&cuvier_tensor::formats::E2M1_VALUES), self.splat(scale))
    }

    /// `e^a`, within 2 units in the last place, with `a` first brought into -87 ..= 88. NaN stays NaN.
    #[inline(always)]
    fn exp(self, a: Self::V) -> Self::V {
        math::exp(self, a)
    }

    /// The dot product of equally long slices in the fixed order of this crate.
    #[inline(always)]
    fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        math::dot(self, a, b)
    }
}
