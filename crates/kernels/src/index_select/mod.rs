//! The lightning indexer: which compressed entries each token looks at.

use std::ops::Range;
use std::sync::OnceLock;

use cuvier_tensor::{MatRef, PagedRows};

use crate::{Compute, IndexKeyCodec};

mod backward;
mod coded;
mod exact;
mod queries;
mod score;
mod selection;
mod top_k;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use backward::{IndexGradients, index_backward};
pub use selection::Selection;

use queries::Queries;
use score::ScoreUnit;
use top_k::TopK;

/// Tokens that share keys brought to the first cache level.
const TOKENS_PER_UNIT: usize = 8;
/// Keys below which splitting them over threads costs more than it gains.
const KEYS_PER_UNIT_MIN: usize = 512;
/// Units begin at multiples of this: whole pages, so that sixteen keys lie side by side in memory.
const UNIT_STEP: usize = 128;

/// The tokens of one sequence in a batch, and its index keys.
#[derive(Clone, Debug)]
pub struct IndexSegment<'a> {
    /// Rows of the batch.
    pub tokens: Range<usize>,
    /// The position of the first of them in its sequence.
    pub first_position: usize,
    /// The stored index keys, entry `j` in row `j`; those completed by these tokens included.
    pub keys: &'a PagedRows<u8>,
}

