//! What this machine can do at most, measured: the roof that every speed is a share of.

use std::hint::black_box;
use std::time::{Duration, Instant};

use cuvier_tensor::prefer_huge_pages;

use crate::simd::{LANES, Simd};
use crate::{Compute, Vectorized};

/// Measured limits of one [`Compute`], of all threads together. A multiply-add counts as two operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roof {
    /// Bytes read from memory per second.
    pub memory_bytes_per_s: f64,
    /// f32 operations per second.
    pub flops_per_s: f64,
    /// Operations per second of products with eight-bit weights, exact sums included.
    pub int8_ops_per_s: f64,
    /// The same of products with FP4 weights whose codes are at hand; a scale for every 32 columns included.
    pub fp4_ops_per_s: f64,
}

/// Operations of some work by what they run on, a multiply-add counted as two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Operations {
    /// In f32.
    pub f32: f64,
    /// Products with eight-bit weights.
    pub int8: f64,
    /// Products with FP4 weights or keys.
    pub fp4: f64,
}

impl Roof {
    /// The least time that `operations` take one after the other, if nothing else is to be done.
    pub fn seconds(&self, operations: &Operations) -> f64 {
        let Operations { f32, int8, fp4 } = operations;
        f32 / self.flops_per_s + int8 / self.int8_ops_per_s + fp4 / self.fp4_ops_per_s
    }
}

/// Bytes of the buffer that is read: far beyond any cache of a core.
const BUFFER_BYTES: usize = 512 << 20;
const ROUNDS: usize = 5;

/// Measures all limits, the best of several rounds each; takes about a second.
pub fn measure_roof(c: &Compute) -> Roof {
    // As weights lie: small pages give less.
    let mut buffer = Vec::with_capacity(BUFFER_BYTES / 4);
    prefer_huge_pages(buffer.spare_capacity_mut());
    buffer.resize(BUFFER_BYTES / 4, 1.0f32);
    let tasks = c.threads() * 8;
    let part = buffer.len() / tasks / LANES * LANES;
    let read = best(|| {
        c.for_each(tasks, |i| {
            black_box(c.isa().dispatch(Read(&buffer[i * part..(i + 1) * part])));
        });
    });
    drop(buffer);
    let quads = vec![[0; 4]; QUADS];
    let flops = 2 * MULTIPLY_ROUNDS * CHAINS_MAX * LANES;
    let ops = 2 * QUAD_ROUNDS * QUADS * 4 * LANES;
    Roof {
        memory_bytes_per_s: (tasks * part * 4) as f64 / read.as_secs_f64(),
        flops_per_s: per_second(c, flops, || Multiply),
        int8_ops_per_s: per_second(c, ops, || MultiplySigned(black_box(&quads))),
        fp4_ops_per_s: per_second(c, ops, || MultiplyFp4(black_box(&quads))),
    }
}

/// How many operations per second there are, if every thread does `work`, which is `operations`.
fn per_second<W: Vectorized>(c: &Compute, operations: usize, work: impl Fn() -> W + Sync) -> f64 {
    let time = best(|| {
        c.for_each(c.threads(), |_| {
            black_box(c.isa().dispatch(work()));
        });
    });
    (c.threads() * operations) as f64 / time.as_secs_f64()
}

fn best(mut run: impl FnMut()) -> Duration {
    let mut time = || {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..ROUNDS).map(|_| time()).min().expect("there is at least one round")
}

/// Reads every number once; the additions cost nothing beside the memory.
struct Read<'a>(&'a [f32]);

impl Vectorized for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 8];
        let (vectors, _) = self.0.as_chunks::<LANES>();
        for group in vectors.chunks_exact(8) {
            for (sum, vector) in sums.iter_mut().zip(group) {
                *sum = s.add(*sum, s.load(vector));
            }
        }
        sums.iter().map(|&sum| s.sum(sum)).sum()
    }
}

const MULTIPLY_ROUNDS: usize = 2_000_000;
/// Independent chains: enough to fill two pipelines of latency four, where they stay in registers.
const CHAINS_MAX: usize = 12;

struct Multiply;

impl Vectorized for Multiply {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        if S::ACCUMULATORS >= CHAINS_MAX { multiply::<S, CHAINS_MAX>(s) } else { multiply::<S, 4>(s) }
    }
}

