//! The gradient of routing, and the loss that keeps the experts of a sequence in balance.

use std::ops::Range;

use cuvier_tensor::{MatMut, MatRef, Matrix};

use super::{Routing, SUM_EPS};
use crate::isa::Vectorized;
use crate::router::score::score;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows, Isa};

#[cfg(test)]
mod tests;

/// Logits per task, at least.
const LOGITS_PER_TASK_MIN: usize = 1 << 12;

/// Gradient of [`route_by_score`](crate::route_by_score()) and [`route_by_hash`](crate::route_by_hash()) for the logits:
/// with `s = sqrt(softplus(z))` and the sums over a token's chosen experts,
///
/// ```text
/// ds_i = factor * (dw_i - sum_j dw_j s_j / sum_j s_j) / sum_j s_j        dz_i = ds_i * sigmoid(z_i) / (2 s_i)
/// ```
///
/// | argument   | shape               | dtype | unit |
/// |------------|---------------------|-------|------|
/// | `logits`   | `[tokens, experts]` | f32   | router projection of the token |
/// | `routing`  | `[tokens, k]`       |       | what was chosen |
/// | `dweights` | `[tokens, k]`       | f32   | gradient of the weights |
/// | `dlogits`  | `[tokens, experts]` | f32   | added to |
///
/// The choice itself has no gradient, and so has the bias.
///
/// Source: derivative of DeepSeek-V4 `inference/model.py`, `Gate.forward`.
///
/// # Panics
/// If the shapes disagree.
pub fn route_backward(
    c: &Compute,
    logits: MatRef<'_>,
    routing: &Routing,
    routed_scaling_factor: f32,
    dweights: &Matrix,
    dlogits: MatMut<'_>,
) {
    let (rows, n_experts) = (logits.rows(), logits.cols());
    assert_eq!((dlogits.rows(), dlogits.cols()), (rows, n_experts), "a gradient per logit");
    assert_eq!((routing.ids.rows(), dweights.rows()), (rows, rows), "tokens");
    let dlogits = DisjointRows::new(dlogits.into_data(), n_experts);
    c.for_each_range(rows, LOGITS_PER_TASK_MIN / n_experts.max(1), |rows| {
        let (mut scores, mut slopes) = (vec![0.0; n_experts], vec![0.0; n_experts]);
        for row in rows {
            scores_and_slopes(c.isa(), logits.row(row), &mut scores, &mut slopes);
            // SAFETY: each row belongs to exactly one range.
            let dlogits = unsafe { dlogits.part(row, 0..n_experts) };
            let (ids, dweights) = (routing.ids.row(row), dweights.row(row));
            let of = |id: &u16| usize::from(*id);
            let sum = ids.iter().map(|id| scores[of(id)]).sum::<f32>() + SUM_EPS;
            let mean = ids.iter().zip(dweights).map(|(id, dw)| dw * scores[of(id)]).sum::<f32>() / sum;
            for (id, dw) in ids.iter().zip(dweights) {
                dlogits[of(id)] += routed_scaling_factor * (dw - mean) / sum * slopes[of(id)];
            }
        }
    });
}

