//! One token's attention, in memory that is used again for the next token.

use super::keys::KeyList;
use super::tiles::{self, HEADS_MAX, Lanes, VECS_MAX};
use crate::EntryCodec;
use crate::simd::{LANES, Simd};

/// Keys decoded at a time: 96 KiB of f32 at 512 dimensions, which stay in the second cache level while all heads
/// meet them. Each block is decoded once for the scores and once for the sums: that costs less than keeping a long list
/// in memory. A multiple of [`LANES`].
const BLOCK_KEYS: usize = 48;
/// The working memory of one task.
pub(super) struct Scratch {
    codec: EntryCodec,
    /// Vectors per key, query or sum, with zeros behind the last dimension.
    vecs: usize,
    /// `[heads, vecs]`.
    q: Vec<Lanes>,
    /// `[heads, vecs]`.
    sums: Vec<Lanes>,
    /// `[heads, keys]`, first the scores, then their exponentials.
    scores: Vec<Lanes>,
    /// `[keys, vecs]`: a block of the list.
    keys: Vec<Lanes>,
}

impl Scratch {
    /// For at most `heads` heads at a time.
    pub(super) fn new(codec: EntryCodec, heads: usize) -> Self {
        let vecs = codec.head_dim.div_ceil(LANES).next_multiple_of(VECS_MAX);
        let rows = heads.next_multiple_of(HEADS_MAX);
        let zeros = |rows: usize| vec![Lanes::ZERO; rows * vecs];
        Self { codec, vecs, q: zeros(rows), sums: zeros(rows), scores: Vec::new(), keys: zeros(BLOCK_KEYS) }
    }

    /// The attention of the heads in `q` over `list`, to `out`.
    #[inline(always)]
    pub(super) fn attend<S: Simd>(
        &mut self,
        s: S,
        list: &KeyList<'_>,
        q: &[f32],
        attn_sink: &[f32],
        scale: f32,
        out: &mut [f32],
    ) {
        let dim = self.codec.head_dim;
        for (head, q) in q.chunks_exact(dim).enumerate() {
            Lanes::flat_mut(&mut self.q[head * self.vecs..])[..dim].copy_from_slice(q);
        }
        let blocks = list.len().div_ceil(BLOCK_KEYS);
        let score_vecs = blocks * BLOCK_KEYS / LANES;
        let rows = attn_sink.len().next_multiple_of(HEADS_MAX);
        self.scores.resize((rows * score_vecs).max(self.scores.len()), Lanes::ZERO);

        for block in 0..blocks {
            self.decode_block(s, list, block);
            let scores = Lanes::flat_mut(&mut self.scores[..rows * score_vecs]);
            let columns = block * BLOCK_KEYS..(block + 1) * BLOCK_KEYS;
            tiles::scores(s, &self.q[..rows * self.vecs], &self.keys, self.vecs, scale, scores, columns);
        }
        let mut denominators = Vec::with_capacity(attn_sink.len());
        for (scores, &sink) in self.scores.chunks_exact_mut(score_vecs).zip(attn_sink) {
            denominators.push(softmax(s, scores, list.len(), sink));
        }
        self.sums.fill(Lanes::ZERO);
        for block in 0..blocks {
            self.decode_block(s, list, block);
            let len = BLOCK_KEYS.min(list.len() - block * BLOCK_KEYS);
            let keys = &self.keys[..len * self.vecs];
            let p = Lanes::flat(&self.scores[..rows * score_vecs]);
            tiles::sums(s, p, block * BLOCK_KEYS, keys, &mut self.sums[..rows * self.vecs], self.vecs);
        }
        let sums = self.sums.chunks_exact(self.vecs);
        for ((sums, denominator), out) in sums.zip(denominators).zip(out.chunks_exact_mut(dim)) {
            divide(s, sums, denominator, out);
        }
    }

    /// Decodes the keys of block `block` of the list; zeros behind the last key.
    #[inline(always)]
    fn decode_block<S: Simd>(&mut self, s: S, list: &KeyList<'_>, block: usize) {
        for (i, row) in (block * BLOCK_KEYS..).zip(self.keys.chunks_exact_mut(self.vecs)) {
            if i < list.len() {
                self.codec.decode(s, list.key(i), &mut Lanes::flat_mut(row)[..self.codec.head_dim]);
            } else {
                row.fill(Lanes::ZERO);
            }
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
