//! Which experts a token goes to, and with what weight.

use cuvier_tensor::{MatRef, Matrix};

use crate::{Compute, DisjointRows};

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// Fewer scores than this are not worth a second thread.
const SCORES_PER_TASK_MIN: usize = 1 << 11;

/// Added to the sum that weights are divided by, so that scores of zero give weights of zero.
const SUM_EPS: f32 = 1e-20;

/// The experts of each token.
///
/// | field     | shape         | dtype | unit |
/// |-----------|---------------|-------|------|
/// | `ids`     | `[tokens, k]` | u16   | expert, ascending in each row |
/// | `weights` | `[tokens, k]` | f32   | factor of that expert's output |
///
/// Ascending, because a sum over experts is not associative in f32: a fixed order makes it the same however the
/// experts were found.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Routing {
    /// Experts, ascending in each row.
    pub ids: Matrix<u16>,
    /// The weight of the expert at the same place in `ids`.
    pub weights: Matrix<f32>,
}

/// Routes by learned scores: the `k` experts with the largest `score + bias`.
///
/// | argument  | shape               | dtype | unit |
/// |-----------|---------------------|-------|------|
/// | `logits`  | `[tokens, experts]` | f32   | router projection of the token |
/// | `bias`    | `[experts]`         | f32   | added for the selection only |
///
/// `score = sqrt(softplus(logit))`, in f64, rounded to f32 once. Selection is by the f32 sum `score + bias`; of
/// equal sums the lower expert is taken, and NaN counts as less than every number. Weights are the scores without
/// bias divided by their sum plus 1e-20 and times `routed_scaling_factor`, in f32, summed in ascending expert.
///
/// Source: DeepSeek-V4 `inference/model.py`, `Gate.forward`; the 1e-20 is transformers'.
///
/// # Panics
/// If `bias` is not one per expert, there are fewer than `k` experts or more than 65,536.
pub fn route_by_score(
    c: &Compute,
    logits: MatRef<'_>,
    bias: &[f32],
    k: usize,
    routed_scaling_factor: f32,
) -> Routing {
    assert_eq!(bias.len(), logits.cols(), "a bias per expert");
    assert!(k <= logits.cols() && logits.cols() <= 1 << 16, "{k} of {} experts", logits.cols());
    route(c, logits, k, routed_scaling_factor, |_, logits, ids| {
        let keys = logits.iter().zip(bias).map(|(&logit, &bias)| score(logit) + bias);
        select_largest(keys, ids);
    })
}

/// Routes by a table of the token's id; the weights still come from the scores.
///
/// | argument  | shape               | dtype | unit |
/// |-----------|---------------------|-------|------|
/// | `logits`  | `[tokens, experts]` | f32   | router projection of the token |
/// | `tid2eid` | `[vocab, k]`        | u16   | experts of each token id |
/// | `tokens`  | `[tokens]`          | u32   | token id |
///
/// Scores and weights as in [`route_by_score`].
///
/// Source: DeepSeek-V4 `inference/model.py`, `Gate.forward`, layers with a hash table.
///
/// # Panics
/// If there is not one token per row, or the table lacks a token or names an expert that does not exist.
pub fn route_by_hash(
    c: &Compute,
    logits: MatRef<'_>,
    tid2eid: &Matrix<u16>,
    tokens: &[u32],
    routed_scaling_factor: f32,
) -> Routing {
    assert_eq!(tokens.len(), logits.rows(), "a token per row");
    route(c, logits, tid2eid.cols(), routed_scaling_factor, |row, _, ids| {
        ids.copy_from_slice(tid2eid.row(tokens[row] as usize));
    })
}

/// Fills `ids` by `choose(row, logits, ids)`, sorts them and weighs them.
fn route(
    c: &Compute,
    logits: MatRef<'_>,
    k: usize,
    factor: f32,
    choose: impl Fn(usize, &[f32], &mut [u16]) + Sync,
) -> Routing {
    let (mut ids, mut weights) = (Matrix::zeros(logits.rows(), k), Matrix::zeros(logits.rows(), k));
    if k > 0 {
        let (ids, weights) = (DisjointRows::new(ids.data_mut(), k), DisjointRows::new(weights.data_mut(), k));
        c.for_each_range(logits.rows(), SCORES_PER_TASK_MIN.div_ceil(logits.cols().max(1)), |rows| {
            for row in rows {
                // SAFETY: each row belongs to exactly one range.
                let (ids, weights) = unsafe { (ids.part(row, 0..k), weights.part(row, 0..k)) };
                choose(row, logits.row(row), ids);
                ids.sort_unstable();
                weigh(logits.row(row), ids, factor, weights);
            }
        });
    }
    Routing { ids, weights }
}

/// The weights of the chosen experts.
fn weigh(logits: &[f32], ids: &[u16], factor: f32, weights: &mut [f32]) {
    let mut sum = 0.0;
    for (weight, &id) in weights.iter_mut().zip(ids) {
        *weight = score(logits[usize::from(id)]);
        sum += *weight;
    }
    for weight in weights {
        *weight = *weight / (sum + SUM_EPS) * factor;
    }
}

/// `sqrt(ln(1 + e^logit))`.
fn score(logit: f32) -> f32 {
    let z = f64::from(logit);
    // Above 20 the difference is far below an f32's last bit; and e^z would overflow.
    let softplus = if z > 20.0 { z } else { z.exp().ln_1p() };
    softplus.sqrt() as f32
}

/// The places of the largest keys, as many as `ids` has room for; of equal keys the first; NaN is the least.
fn select_largest(keys: impl Iterator<Item = f32>, ids: &mut [u16]) {
    let k = ids.len();
    let mut best: Vec<(f32, u16)> = Vec::with_capacity(k + 1);
    for (id, key) in (0..=u16::MAX).zip(keys) {
        let key = if key.is_nan() { f32::NEG_INFINITY } else { key };
        if best.len() == k && best.last().is_none_or(|&(least, _)| key <= least) {
            continue;
        }
        let place = best.partition_point(|&(other, _)| other >= key);
        best.insert(place, (key, id));
        best.truncate(k);
    }
    for (id, (_, chosen)) in ids.iter_mut().zip(best) {
        *id = chosen;
    }
}
