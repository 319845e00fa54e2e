//! The indexer as its formula says.

use cuvier_tensor::formats::{E2M1_VALUES, e8m0_to_f32};

use crate::IndexKeyCodec;

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

/// The scores of stored FP4 keys with the roundings that the contract states, to the bit.
pub(super) fn coded_scores(codec: &IndexKeyCodec, q: &[f32], w: &[f32], keys: &[&[u8]]) -> Vec<f32> {
    let score = |key: &&[u8]| {
        q.chunks_exact(codec.dim).zip(w).fold(0.0f32, |score, (q, w)| {
            let blocks = q.chunks(128).enumerate();
            let dot = blocks.fold(0.0f32, |dot, (block, q)| {
                let unit = unit(q);
                let (sum, key_unit) = block_sum(codec.dim, q, unit, key, block);
                (sum as f32).mul_add(key_unit * unit, dot)
            });
            // Not `dot.max(0.0)`, which would hide a NaN.
            w.mul_add(if dot < 0.0 { 0.0 } else { dot }, score)
        })
    };
    keys.iter().map(score).collect()
}

/// The smallest power of two from 2^-126 on of which all numbers of `q` are at most 127.
fn unit(q: &[f32]) -> f32 {
    if q.iter().any(|x| !x.is_finite()) {
        return f32::NAN;
    }
    let mut unit = f64::from(f32::MIN_POSITIVE);
    while q.iter().any(|&x| f64::from(x).abs() > 127.0 * unit) {
        unit *= 2.0;
    }
    unit as f32
}

/// `S` of one block, and what a unit of it is worth.
fn block_sum(dim: usize, q: &[f32], unit: f32, key: &[u8], block: usize) -> (i32, f32) {
    let (codes, scales) = key.split_at(dim.div_ceil(2));
    let scales = &scales[4 * block..scales.len().min(4 * block + 4)];
    let largest = *scales.iter().max().expect("a block has scales");
    let mut sum = 0;
    for (i, &x) in q.iter().enumerate() {
        let d = u32::from(largest - scales[i / 32]);
        let m = if d <= 13 { 1 << (13 - d) } else { 0 };
        let code = codes[64 * block + i / 2] >> (4 * (i % 2)) & 0xF;
        let q = (f64::from(x) / f64::from(unit)).round_ties_even() as i32;
        sum += m * (2.0 * E2M1_VALUES[usize::from(code)]) as i32 * q;
    }
    (sum, e8m0_to_f32(largest) / 2.0 / 8192.0)
}