/// As many multiplications, in `N` chains.
#[inline(always)]
fn multiply<S: Simd, const N: usize>(s: S) -> f32 {
    let mut sums = [s.splat(1.0); N];
    let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
    for _ in 0..MULTIPLY_ROUNDS * CHAINS_MAX / N {
        for sum in &mut sums {
            *sum = s.fma(*sum, a, b);
        }
    }
    sums.iter().map(|&sum| s.sum(sum)).sum()
}

/// Quads of activations: they stay in the first cache level, and are too many to be multiplied beforehand.
const QUADS: usize = 1 << 10;
const QUAD_ROUNDS: usize = 1 << 13;

/// Products of quads with eight-bit weights that stay in registers, a few tokens side by side as in `int8`.
struct MultiplySigned<'a>(&'a [[i8; 4]]);

impl Vectorized for MultiplySigned<'_> {
    type Output = [i32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [i32; LANES] {
        if S::ACCUMULATORS >= 16 { self.tokens::<S, 16>(s) } else { self.tokens::<S, 4>(s) }
    }
}

impl MultiplySigned<'_> {
    #[inline(always)]
    fn tokens<S: Simd, const T: usize>(self, s: S) -> [i32; LANES] {
        let w = s.load_signed(&black_box([[1; 4]; LANES]));
        let mut sums = [s.start_signed(0); T];
        for _ in 0..QUAD_ROUNDS {
            for x in self.0.as_chunks::<T>().0 {
                for (sum, &x) in sums.iter_mut().zip(x) {
                    *sum = s.multiply_signed(*sum, w, x);
                }
            }
        }
        stored(s, sums)
    }
}

/// Products of quads with FP4 weights that stay in registers, a few tokens side by side as in `fp4`.
struct MultiplyFp4<'a>(&'a [[i8; 4]]);

/// Quads that share a scale.
const SCALE_QUADS: usize = 8;

impl Vectorized for MultiplyFp4<'_> {
    type Output = [i32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [i32; LANES] {
        if S::ACCUMULATORS >= 16 { self.tokens::<S, 8>(s) } else { self.tokens::<S, 2>(s) }
    }
}

impl MultiplyFp4<'_> {
    #[inline(always)]
    fn tokens<S: Simd, const T: usize>(self, s: S) -> [i32; LANES] {
        let w = s.load_quad(&black_box([1; 4 * LANES]));
        let ([multiplier, ..], _) = s.block_scales(s.load_quad(&black_box([127; 4 * LANES])));
        let mut totals = [s.zero_int(); T];
        for _ in 0..QUAD_ROUNDS {
            for x in self.0.as_chunks::<SCALE_QUADS>().0.as_chunks::<T>().0 {
                let mut sums = [s.start(0); T];
                for i in 0..SCALE_QUADS {
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum = s.multiply(*sum, w, x[i]);
                    }
                }
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = s.add_scaled(*total, sum, multiplier);
                }
            }
        }
        stored(s, totals)
    }
}

/// All of `sums` to memory; the last one is returned.
#[inline(always)]
fn stored<S: Simd, const T: usize>(s: S, sums: [S::Int; T]) -> [i32; LANES] {
    let mut out = [0; LANES];
    for sum in sums {
        s.store_int(sum, &mut out);
        black_box(&out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use std::num::NonZeroUsize;

    #[test]
    fn a_roof_is_positive_and_finite() {
        let c = Compute::new(Isa::best(), NonZeroUsize::MIN).expect("one thread needs no pool");
        let roof = measure_roof(&c);
        let Roof { memory_bytes_per_s, flops_per_s, int8_ops_per_s, fp4_ops_per_s } = roof;
        for limit in [memory_bytes_per_s, flops_per_s, int8_ops_per_s, fp4_ops_per_s] {
            assert!(limit > 1e8 && limit.is_finite(), "{roof:?}");
        }
    }

    #[test]
    fn each_kind_of_operation_takes_the_time_of_its_own_roof() {
        let roof =
            Roof { memory_bytes_per_s: 1.0, flops_per_s: 10.0, int8_ops_per_s: 20.0, fp4_ops_per_s: 40.0 };
        assert_eq!(roof.seconds(&Operations { f32: 5.0, int8: 20.0, fp4: 80.0 }), 0.5 + 1.0 + 2.0);
    }
}
