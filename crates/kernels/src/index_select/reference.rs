//! The indexer as its formula says.

/// `I_j = sum_h w_h * relu(q_h . k_j)` for every key; `q` is `[heads, dim]`.
pub(super) fn scores(q: &[f32], w: &[f32], keys: &[Vec<f32>]) -> Vec<f64> {
    let score = |key: &Vec<f32>| {
        let heads = q.chunks_exact(key.len()).zip(w);
        heads.map(|(q, &w)| f64::from(w) * dot(q, key).max(0.0)).sum()
    };
    keys.iter().map(score).collect()
}

/// The `k` largest scores' entries, ascending; of equal scores the lower entry.
pub(super) fn select(scores: &[f64], k: usize) -> Vec<u32> {
    let mut entries: Vec<u32> = (0..scores.len() as u32).collect();
    entries.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
    entries.truncate(k);
    entries.sort_unstable();
    entries
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
