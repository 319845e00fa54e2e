//! What this machine can do at most, measured: the roof that every speed is a share of.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::simd::{LANES, Simd};
use crate::{Compute, Vectorized};

/// Measured limits of one [`Compute`].
#[derive(Clone, Copy, Debug)]
pub struct Roof {
    /// Bytes per second that all threads together read from memory.
    pub memory_bytes_per_s: f64,
    /// f32 operations per second of all threads together, a fused multiply-add counted as two.
    pub flops_per_s: f64,
}

/// Bytes of the buffer that is read: far beyond any cache of a core.
const BUFFER_BYTES: usize = 512 << 20;
const ROUNDS: usize = 5;

/// Measures both limits, the best of several rounds each; takes about a second.
pub fn measure_roof(c: &Compute) -> Roof {
    let buffer = vec![1.0f32; BUFFER_BYTES / 4];
    let tasks = c.threads() * 8;
    let part = buffer.len() / tasks / LANES * LANES;
    let read = best(|| {
        c.for_each(tasks, |i| {
            black_box(c.isa().dispatch(Read(&buffer[i * part..(i + 1) * part])));
        });
    });
    drop(buffer);
    let threads = c.threads();
    let computed = best(|| {
        c.for_each(threads, |_| {
            black_box(c.isa().dispatch(Multiply));
        });
    });
    Roof {
        memory_bytes_per_s: (tasks * part * 4) as f64 / read.as_secs_f64(),
        flops_per_s: (threads * MULTIPLY_ROUNDS * CHAINS_MAX * LANES * 2) as f64 / computed.as_secs_f64(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use std::num::NonZeroUsize;

    #[test]
    fn a_roof_is_positive_and_finite() {
        let c = Compute::new(Isa::best(), NonZeroUsize::MIN).expect("one thread needs no pool");
        let roof = measure_roof(&c);
        assert!(roof.memory_bytes_per_s > 1e8 && roof.memory_bytes_per_s.is_finite(), "{roof:?}");
        assert!(roof.flops_per_s > 1e8 && roof.flops_per_s.is_finite(), "{roof:?}");
    }
}