/// The sequence-wise balance loss of routers that choose by score, and its gradient for the logits. For a sequence of
/// `T` tokens and `E` experts, `k` of them chosen for each token:
///
/// ```text
/// f_i = E / (k T) * (tokens whose k largest scores contain i's)        no gradient
/// P_i = 1/T * sum over t of s_ti / sum_j s_tj
/// loss = sum over i of f_i P_i                                         1 at perfect balance
/// ```
///
/// | argument    | shape               | dtype | unit |
/// |-------------|---------------------|-------|------|
/// | `logits`    | `[tokens, experts]` | f32   | router projection of the token |
/// | `sequences` | `[sequences]`       |       | the rows of each sequence |
/// | `k`         | scalar              |       | experts per token |
/// | `weights`   | `[sequences]`       | f32   | factor of each sequence's loss in the gradient |
/// | `dlogits`   | `[tokens, experts]` | f32   | added to |
/// | result      | `[sequences]`       | f32   | the losses, without their factors |
///
/// Source: DeepSeek-V3 report, section on load balancing, whose scores V4 replaces by `sqrt(softplus)`.
///
/// # Panics
/// If the shapes disagree or sequences overlap.
pub fn balance_backward(
    c: &Compute,
    logits: MatRef<'_>,
    sequences: &[Range<usize>],
    k: usize,
    weights: &[f32],
    dlogits: MatMut<'_>,
) -> Vec<f32> {
    let n_experts = logits.cols();
    assert_eq!((dlogits.rows(), dlogits.cols()), (logits.rows(), n_experts), "a gradient per logit");
    assert_eq!(sequences.len(), weights.len(), "a factor per sequence");
    assert!(sequences.windows(2).all(|pair| pair[0].end <= pair[1].start), "sequences in order");
    let mut losses = vec![0.0; sequences.len()];
    let each_loss = DisjointRows::new(&mut losses, 1);
    let dlogits = DisjointRows::new(dlogits.into_data(), n_experts);
    c.for_each(sequences.len(), |index| {
        let rows = sequences[index].clone();
        // SAFETY: each sequence is one task, and no row is in two.
        let (loss, dlogits) = unsafe { (&mut each_loss.part(index, 0..1)[0], dlogits.rows(rows.clone())) };
        *loss = balance_of_sequence(c.isa(), logits, rows, k, weights[index], dlogits);
    });
    losses
}

fn balance_of_sequence(
    isa: Isa,
    logits: MatRef<'_>,
    rows: Range<usize>,
    k: usize,
    weight: f32,
    dlogits: &mut [f32],
) -> f32 {
    let (n_experts, n_tokens) = (logits.cols(), rows.len() as f32);
    let (mut scores, mut slopes) = (vec![0.0; n_experts], vec![0.0; n_experts]);
    let (mut counts, mut shares) = (vec![0.0; n_experts], vec![0.0; n_experts]);
    let mut order: Vec<usize> = Vec::new();
    for row in rows.clone() {
        scores_and_slopes(isa, logits.row(row), &mut scores, &mut slopes);
        let sum = scores.iter().sum::<f32>() + SUM_EPS;
        shares.iter_mut().zip(&scores).for_each(|(share, score)| *share += score / sum / n_tokens);
        order.clear();
        order.extend(0..n_experts);
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        for &expert in &order[..k.min(n_experts)] {
            counts[expert] += n_experts as f32 / (k as f32 * n_tokens);
        }
    }
    for (row, dlogits) in rows.zip(dlogits.chunks_exact_mut(n_experts)) {
        scores_and_slopes(isa, logits.row(row), &mut scores, &mut slopes);
        let sum = scores.iter().sum::<f32>() + SUM_EPS;
        let mean = scores.iter().zip(&counts).map(|(s, f)| s * f).sum::<f32>() / sum;
        for ((dlogit, f), slope) in dlogits.iter_mut().zip(&counts).zip(&slopes) {
            *dlogit += weight / n_tokens * (f - mean) / sum * slope;
        }
    }
    counts.iter().zip(&shares).map(|(f, share)| f * share).sum()
}

/// `s = sqrt(softplus(z))` and `ds/dz = sigmoid(z) / (2 s)` of each logit.
fn scores_and_slopes(isa: Isa, logits: &[f32], scores: &mut [f32], slopes: &mut [f32]) {
    isa.dispatch(Scores { logits, scores, slopes });
}

struct Scores<'a> {
    logits: &'a [f32],
    scores: &'a mut [f32],
    slopes: &'a mut [f32],
}

impl Vectorized for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (one, zero) = (s.splat(1.0), s.splat(0.0));
        let parts =
            self.logits.chunks(LANES).zip(self.scores.chunks_mut(LANES)).zip(self.slopes.chunks_mut(LANES));
        for ((logits, scores), slopes) in parts {
            let z = s.load_partial(logits, 0.0);
            let of = score(s, z);
            let sigmoid = s.div(one, s.add(one, s.exp(s.sub(zero, z))));
            // A score of zero has no slope, rather than an infinite one.
            let slope = s.div(sigmoid, s.max(s.add(of, of), s.splat(1e-19)));
            s.store_partial(of, scores);
            s.store_partial(slope, slopes);
        }
    }
}
