//! Which tokens may be drawn: `top_k`, `top_p`, `min_p`, in this order.

use std::cmp::Ordering;

use cuvier_types::TokenId;

use super::token_at;

/// A token that passed the filters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// The token.
    pub token: TokenId,
    /// Its probability before the filters.
    pub probability: f64,
}

/// The tokens that may be drawn, in ascending order of their ids; at least the likeliest.
///
/// `probabilities` has one entry per token of the vocabulary and sums to 1. All three filters look at these
/// probabilities; only what is left in the end is renormalised.
pub fn keep(probabilities: &[f64], top_k: u32, top_p: f32, min_p: f32) -> Vec<Kept> {
    let mut kept: Vec<Kept> = probabilities
        .iter()
        .enumerate()
        .filter(|&(_, &probability)| probability > 0.0)
        .map(|(index, &probability)| Kept { token: token_at(index), probability })
        .collect();
    let max = kept.iter().map(|kept| kept.probability).fold(0.0, f64::max);
    keep_top_k(&mut kept, top_k as usize);
    keep_top_p(&mut kept, f64::from(top_p));
    let least = f64::from(min_p) * max;
    kept.retain(|kept| kept.probability >= least);
    kept.sort_unstable_by_key(|kept| kept.token);
    kept
}

/// Likeliest first, ties to the lowest id.
fn by_likelihood(a: &Kept, b: &Kept) -> Ordering {
    b.probability.total_cmp(&a.probability).then(a.token.cmp(&b.token))
}

fn keep_top_k(kept: &mut Vec<Kept>, top_k: usize) {
    if top_k > 0 && top_k < kept.len() {
        kept.select_nth_unstable_by(top_k - 1, by_likelihood);
        kept.truncate(top_k);
        kept.sort_unstable_by_key(|kept| kept.token);
    }
}

/// Keeps the smallest set whose mass is at least `top_p`, the token that crosses it included.
fn keep_top_p(kept: &mut Vec<Kept>, top_p: f64) {
    if top_p >= 1.0 {
        return;
    }
    let mass: f64 = kept.iter().map(|kept| kept.probability).sum();
    if mass <= top_p {
        return;
    }
    // Sorting a whole vocabulary is slow. All tokens below this are together worth at most half of what may
    // go, so none of them is in the set.
    let negligible = (mass - top_p) / (2 * kept.len()) as f64;
    kept.retain(|kept| kept.probability >= negligible);
    kept.sort_unstable_by(by_likelihood);
    let mut sum = 0.0;
    let crossing = kept.iter().position(|kept| {
        sum += kept.probability;
        sum >= top_p
    });
    kept.truncate(crossing.map_or(kept.len(), |index| index + 1));
}
