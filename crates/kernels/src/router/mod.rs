//! Which experts a token goes to, and with what weight.

use cuvier_tensor::{MatRef, Matrix};

mod backward;

pub use backward::{balance_backward, route_backward};

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows, Lent};

#[cfg(test)]
mod reference;
mod score;
#[cfg(test)]
mod tests;

use score::score;

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
    pub ids: Lent<u16>,
    /// The weight of the expert at the same place in `ids`.
    pub weights: Lent,
}

/// Routes by learned scores: the `k` experts with the largest `score + bias`.
///
/// | argument  | shape               | dtype | unit |
/// |-----------|---------------------|-------|------|
/// | `logits`  | `[tokens, experts]` | f32   | router projection of the token |
/// | `bias`    | `[experts]`         | f32   | added for the selection only |
///
/// `score = sqrt(softplus(logit))` in f32, within three units in the last place, and 0 below -88. Selection is by the
/// f32 sum `score + bias`; of equal sums the lower expert is taken, and NaN counts as less than every number. Weights
/// are the scores without
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
    route(c, logits, k, routed_scaling_factor, |row, ids, keys| {
        c.isa().dispatch(SelectLargest { logits: logits.row(row), bias, ids, keys });
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
    route(c, logits, tid2eid.cols(), routed_scaling_factor, |row, ids, _| {
        ids.copy_from_slice(tid2eid.row(tokens[row] as usize));
    })
}

/// Fills `ids` by `choose(row, ids, scratch)`, sorts them and weighs them.
fn route(
    c: &Compute,
    logits: MatRef<'_>,
    k: usize,
    factor: f32,
    choose: impl Fn(usize, &mut [u16], &mut [f32]) + Sync,
) -> Routing {
    let (mut ids, mut weights) = (c.matrix(logits.rows(), k), c.matrix(logits.rows(), k));
    if k > 0 {
        let (ids, weights) = (DisjointRows::new(ids.data_mut(), k), DisjointRows::new(weights.data_mut(), k));
        c.for_each_range(logits.rows(), SCORES_PER_TASK_MIN.div_ceil(logits.cols().max(1)), |rows| {
            for row in rows {
                // SAFETY: each row belongs to exactly one range.
                let (ids, weights) = unsafe { (ids.part(row, 0..k), weights.part(row, 0..k)) };
                choose(row, ids, weights);
                ids.sort_unstable();
                c.isa().dispatch(Weigh { logits: logits.row(row), ids, factor, weights });
            }
        });
    }
    Routing { ids, weights }
}

/// The weights of the chosen experts.
struct Weigh<'a> {
    logits: &'a [f32],
    ids: &'a [u16],
    factor: f32,
    weights: &'a mut [f32],
}

impl Vectorized for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sum = 0.0;
        for (ids, weights) in self.ids.chunks(LANES).zip(self.weights.chunks_mut(LANES)) {
            for (weight, &id) in weights.iter_mut().zip(ids) {
                *weight = self.logits[usize::from(id)];
            }
            s.store_partial(score(s, s.load_partial(weights, 0.0)), weights);
            for weight in weights {
                sum += *weight;
            }
        }
        for weight in self.weights {
            *weight = *weight / (sum + SUM_EPS) * self.factor;
        }
    }
}

/// The places of the largest `score + bias`, as many as `ids` has room for, and these sums: largest first; of equal
/// ones the first place; NaN is the least.
struct SelectLargest<'a> {
    logits: &'a [f32],
    bias: &'a [f32],
    ids: &'a mut [u16],
    keys: &'a mut [f32],
}

impl Vectorized for SelectLargest<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let k = self.ids.len();
        let mut len = 0;
        for (chunk, (logits, bias)) in self.logits.chunks(LANES).zip(self.bias.chunks(LANES)).enumerate() {
            let scores = score(s, s.load_partial(logits, 0.0));
            let key = s.add(scores, s.load_partial(bias, 0.0));
            // NaN becomes the least key; the lanes behind the last expert are not looked at.
            let key = s.max(key, s.splat(f32::NEG_INFINITY));
            let mut keys = [0.0; LANES];
            s.store(key, &mut keys);
            if len == k && s.max_lane(key) <= self.keys[k - 1] {
                continue;
            }
            for (lane, &key) in keys[..logits.len()].iter().enumerate() {
                if len == k && key <= self.keys[k - 1] {
                    continue;
                }
                len = k.min(len + 1);
                let mut place = len - 1;
                while place > 0 && key > self.keys[place - 1] {
                    (self.keys[place], self.ids[place]) = (self.keys[place - 1], self.ids[place - 1]);
                    place -= 1;
                }
                (self.keys[place], self.ids[place]) = (key, (chunk * LANES + lane) as u16);
            }
        }
    }
}
