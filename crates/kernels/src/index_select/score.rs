//! Index scores of a few tokens over a range of keys, tile by tile.

use std::ops::Range;

use cuvier_tensor::formats::{FP4_BLOCK, e8m0_to_f32};
use cuvier_tensor::{MatRef, PagedRows};

use super::top_k::TopK;
use super::{Token, Unit};
use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{IndexKeyCodec, KvFormat};

/// Sixteen numbers of one cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Lanes([f32; LANES]);

/// Keys decoded at a time: 256 KiB of f32 at 128 dimensions, which stay in the second cache level while all heads
/// of a few tokens meet them.
const KEYS_PER_TILE: usize = 512;

/// Scores one unit and keeps the best entries of each of its tokens.
pub(super) struct ScoreUnit<'a> {
    pub(super) unit: &'a Unit<'a>,
    pub(super) tokens: &'a [Token],
    pub(super) q: MatRef<'a>,
    pub(super) w: MatRef<'a>,
    pub(super) codec: &'a IndexKeyCodec,
    pub(super) k: usize,
}

impl Vectorized for ScoreUnit<'_> {
    type Output = Vec<TopK>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<TopK> {
        if S::ACCUMULATORS >= 16 { self.score::<S, 8, 2>(s) } else { self.score::<S, 2, 2>(s) }
    }
}

impl ScoreUnit<'_> {
    /// `H` heads by `V` vectors of sixteen keys share the registers.
    #[inline(always)]
    fn score<S: Simd, const H: usize, const V: usize>(self, s: S) -> Vec<TopK> {
        let Self { unit, tokens, q, w, codec, k } = self;
        let heads = w.cols();
        let queries: Vec<Vec<[f32; H]>> =
            unit.tokens.clone().map(|token| interleave(q, token * heads..(token + 1) * heads)).collect();
        let mut best: Vec<TopK> = unit.tokens.clone().map(|_| TopK::new(k)).collect();
        let mut keys = vec![[Lanes([0.0; LANES]); V]; codec.dim * KEYS_PER_TILE / (V * LANES)];
        let mut scores = vec![[Lanes([0.0; LANES]); V]; KEYS_PER_TILE / (V * LANES)];

        for start in unit.entries.clone().step_by(KEYS_PER_TILE) {
            let end = (start + KEYS_PER_TILE).min(unit.entries.end);
            let strips = (end - start).div_ceil(V * LANES);
            for (i, strip) in keys.chunks_exact_mut(codec.dim).take(strips).enumerate() {
                let first = start + i * V * LANES;
                decode_strip(s, codec, unit.keys, first..end, strip);
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
#[inline(always)]
fn decode_strip<S: Simd, const V: usize>(
    s: S,
    codec: &IndexKeyCodec,
    keys: &PagedRows<u8>,
    entries: Range<usize>,
    strip: &mut [[Lanes; V]],
) {
    for v in 0..V {
        let rows: [&[u8]; LANES] =
            std::array::from_fn(|lane| keys.row((entries.start + v * LANES + lane).min(entries.end - 1)));
        match codec.format {
            KvFormat::F32 => {
                for (d, out) in strip.iter_mut().enumerate() {
                    for (out, row) in out[v].0.iter_mut().zip(rows) {
                        let bytes = row[4 * d..].first_chunk().expect("a row holds four bytes per dimension");
                        *out = f32::from_le_bytes(*bytes);
                    }
                }
            }
            KvFormat::Fp8 => decode_fp4(s, rows, v, strip),
        }
    }
}

/// Eight codes of sixteen keys at a time: a word of each key, then one table look-up per nibble.
#[inline(always)]
fn decode_fp4<S: Simd, const V: usize>(s: S, rows: [&[u8]; LANES], v: usize, strip: &mut [[Lanes; V]]) {
    let codes = strip.len().div_ceil(2);
    let values = s.e2m1_table(1.0);
    for (block, out) in strip.chunks_mut(FP4_BLOCK).enumerate() {
        let mut scales = [0.0; LANES];
        for (scale, row) in scales.iter_mut().zip(rows) {
            *scale = e8m0_to_f32(row[codes + block]);
        }
        let scales = s.load(&scales);
        for (word, out) in out.chunks_mut(8).enumerate() {
            let at = block * FP4_BLOCK / 2 + 4 * word;
            let mut words = [0; LANES];
            for (word, row) in words.iter_mut().zip(rows) {
                *word = load_word(&row[at..codes]);
            }
            for (nibble, out) in out.iter_mut().enumerate() {
                s.store(s.mul(s.look_up_nibbles(&words, nibble as u32, values), scales), &mut out[v].0);
            }
        }
    }
}

/// The first four bytes, or as many as there are.
#[inline(always)]
fn load_word(bytes: &[u8]) -> u32 {
    if let Some(word) = bytes.first_chunk() {
        return u32::from_le_bytes(*word);
    }
    let mut word = [0; 4];
    word[..bytes.len()].copy_from_slice(bytes);
    u32::from_le_bytes(word)
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
