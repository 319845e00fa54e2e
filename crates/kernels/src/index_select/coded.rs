//! Index scores from FP4 keys and queries in eight bits, in integers.

use std::ops::Range;

use cuvier_tensor::PagedRows;
use cuvier_tensor::formats::FP4_BLOCK;

use super::queries::CodedQueries;
use super::score::ScoreUnit;
use super::top_k::TopK;
use crate::fp4::{Panel, Sink};
use crate::simd::{LANES, Lanes, QuadBytes, Simd};
use crate::{ACTIVATION_BLOCK, IndexKeyCodec};

/// Groups of strips that are packed at a time. A strip is sixteen keys, 2.4 KiB at 128 dimensions; four with AVX2, eight
/// with AVX-512 stay in the first cache level while all heads of a few tokens meet them.
const STRIPS: usize = 4;
/// FP4 blocks and bytes of codes in a panel.
const BLOCKS: usize = ACTIVATION_BLOCK / FP4_BLOCK;
const BLOCK_BYTES: usize = FP4_BLOCK / 2;

/// For one block of dimensions, groups of `P` strips.
type Panels<const P: usize> = [[Panel; P]; STRIPS];

/// Scores one unit; `P` strips share the registers.
#[inline(always)]
pub(super) fn score<S: Simd, const P: usize>(s: S, work: ScoreUnit<'_>, q: &CodedQueries) -> Vec<TopK> {
    let ScoreUnit { unit, tokens, w, codec, k, .. } = work;
    let mut best: Vec<TopK> = unit.tokens.clone().map(|_| TopK::new(k)).collect();
    let mut panels: Vec<Panels<P>> = vec![[[Panel::ZERO; P]; STRIPS]; q.per_query()];
    let mut packer = Packer::new(*codec, unit.keys);
    for start in unit.entries.clone().step_by(STRIPS * P * LANES) {
        let end = (start + STRIPS * P * LANES).min(unit.entries.end);
        let groups = (end - start).div_ceil(P * LANES);
        for strip in 0..groups * P {
            // A group that has no second strip is not read beyond its first.
            let first = start + strip * LANES;
            if first < end {
                packer.pack(s, first..end.min(first + LANES), &mut panels, strip);
            }
        }
        for (token, best) in unit.tokens.clone().zip(&mut best) {
            let end = tokens[token].visible.min(end);
            for (group, first) in (start..end).step_by(P * LANES).enumerate() {
                let mut sink = Scores { w: w.row(token), scores: [Lanes::ZERO; P] };
                match &panels[..] {
                    [panels] => Panel::multiply_all(&panels[group], s, q.of(token, 0), &mut sink),
                    _ => add_long(s, &panels, group, q, token, &mut sink),
                }
                for (scores, first) in sink.scores.iter().zip((first..end).step_by(LANES)) {
                    best.offer(first, &scores.0[..LANES.min(end - first)]);
                }
            }
        }
    }
    best
}

/// The scores of one token and `P` strips of keys, to which the heads are added in order.
struct Scores<'a, const P: usize> {
    w: &'a [f32],
    scores: [Lanes; P],
}

impl<const P: usize> Scores<'_, P> {
    #[inline(always)]
    fn add<S: Simd>(&mut self, s: S, head: usize, strip: usize, dot: S::V) {
        let score = &mut self.scores[strip].0;
        // In this order `max` keeps a NaN of the dot product.
        let relu = s.max(s.splat(0.0), dot);
        s.store(s.fma(s.splat(self.w[head]), relu, s.load(score)), score);
    }
}

impl<const P: usize> Sink for Scores<'_, P> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, s: S, token: usize, panel: usize, sum: S::V, scale: S::V) {
        self.add(s, token, panel, s.mul(sum, scale));
    }
}

