//! One token's attention, in memory that is used again for the next token.

use super::AttentionConfig;
use super::keys::KeyList;
use super::tiles::{self, HEADS, Shape};
use crate::EntryCodec;
use crate::simd::{LANES, Lanes, Simd};

/// Keys decoded at a time: 96 KiB of f32 at 512 dimensions, which stay in the second cache level while all heads
/// meet them. Each block is decoded once for the scores and once for the sums: that costs less than keeping a long list
/// in memory. A multiple of [`LANES`].
const BLOCK_KEYS: usize = 48;

/// The working memory of a thread, which keeps it from one attention to the next.
#[derive(Default)]
pub(super) struct Scratch {
    /// Rows as in [`Shape`], one per head.
    q: Vec<Lanes>,
    /// The same.
    sums: Vec<Lanes>,
    /// `[heads, keys]`, first the scores, then their exponentials.
    scores: Vec<Lanes>,
    /// Rows as in [`Shape`]: a block of the list.
    keys: Vec<Lanes>,
    denominators: Vec<f32>,
}

impl Scratch {
    /// The attention of the heads in `q`, whose sinks are `attn_sink`, over `list`, to `out`.
    #[inline(always)]
    pub(super) fn attend<S: Simd>(
        &mut self,
        s: S,
        list: &KeyList<'_>,
        q: &[f32],
        attn_sink: &[f32],
        config: &AttentionConfig<'_>,
        out: &mut [f32],
    ) {
        let codec = config.codec;
        let shape = Shape::new(codec.head_dim);
        let heads = attn_sink.len().next_multiple_of(HEADS);
        let blocks = list.len().div_ceil(BLOCK_KEYS);
        let score_stride = (blocks * BLOCK_KEYS / LANES) | 1;
        grow(&mut self.q, heads * shape.stride);
        grow(&mut self.sums, heads * shape.stride);
        grow(&mut self.keys, BLOCK_KEYS * shape.stride);
        grow(&mut self.scores, heads * score_stride);
        let (queries, sums) = (&mut self.q[..heads * shape.stride], &mut self.sums[..heads * shape.stride]);
        let (keys, scores) =
            (&mut self.keys[..BLOCK_KEYS * shape.stride], &mut self.scores[..heads * score_stride]);

        for (row, q) in queries.chunks_exact_mut(shape.stride).zip(q.chunks_exact(codec.head_dim)) {
            copy(q, row);
        }
        queries[attn_sink.len() * shape.stride..].fill(Lanes::ZERO);
        for block in 0..blocks {
            decode_block(s, codec, list, block, keys, shape);
            let out = &mut Lanes::flat_mut(scores)[block * BLOCK_KEYS..];
            tiles::scores(s, queries, keys, shape, config.scale, out, score_stride * LANES);
        }
        self.denominators.clear();
        for (scores, &sink) in scores.chunks_exact_mut(score_stride).zip(attn_sink) {
            self.denominators.push(softmax(s, scores, list.len(), sink));
        }
        sums.fill(Lanes::ZERO);
        for block in 0..blocks {
            decode_block(s, codec, list, block, keys, shape);
            let len = BLOCK_KEYS.min(list.len() - block * BLOCK_KEYS);
            let p = &Lanes::flat(scores)[block * BLOCK_KEYS..];
            tiles::sums(s, p, score_stride * LANES, &keys[..len * shape.stride], sums, shape);
        }
        let sums = sums.chunks_exact(shape.stride);
        for ((sums, &denominator), out) in
            sums.zip(&self.denominators).zip(out.chunks_exact_mut(codec.head_dim))
        {
            divide(s, sums, denominator, out);
        }
    }
}

/// Makes room for `len` vectors.
fn grow(lanes: &mut Vec<Lanes>, len: usize) {
    if lanes.len() < len {
        lanes.resize(len, Lanes::ZERO);
    }
}

/// The numbers `x` to a row, zeros behind them.
fn copy(x: &[f32], row: &mut [Lanes]) {
    let (own, rest) = Lanes::flat_mut(row).split_at_mut(x.len());
    own.copy_from_slice(x);
    rest.fill(0.0);
}

/// Decodes the keys of block `block` of the list; zeros behind the last number and the last key.
#[inline(always)]
fn decode_block<S: Simd>(
    s: S,
    codec: EntryCodec,
    list: &KeyList<'_>,
    block: usize,
    keys: &mut [Lanes],
    shape: Shape,
) {
    for (i, row) in (block * BLOCK_KEYS..).zip(keys.chunks_exact_mut(shape.stride)) {
        if i < list.len() {
            let (own, rest) = Lanes::flat_mut(row).split_at_mut(codec.head_dim);
            codec.decode(s, list.key(i), own);
            rest.fill(0.0);
        } else {
            row.fill(Lanes::ZERO);
        }
    }
}

/// Replaces the first `len` scores by `exp(score - max)`, the maximum including the sink, and those behind them by
/// 0. Returns their sum and the sink's.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [Lanes], len: usize, sink: f32) -> f32 {
    Lanes::flat_mut(scores)[len..].fill(f32::NEG_INFINITY);
    let mut max = s.splat(sink);
    for scores in &*scores {
        max = s.max(s.load(&scores.0), max);
    }
    let max = s.splat(s.max_lane(max));
    for scores in &mut *scores {
        s.store(s.exp(s.sub(s.load(&scores.0), max)), &mut scores.0);
    }
    Lanes::flat_mut(scores)[len..].fill(0.0);
    let mut sum = s.splat(0.0);
    for scores in &*scores {
        sum = s.add(s.load(&scores.0), sum);
    }
    let mut of_sink = [0.0; LANES];
    s.store(s.exp(s.sub(s.splat(sink), max)), &mut of_sink);
    s.sum(sum) + of_sink[0]
}

#[inline(always)]
fn divide<S: Simd>(s: S, sums: &[Lanes], denominator: f32, out: &mut [f32]) {
    let denominator = s.splat(denominator);
    for (sums, out) in sums.iter().zip(out.chunks_mut(LANES)) {
        s.store_partial(s.div(s.load(&sums.0), denominator), out);
    }
}
