//! Compressed entries: a learned weighted mean of the tokens of a block, channel by channel.

use std::ops::Range;

use cuvier_tensor::{MatMut, MatRef, PagedRows};

mod backward;

pub use backward::{compress_backward, compressor_rows_backward};

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// Fewer numbers than this are not worth a second thread.
const NUMBERS_PER_TASK_MIN: usize = 1 << 14;

/// Channels that one task pools together: neighbours in memory.
const CHANNELS: usize = 4 * LANES;

/// How a compressor pools tokens into entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressorShape {
    /// Tokens per block; a block gives one entry.
    pub ratio: usize,
    /// Whether an entry also pools the block before its own, with features of their own.
    pub overlap: bool,
    /// Numbers per entry.
    pub dim: usize,
}

impl CompressorShape {
    /// Features per token of each of K and S: `dim`, or `2 * dim` with overlap, where the first half is what the
    /// next block pools and the second what the token's own block pools.
    pub fn features(self) -> usize {
        if self.overlap { 2 * self.dim } else { self.dim }
    }

    /// Numbers per row that [`compressor_rows`] writes and [`compress`] reads: K, then S.
    pub fn row_len(self) -> usize {
        2 * self.features()
    }
}

/// Packs what [`compress`] needs of each token into one row: `[K, S + ape[position mod ratio]]`.
///
/// | argument    | shape                    | dtype | unit |
/// |-------------|--------------------------|-------|------|
/// | `k`         | `[tokens, features]`     | f32   | values, `wkv x` |
/// | `s`         | `[tokens, features]`     | f32   | logits of their weights, `wgate x` |
/// | `ape`       | `[ratio, features]`      | f32   | bias of a place in the block |
/// | `positions` | `[tokens]`               | u32   | absolute position of each token |
/// | `out`       | `[tokens, 2 * features]` | f32   | K, then biased S |
///
/// One f32 addition per number of S.
///
/// Source: DeepSeek-V4 `inference/model.py`, `Compressor.forward`.
///
/// # Panics
/// If the shapes disagree.
pub fn compressor_rows(
    c: &Compute,
    k: MatRef<'_>,
    s: MatRef<'_>,
    ape: &[f32],
    ratio: usize,
    positions: &[u32],
    out: MatMut<'_>,
) {
    let (tokens, features) = (k.rows(), k.cols());
    assert_eq!((s.rows(), s.cols()), (tokens, features), "k and s");
    assert_eq!(ape.len(), ratio * features, "a bias for {ratio} places of {features} features");
    assert_eq!(positions.len(), tokens, "a position per token");
    assert!(out.rows() == tokens && (tokens == 0 || out.cols() == 2 * features), "out has K and S");
    let out = DisjointRows::new(out.into_data(), 2 * features);
    c.for_each_range(tokens, NUMBERS_PER_TASK_MIN.div_ceil(features.max(1)), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let (out_k, out_s) = unsafe { out.part(row, 0..2 * features) }.split_at_mut(features);
            out_k.copy_from_slice(k.row(row));
            let place = positions[row] as usize % ratio;
            let bias = &ape[place * features..][..features];
            for ((out, &s), &bias) in out_s.iter_mut().zip(s.row(row)).zip(bias) {
                *out = s + bias;
            }
        }
    });
}

/// Pools the tokens of each block into its entry: in every channel the mean of K with the softmax of S as weights.
///
/// | argument | shape                              | dtype | unit |
/// |----------|------------------------------------|-------|------|
/// | `rows`   | `[positions, 2 * features]`        | f32   | rows of [`compressor_rows`], by absolute position |
/// | `blocks` | `blocks.len()` blocks              |       | block `j` holds the positions from `ratio * j` on |
/// | `out`    | `[blocks.len(), dim]`              | f32   | entries, before their norm |
///
/// Without overlap, entry `j` pools the tokens of block `j`. With overlap it pools the tokens of block `j - 1` with
/// the first half of their features and those of block `j` with the second half, under one softmax; entry 0 has
/// no block before it and pools its own alone.
///
/// `sum(e^(S - max S) K) / sum(e^(S - max S))`, both sums in f32 over the tokens in order of position, the first
/// with fused multiply-add, and one division.
///
/// Source: DeepSeek-V4 `inference/model.py`, `Compressor.forward` and `overlap_transform`.
///
/// # Panics
/// If a needed row is not held, or the shapes disagree.
pub fn compress(
    c: &Compute,
    rows: &PagedRows<f32>,
    shape: CompressorShape,
    blocks: Range<usize>,
    out: MatMut<'_>,
) {
    let n_blocks = blocks.len();
    assert_eq!(rows.row_len(), shape.row_len(), "rows hold K and S");
    assert!(out.rows() == n_blocks && (n_blocks == 0 || out.cols() == shape.dim), "an entry per block");
    let out = DisjointRows::new(out.into_data(), shape.dim);
    let tiles = shape.dim.div_ceil(CHANNELS);
    let tile_numbers = shape.ratio * CHANNELS.min(shape.dim).max(1);
    c.for_each_range(n_blocks * tiles, NUMBERS_PER_TASK_MIN.div_ceil(tile_numbers.max(1)), |items| {
        for item in items {
            let (entry, tile) = (item / tiles, item % tiles);
            let channels = tile * CHANNELS..((tile + 1) * CHANNELS).min(shape.dim);
            let slots = slots(rows, shape, blocks.start + entry, channels.clone());
            // SAFETY: each pair of entry and tile is one item.
            let out = unsafe { out.part(entry, channels) };
            c.isa().dispatch(Pool { slots: &slots, out });
        }
    });
}

/// What one token gives to an entry, for some channels.
#[derive(Clone, Copy)]
struct Slot<'a> {
    k: &'a [f32],
    s: &'a [f32],
}

/// The tokens that `block` pools, in order of position.
fn slots(
    rows: &PagedRows<f32>,
    shape: CompressorShape,
    block: usize,
    channels: Range<usize>,
) -> Vec<Slot<'_>> {
    let features = shape.features();
    let slot = |position: usize, half: usize| {
        let (k, s) = rows.row(position).split_at(features);
        let range = half * shape.dim + channels.start..half * shape.dim + channels.end;
        Slot { k: &k[range.clone()], s: &s[range] }
    };
    let own = block * shape.ratio..(block + 1) * shape.ratio;
    if !shape.overlap {
        return own.map(|position| slot(position, 0)).collect();
    }
    let previous = own.start.saturating_sub(shape.ratio)..own.start;
    previous.map(|position| slot(position, 0)).chain(own.map(|position| slot(position, 1))).collect()
}

/// Pools some channels of one entry.
struct Pool<'a> {
    slots: &'a [Slot<'a>],
    out: &'a mut [f32],
}

impl Vectorized for Pool<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (chunk, out) in self.out.chunks_mut(LANES).enumerate() {
            let at = |x: &[f32]| s.load_partial(&x[chunk * LANES..][..out.len()], 0.0);
            let mut max = s.splat(f32::NEG_INFINITY);
            for slot in self.slots {
                max = s.max(at(slot.s), max);
            }
            let (mut sum, mut pooled) = (s.splat(0.0), s.splat(0.0));
            for slot in self.slots {
                let weight = s.exp(s.sub(at(slot.s), max));
                sum = s.add(sum, weight);
                pooled = s.fma(weight, at(slot.k), pooled);
            }
            s.store_partial(s.div(pooled, sum), out);
        }
    }
}