/// Per token the `min(k, visible)` entries with the largest index scores, in ascending order of entry.
///
/// | argument | shape                            | dtype | unit                                        |
/// |----------|----------------------------------|-------|---------------------------------------------|
/// | `q`      | `[tokens * index_n_heads, dim]`  | f32   | index queries, rotated, Hadamard, rounded   |
/// | `w`      | `[tokens, index_n_heads]`        | f32   | head weights, already scaled                |
/// | keys     | `[entries, row_bytes]`           | bytes | as `codec` says                             |
///
/// The token at position `t` sees the entries `j < (t + 1) / ratio`. With `I_j = sum_h w_h * relu(q_h . k_j)`
/// larger is better; **of equal scores the lower entry wins**; -0 equals 0 and NaN counts as -infinity. When no
/// more than `k` entries are visible, all are selected and nothing is scored.
///
/// Arithmetic with [`KvFormat::Fp8`](crate::KvFormat::Fp8), in integers. In a block of 128 dimensions of a query let
/// `u` be the smallest power of two, from 2^-126 on, of which its largest magnitude is at most 127; its numbers count
/// as `u` times the nearest integers, ties to even. That is exact for FP4 queries whose scales (one per 32 numbers) lie
/// within 2^3 of the largest; else a number is off by at most `u / 2`, which is 2^-7 of the largest magnitude. With a
/// number that is not finite all scores of the token are NaN. Then, as in products with FP4 weights,
///
/// ```text
/// S   = sum over the key's four scales 2^(e - d) of m * (sum over 32 dims of 2 k * code)   m = 2^(13 - d), 0 if d > 13
/// dot = fma(f32(S), (2^e / 2 / 2^13) * u, dot)                             block by block of 128, from 0
/// I   = fma(w_h, relu(dot), I)                                             in order of head, from 0
/// ```
///
/// `2^e` is the largest of the four. `S` is exact, its f32 is rounded once, the product of powers of two is exact: a
/// dot product of 128 dimensions is rounded once, or not at all.
///
/// Arithmetic with [`KvFormat::F32`](crate::KvFormat::F32): `q_h . k_j` adds its products in order of dimension with
/// fused multiply-add (not in sixteen lanes like other sums here: the lanes hold sixteen keys); the sum over heads is
/// the same.
///
/// Rows of the batch outside all segments select nothing.
///
/// Source: DeepSeek-V4 `inference/model.py`, `Indexer.forward`.
///
/// # Panics
/// If the shapes disagree, segments overlap or are not in order, or a visible key is not held.
pub fn index_select(
    c: &Compute,
    q: MatRef<'_>,
    w: MatRef<'_>,
    segments: &[IndexSegment<'_>],
    codec: &IndexKeyCodec,
    ratio: usize,
    k: usize,
) -> Selection {
    assert_eq!((q.rows(), q.cols()), (w.rows() * w.cols(), codec.dim));
    let tokens = Token::all(w.rows(), segments, ratio);
    let units = units(c, segments, &tokens, k);
    if units.is_empty() {
        return Selection::first(tokens.iter().map(|token| token.visible.min(k)));
    }
    let q = &Queries::new(c, q, w.cols(), codec.format);
    let found: Vec<OnceLock<Vec<TopK>>> = units.iter().map(|_| OnceLock::new()).collect();
    c.for_each(units.len(), |i| {
        let scored = c.isa().dispatch(ScoreUnit { unit: &units[i], tokens: &tokens, q, w, codec, k });
        found[i].get_or_init(|| scored);
    });

    // The units of a token are neighbours; its candidates are merged in whatever pieces they come.
    let lists: Vec<OnceLock<Vec<u32>>> = tokens.iter().map(|_| OnceLock::new()).collect();
    c.for_each_range(tokens.len(), 16, |rows| {
        for row in rows {
            lists[row].get_or_init(|| {
                let first = units.partition_point(|unit| unit.tokens.end <= row);
                let own = (first..units.len()).take_while(|&i| units[i].tokens.start <= row);
                let mut best = TopK::new(k);
                let mut scored = false;
                for i in own {
                    scored = true;
                    let parts = found[i].get().expect("all units have been scored");
                    best.absorb(&parts[row - units[i].tokens.start]);
                }
                if scored { best.entries() } else { (0..tokens[row].visible.min(k) as u32).collect() }
            });
        }
    });
    let mut selection = Selection::default();
    for list in &lists {
        selection.push(list.get().expect("all tokens have been merged"));
    }
    selection
}

/// One row of the batch.
#[derive(Clone, Copy)]
struct Token {
    /// How many entries it sees.
    visible: usize,
}

impl Token {
    fn all(rows: usize, segments: &[IndexSegment<'_>], ratio: usize) -> Vec<Self> {
        let mut tokens = vec![Self { visible: 0 }; rows];
        let mut end = 0;
        for segment in segments {
            assert!(
                end <= segment.tokens.start && segment.tokens.end <= rows,
                "segment {:?}",
                segment.tokens
            );
            end = segment.tokens.end;
            for (i, token) in tokens[segment.tokens.clone()].iter_mut().enumerate() {
                token.visible = (segment.first_position + i + 1) / ratio;
            }
        }
        tokens
    }
}

/// A piece of the work: some tokens of one sequence against some of its keys.
struct Unit<'a> {
    tokens: Range<usize>,
    entries: Range<usize>,
    keys: &'a PagedRows<u8>,
}

/// Cuts the work into units: a few per thread where there is enough. Tokens that see no more than `k` entries
/// need none.
fn units<'a>(c: &Compute, segments: &[IndexSegment<'a>], tokens: &[Token], k: usize) -> Vec<Unit<'a>> {
    let mut tiles = Vec::new();
    for segment in segments {
        let mut start = segment.tokens.clone().find(|&row| tokens[row].visible > k);
        while let Some(first) = start.filter(|&first| k > 0 && first < segment.tokens.end) {
            let end = (first + TOKENS_PER_UNIT).min(segment.tokens.end);
            tiles.push((first..end, segment.keys));
            start = Some(end);
        }
    }
    let parts = if c.threads() == 1 { 1 } else { (4 * c.threads()).div_ceil(tiles.len().max(1)) };
    let mut units = Vec::new();
    for (rows, keys) in tiles {
        let visible = tokens[rows.end - 1].visible;
        let len = visible.div_ceil(parts).max(KEYS_PER_UNIT_MIN).next_multiple_of(UNIT_STEP);
        for start in (0..visible).step_by(len) {
            units.push(Unit { tokens: rows.clone(), entries: start..(start + len).min(visible), keys });
        }
    }
    units
}
