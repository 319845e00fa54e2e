//! How far a prediction is from a teacher's, and the gradient of that.

use cuvier_tensor::{MatMut, MatRef};

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

#[cfg(test)]
mod tests;

/// Divergence of a student from a teacher over the whole vocabulary: `KL(p || q) = sum over v of p_v (ln p_v - ln q_v)` with
/// `p = softmax(logits[t])` and `q = softmax(teacher[t])`, and the logits replaced by their gradient,
/// `weights[t] * p_v (ln p_v - ln q_v - KL)`. The teacher has no gradient.
///
/// | argument  | shape           | dtype | unit |
/// |-----------|-----------------|-------|------|
/// | `logits`  | `[rows, vocab]` | f32   | the student's; become their gradient |
/// | `teacher` | `[rows, vocab]` | f32   | logits |
/// | `weights` | `[rows]`        | f32   | factor of the row's divergence in the gradient; the divergence itself is without it |
/// | result    | `[rows]`        | f32   | nats |
///
/// Sums in f32 in the order of sixteen lanes, maxima first.
///
/// Source: DeepSeek-V4 report, section on on-policy distillation.
///
/// # Panics
/// If the shapes disagree.
pub fn divergence(c: &Compute, logits: MatMut<'_>, teacher: MatRef<'_>, weights: &[f32]) -> Vec<f32> {
    let (rows, vocab) = (logits.rows(), logits.cols());
    assert_eq!((teacher.rows(), weights.len()), (rows, rows), "a teacher's row and a weight per row");
    assert!(rows == 0 || teacher.cols() == vocab, "a teacher of the same vocabulary");
    let mut divergences = vec![0.0; rows];
    let each = DisjointRows::new(&mut divergences, 1);
    let logits = DisjointRows::new(logits.into_data(), vocab);
    c.for_each_range(rows, (1 << 12) / vocab.max(1), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let (own, logits) = unsafe { (each.part(row, 0..1), logits.part(row, 0..vocab)) };
            own[0] = c.isa().dispatch(Row { logits, teacher: teacher.row(row), weight: weights[row] });
        }
    });
    divergences
}

struct Row<'a> {
    logits: &'a mut [f32],
    teacher: &'a [f32],
    weight: f32,
}

impl Vectorized for Row<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let Self { logits, teacher, weight } = self;
        let (p_max, p_sum) = normaliser(s, logits);
        let (q_max, q_sum) = normaliser(s, teacher);
        // ln p - ln q = z - y less this.
        let shift = s.splat((p_max + p_sum.ln()) - (q_max + q_sum.ln()));
        let (p_max, by) = (s.splat(p_max), s.splat(1.0 / p_sum));
        let mut sum = s.splat(0.0);
        for (z, y) in logits.chunks(LANES).zip(teacher.chunks(LANES)) {
            let (z, y) = (s.load_partial(z, f32::NEG_INFINITY), s.load_partial(y, f32::NEG_INFINITY));
            let p = s.mul(by, s.exp(s.sub(z, p_max)));
            // Lanes behind the last logit differ by nothing, once they are brought to numbers.
            let apart = s.sub(s.sub(s.max(z, s.splat(f32::MIN)), s.max(y, s.splat(f32::MIN))), shift);
            sum = s.add(sum, s.mul(p, apart));
        }
        let divergence = s.sum(sum);
        let (mean, weight) = (s.splat(divergence), s.splat(weight));
        for (z, y) in logits.chunks_mut(LANES).zip(teacher.chunks(LANES)) {
            let (student, teacher) = (s.load_partial(z, 0.0), s.load_partial(y, 0.0));
            let p = s.mul(by, s.exp(s.sub(student, p_max)));
            let apart = s.sub(s.sub(student, teacher), shift);
            s.store_partial(s.mul(weight, s.mul(p, s.sub(apart, mean))), z);
        }
        divergence
    }
}

/// The largest logit, and the sum of the others' exponentials relative to it.
#[inline(always)]
fn normaliser<S: Simd>(s: S, logits: &[f32]) -> (f32, f32) {
    let mut max = s.splat(f32::NEG_INFINITY);
    for logits in logits.chunks(LANES) {
        max = s.max(s.load_partial(logits, f32::NEG_INFINITY), max);
    }
    let max = s.max_lane(max);
    let mut sum = s.splat(0.0);
    for logits in logits.chunks(LANES) {
        // Lanes behind the last logit hold e^-87, which is nothing beside the largest, 1.
        sum = s.add(sum, s.exp(s.sub(s.load_partial(logits, f32::NEG_INFINITY), s.splat(max))));
    }
    (max, s.sum(sum))
}
