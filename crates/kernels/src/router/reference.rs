//! The formulas, in f64.

/// `sqrt(softplus(logit))`.
pub(super) fn score(logit: f32) -> f64 {
    let z = f64::from(logit);
    (z.max(0.0) + (-z.abs()).exp().ln_1p()).sqrt()
}

/// The `k` places with the largest `score + bias`, ascending, and by how much the least of them beats the next.
pub(super) fn select(logits: &[f32], bias: &[f32], k: usize) -> (Vec<u16>, f64) {
    let key = |id: u16| score(logits[usize::from(id)]) + f64::from(bias[usize::from(id)]);
    let mut ids: Vec<u16> = (0..logits.len()).map(|id| u16::try_from(id).expect("few experts")).collect();
    ids.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
    let gap = if k < ids.len() { key(ids[k - 1]) - key(ids[k]) } else { f64::INFINITY };
    ids.truncate(k);
    ids.sort_unstable();
    (ids, gap)
}

/// `score / (sum of the chosen scores + 1e-20) * factor`.
pub(super) fn weights(logits: &[f32], ids: &[u16], factor: f32) -> Vec<f64> {
    let scores: Vec<f64> = ids.iter().map(|&id| score(logits[usize::from(id)])).collect();
    let sum: f64 = scores.iter().sum();
    scores.iter().map(|s| s / (sum + 1e-20) * f64::from(factor)).collect()
}
