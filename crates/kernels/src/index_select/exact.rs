//! Index scores from keys in f32, for comparisons.

use std::ops::Range;

use cuvier_tensor::{MatRef, PagedRows};

use super::score::ScoreUnit;
use super::top_k::TopK;
use crate::simd::{LANES, Lanes, Simd};

/// Keys decoded at a time: 256 KiB of f32 at 128 dimensions, which stay in the second cache level while all heads
/// of a few tokens meet them.
const KEYS_PER_TILE: usize = 512;

/// Scores one unit; `H` heads by `V` vectors of sixteen keys share the registers.
#[inline(always)]
pub(super) fn score<S: Simd, const H: usize, const V: usize>(
    s: S,
    work: ScoreUnit<'_>,
    q: MatRef<'_>,
) -> Vec<TopK> {
    let ScoreUnit { unit, tokens, w, codec, k, .. } = work;
    let heads = w.cols();
    let queries: Vec<Vec<[f32; H]>> =
        unit.tokens.clone().map(|token| interleave(q, token * heads..(token + 1) * heads)).collect();
    let mut best: Vec<TopK> = unit.tokens.clone().map(|_| TopK::new(k)).collect();
    let mut keys = vec![[Lanes::ZERO; V]; codec.dim * KEYS_PER_TILE / (V * LANES)];
    let mut scores = vec![[Lanes::ZERO; V]; KEYS_PER_TILE / (V * LANES)];

    for start in unit.entries.clone().step_by(KEYS_PER_TILE) {
        let end = (start + KEYS_PER_TILE).min(unit.entries.end);
        let strips = (end - start).div_ceil(V * LANES);
        for (i, strip) in keys.chunks_exact_mut(codec.dim).take(strips).enumerate() {
            let first = start + i * V * LANES;
            decode_strip(unit.keys, first..end, strip);
        }
        for ((token, queries), best) in unit.tokens.clone().zip(&queries).zip(&mut best) {
            let visible = tokens[token].visible;
            if visible <= start {
                continue;
            }
            for (strip, scores) in keys.chunks_exact(codec.dim).take(strips).zip(&mut scores) {
                score_strip(s, queries, w.row(token), strip, scores);
            }
            offer(best, start, visible.min(end), &scores);
        }
    }
    best
}

/// Hands the scores of the entries `start..end` to `best`.
#[inline(always)]
fn offer<const V: usize>(best: &mut TopK, start: usize, end: usize, scores: &[[Lanes; V]]) {
    for (lanes, first) in scores.as_flattened().iter().zip((start..end).step_by(LANES)) {
        best.offer(first, &lanes.0[..LANES.min(end - first)]);
    }
}

/// The rows of `q`, `H` at a time, with the `H` numbers of a dimension side by side; missing heads are 0.
#[inline(always)]
fn interleave<const H: usize>(q: MatRef<'_>, rows: Range<usize>) -> Vec<[f32; H]> {
    let dim = q.cols();
    let mut out = vec![[0.0; H]; rows.len().div_ceil(H) * dim];
    for (head, row) in rows.enumerate() {
        for (out, &x) in out[head / H * dim..][..dim].iter_mut().zip(q.row(row)) {
            out[head % H] = x;
        }
    }
    out
}

/// Decodes the keys `entries` that fit into a strip, dimension by dimension, sixteen keys to a vector. Lanes
/// without a key repeat the last one; their scores are never read.
fn decode_strip<const V: usize>(keys: &PagedRows<u8>, entries: Range<usize>, strip: &mut [[Lanes; V]]) {
    for v in 0..V {
        let rows: [&[u8]; LANES] =
            std::array::from_fn(|lane| keys.row((entries.start + v * LANES + lane).min(entries.end - 1)));
        for (d, out) in strip.iter_mut().enumerate() {
            for (out, row) in out[v].0.iter_mut().zip(rows) {
                let bytes = row[4 * d..].first_chunk().expect("a row holds four bytes per dimension");
                *out = f32::from_le_bytes(*bytes);
            }
        }
    }
}

/// The scores of one token over the keys of a strip.
#[inline(always)]
fn score_strip<S: Simd, const H: usize, const V: usize>(
    s: S,
    queries: &[[f32; H]],
    w: &[f32],
    strip: &[[Lanes; V]],
    out: &mut [Lanes; V],
) {
    let zero = s.splat(0.0);
    let mut scores = [zero; V];
    for (queries, w) in queries.chunks_exact(strip.len()).zip(w.chunks(H)) {
        let mut dots = [[zero; V]; H];
        for (q, key) in queries.iter().zip(strip) {
            let mut k = [zero; V];
            for v in 0..V {
                k[v] = s.load(&key[v].0);
            }
            for h in 0..H {
                let q = s.splat(q[h]);
                for v in 0..V {
                    dots[h][v] = s.fma(q, k[v], dots[h][v]);
                }
            }
        }
        for (dots, &w) in dots.iter().zip(w) {
            for v in 0..V {
                // In this order `max` keeps a NaN of the dot product.
                scores[v] = s.fma(s.splat(w), s.max(zero, dots[v]), scores[v]);
            }
        }
    }
    for v in 0..V {
        s.store(scores[v], &mut out[v].0);
    }
}