/// Adds the scores of keys of several blocks, head by head. No released model has such.
#[inline(always)]
fn add_long<S: Simd, const P: usize>(
    s: S,
    panels: &[Panels<P>],
    group: usize,
    q: &CodedQueries,
    token: usize,
    sink: &mut Scores<'_, P>,
) {
    for head in 0..sink.w.len() {
        let mut dots = Dots([Lanes::ZERO; P]);
        for (block, panels) in panels.iter().enumerate() {
            let x = std::array::from_ref(&q.of(token, block)[head]);
            Panel::multiply::<S, P, 1>(&panels[group], s, x, head, &mut dots);
        }
        for (strip, dot) in dots.0.iter().enumerate() {
            sink.add(s, head, strip, s.load(&dot.0));
        }
    }
}

/// The dot products of one head with `P` strips of keys, to which blocks are added in order.
struct Dots<const P: usize>([Lanes; P]);

impl<const P: usize> Sink for Dots<P> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, s: S, _: usize, panel: usize, sum: S::V, scale: S::V) {
        let dot = &mut self.0[panel].0;
        s.store(s.fma(sum, scale, s.load(dot)), dot);
    }
}

/// Brings stored keys to panels.
struct Packer<'a> {
    codec: IndexKeyCodec,
    keys: &'a PagedRows<u8>,
    /// Sixteen rows that do not lie side by side in memory, or whose last block is not full: codes filled up to whole
    /// blocks, then scales.
    rows: Vec<u8>,
}

impl<'a> Packer<'a> {
    fn new(codec: IndexKeyCodec, keys: &'a PagedRows<u8>) -> Self {
        Self { codec, keys, rows: Vec::new() }
    }

    /// Packs the keys `entries`, sixteen at most, to strip `strip` of the panels of each block; zeros behind them.
    #[inline(always)]
    fn pack<S: Simd, const P: usize>(
        &mut self,
        s: S,
        entries: Range<usize>,
        panels: &mut [Panels<P>],
        strip: usize,
    ) {
        let row_bytes = self.codec.row_bytes();
        let run = self.keys.run(entries.start, entries.end);
        self.prefetch(s, run);
        let blocks = self.codec.dim.div_ceil(FP4_BLOCK);
        let codes = blocks * BLOCK_BYTES;
        let (rows, stride) = if run.len() == LANES * row_bytes && self.codec.dim.is_multiple_of(FP4_BLOCK) {
            (run, row_bytes)
        } else {
            self.copy(entries, codes);
            (&self.rows[..], codes + blocks)
        };
        for (i, first) in (0..blocks).step_by(BLOCKS).enumerate() {
            let n = (blocks - first).min(BLOCKS);
            let mut scales: QuadBytes = [0; 4 * LANES];
            for (out, row) in scales.as_chunks_mut::<BLOCKS>().0.iter_mut().zip(rows.chunks_exact(stride)) {
                let row = &row[codes + first..][..n];
                match row.as_array::<BLOCKS>() {
                    Some(all) => *out = *all,
                    None => out[..n].copy_from_slice(row),
                }
            }
            let panel = &mut panels[i][strip / P][strip % P];
            panel.pack(s, &rows[first * BLOCK_BYTES..], stride, &scales, n * FP4_BLOCK);
        }
    }

    /// Asks for what comes behind `run`: mostly the next keys, or else no harm.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, run: &[u8]) {
        for line in (0..run.len()).step_by(64) {
            s.prefetch(run.as_ptr().wrapping_add(run.len() + line));
        }
    }

    /// Copies the keys `entries` to `rows`, with `codes` bytes of codes each; zeros behind the last.
    fn copy(&mut self, entries: Range<usize>, codes: usize) {
        let own = self.codec.dim.div_ceil(2);
        self.rows.clear();
        for entry in entries {
            let (row_codes, scales) = self.keys.row(entry).split_at(own);
            self.rows.extend_from_slice(row_codes);
            self.rows.resize(self.rows.len() + codes - own, 0);
            self.rows.extend_from_slice(scales);
        }
        self.rows.resize(LANES * (codes + self.codec.dim.div_ceil(FP4_BLOCK)), 0);
    }
}
