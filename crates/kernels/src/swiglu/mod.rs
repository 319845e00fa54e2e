//! The gated activation between the two halves of an expert.

use cuvier_tensor::{MatMut, MatRef};

mod backward;

pub use backward::swiglu_backward;

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
pub(crate) mod tests;

/// Clamped SwiGLU: `out = silu(g) * u` with `g = min(gate, limit)`, `u = clamp(up, -limit, limit)` and
/// `silu(g) = g / (1 + exp(-g))`.
///
/// | argument | shape           | dtype | unit       |
/// |----------|-----------------|-------|------------|
/// | `gate`   | `[tokens, dim]` | f32   | activation |
/// | `up`     | `[tokens, dim]` | f32   | activation |
/// | `limit`  | scalar          | f32   | bound      |
/// | `out`    | `[tokens, dim]` | f32   | activation |
///
/// Each operation in f32, rounded once; `exp` is [`Simd::exp`]. The gate is clamped from above only, and clamping
/// comes before `silu`. Elements do not depend on each other.
///
/// Source: DeepSeek-V4 `inference/model.py`, `Expert.forward`.
///
/// # Panics
/// If the shapes disagree.
pub fn swiglu(c: &Compute, gate: MatRef<'_>, up: MatRef<'_>, limit: f32, out: MatMut<'_>) {
    let shape = (out.rows(), out.cols());
    assert_eq!((gate.rows(), gate.cols()), shape, "gate");
    assert_eq!((up.rows(), up.cols()), shape, "up");
    let out = DisjointRows::new(out.into_data(), shape.1);
    // An element takes about as long as ten products; a thread is woken for 2^14 of them.
    let min_len = (1 << 14) / shape.1.max(1);
    c.for_each_range(shape.0, min_len, |tokens| {
        for t in tokens {
            // SAFETY: each token lies in one range only.
            let out = unsafe { out.part(t, 0..shape.1) };
            c.isa().dispatch(SwigluRow { gate: gate.row(t), up: up.row(t), limit, weight: 1.0, out });
        }
    });
}

/// `out = weight * swiglu(gate, up)` of one row: the product is rounded by itself, after [`swiglu`]'s steps.
pub(crate) struct SwigluRow<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub limit: f32,
    pub weight: f32,
    pub out: &'a mut [f32],
}

impl Vectorized for SwigluRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gate, gate_tail) = self.gate.as_chunks::<LANES>();
        let (up, up_tail) = self.up.as_chunks::<LANES>();
        let (out, out_tail) = self.out.as_chunks_mut::<LANES>();
        let (limit, weight) = (s.splat(self.limit), s.splat(self.weight));
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            s.store(s.mul(weight, lanes(s, s.load(gate), s.load(up), limit)), out);
        }
        if !out_tail.is_empty() {
            let v = lanes(s, s.load_partial(gate_tail, 0.0), s.load_partial(up_tail, 0.0), limit);
            s.store_partial(s.mul(weight, v), out_tail);
        }
    }
}

#[inline(always)]
fn lanes<S: Simd>(s: S, gate: S::V, up: S::V, limit: S::V) -> S::V {
    let zero = s.splat(0.0);
    // `min` and `max` hand back their second argument for NaN, so NaN passes through.
    let g = s.min(limit, gate);
    let u = s.max(s.sub(zero, limit), s.min(limit, up));
    let silu = s.div(g, s.add(s.splat(1.0), s.exp(s.sub(zero, g))));
    s.mul(silu, u)
}
