//! The loss of a prediction, and its gradient.

use cuvier_tensor::MatMut;

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

#[cfg(test)]
mod tests;

/// Cross entropy: `loss[t] = ln(sum over v of e^z_tv) - z_tj` for the target `j` of row `t`, and the logits replaced by
/// their gradient, `weights[t] * (softmax(z_t) - 1 at j)`.
///
/// | argument  | shape           | dtype | unit |
/// |-----------|-----------------|-------|------|
/// | `logits`  | `[rows, vocab]` | f32   | logits; become their gradient |
/// | `targets` | `[rows]`        | u32   | the token that came |
/// | `weights` | `[rows]`        | f32   | factor of the row's loss in the gradient; the loss itself is without it |
/// | result    | `[rows]`        | f32   | nats |
///
/// Sums in f32 in the order of sixteen lanes, maximum first.
///
/// # Panics
/// If the shapes disagree or a target is not in the vocabulary.
pub fn cross_entropy(c: &Compute, logits: MatMut<'_>, targets: &[u32], weights: &[f32]) -> Vec<f32> {
    let (rows, vocab) = (logits.rows(), logits.cols());
    assert_eq!((targets.len(), weights.len()), (rows, rows), "a target and a weight per row");
    assert!(targets.iter().all(|&target| (target as usize) < vocab), "targets in a vocabulary of {vocab}");
    let mut losses = vec![0.0; rows];
    let each_loss = DisjointRows::new(&mut losses, 1);
    let logits = DisjointRows::new(logits.into_data(), vocab);
    c.for_each_range(rows, (1 << 13) / vocab.max(1), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let (loss, logits) = unsafe { (each_loss.part(row, 0..1), logits.part(row, 0..vocab)) };
            loss[0] = c.isa().dispatch(Row { logits, target: targets[row] as usize, weight: weights[row] });
        }
    });
    losses
}

struct Row<'a> {
    logits: &'a mut [f32],
    target: usize,
    weight: f32,
}

impl Vectorized for Row<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let Self { logits, target, weight } = self;
        let mut max = s.splat(f32::NEG_INFINITY);
        for logits in logits.chunks(LANES) {
            max = s.max(s.load_partial(logits, f32::NEG_INFINITY), max);
        }
        let max = s.max_lane(max);
        let of_target = logits[target] - max;
        let mut sum = s.splat(0.0);
        for logits in logits.chunks_mut(LANES) {
            let e = s.exp(s.sub(s.load_partial(logits, f32::NEG_INFINITY), s.splat(max)));
            s.store_partial(e, logits);
            // Lanes behind the last logit hold e^-87, which is nothing beside the largest, 1.
            sum = s.add(sum, e);
        }
        let sum = s.sum(sum);
        let by = s.splat(weight / sum);
        for logits in logits.chunks_mut(LANES) {
            s.store_partial(s.mul(by, s.load_partial(logits, 0.0)), logits);
        }
        logits[target] -= weight;
        sum.ln() - of_target
    }
}
