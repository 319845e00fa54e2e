//! Products of many tokens: a panel of weights is decoded into the cache and then met by all tokens.
//!
//! Columns are taken in parts, so that a part of a panel and of a few tokens fits the cache next to the
//! registers. Between parts the sums of all lanes wait in memory: their order stays that of one long loop.

#![expect(clippy::needless_range_loop, reason = "loops of constant length, which must unroll into registers")]

use std::ops::Range;

use super::product::{Inputs, PANEL_ROWS};
use super::rows::{CHUNK, Rows, decode_chunks};
use super::tile::{Sums, decoded_tile};
use crate::isa::Vectorized;
use crate::simd::{LANES, Lanes, Simd};

/// Chunks of columns that are decoded at a time; whole blocks of every format.
const PART_CHUNKS: usize = 32;
/// Vectors of a row in one part.
const PART_VECTORS: usize = PART_CHUNKS * CHUNK / LANES;

/// A product by panels.
pub(super) struct Panels<'x, 'o, W> {
    pub w: W,
    pub x: Inputs<'x>,
    pub rows: Range<usize>,
    pub out: &'o mut [f32],
    pub scratch: &'o mut Scratch,
}

/// Memory of a thread that it keeps from one product to the next.
#[derive(Default)]
pub(super) struct Scratch {
    /// Decoded weights, `[rows / R, PART_VECTORS, R]`.
    panel: Vec<Lanes>,
    /// Part of the inputs of one tile, `[PART_VECTORS, T]`.
    inputs: Vec<Lanes>,
    /// Lane sums, `[tokens / T, rows / R, R, T]`.
    sums: Vec<Lanes>,
}

impl<'a, W: Rows<'a>> Vectorized for Panels<'_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match S::ACCUMULATORS {
            24.. => self.parts::<S, 4, 6>(s),
            6.. => self.parts::<S, 2, 3>(s),
            _ => self.parts::<S, 2, 2>(s),
        }
    }
}

/// The columns of one part, in vectors.
#[derive(Clone, Copy)]
struct Part {
    start: usize,
    end: usize,
    is_last: bool,
}

impl<'a, W: Rows<'a>> Panels<'_, '_, W> {
    /// Goes through the columns, with tiles of `R` rows and at most `T` tokens.
    #[inline(always)]
    fn parts<S: Simd, const R: usize, const T: usize>(mut self, s: S) {
        let mut scratch = std::mem::take(self.scratch);
        scratch.panel.resize(PANEL_ROWS * PART_VECTORS, Lanes::ZERO);
        scratch.inputs.resize(PART_VECTORS * T, Lanes::ZERO);
        scratch.sums.resize((PANEL_ROWS * self.x.len()).max(scratch.sums.len()), Lanes::ZERO);
        let vectors = self.x.cols().div_ceil(LANES);
        // Without columns there is one empty part, so that outputs are written.
        for start in (0..vectors.max(1)).step_by(PART_VECTORS) {
            let end = (start + PART_VECTORS).min(vectors);
            let part = Part { start, end, is_last: end == vectors };
            self.decode::<S, R>(s, part, &mut scratch.panel);
            self.tiles::<S, R, T>(s, part, &mut scratch);
        }
        *self.scratch = scratch;
    }

    /// Decodes a part of all rows.
    #[inline(always)]
    fn decode<S: Simd, const R: usize>(&self, s: S, part: Part, panel: &mut [Lanes]) {
        let chunks = part.start * LANES / CHUNK..(part.end * LANES).div_ceil(CHUNK);
        for (group, panel) in panel.as_chunks_mut::<R>().0.chunks_mut(PART_VECTORS).enumerate() {
            for r in 0..R {
                let row = group * R + r;
                if row < self.rows.len() {
                    let row = self.w.row(self.rows.start + row);
                    decode_chunks::<S, W>(s, &row, chunks.clone(), |i, v| s.store(v, &mut panel[i][r].0));
                }
            }
        }
    }

    /// Goes through the tokens in tiles as equal as possible.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const T: usize>(&mut self, s: S, part: Part, scratch: &mut Scratch) {
        let tiles = self.x.len().div_ceil(T);
        let mut first = 0;
        for tile in 0..tiles {
            let tokens = (self.x.len() - first).div_ceil(tiles - tile);
            match tokens {
                1 => self.tile::<S, R, 1>(s, part, first, scratch),
                2 => self.tile::<S, R, 2>(s, part, first, scratch),
                3 if T >= 3 => self.tile::<S, R, 3>(s, part, first, scratch),
                4 if T >= 4 => self.tile::<S, R, 4>(s, part, first, scratch),
                5 if T >= 5 => self.tile::<S, R, 5>(s, part, first, scratch),
                6 if T >= 6 => self.tile::<S, R, 6>(s, part, first, scratch),
                _ => unreachable!("{tokens} tokens in a tile of at most {T}"),
            }
            first += tokens;
        }
    }

    /// Multiplies `T` tokens from `first` on with all rows of the panel.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const T: usize>(
        &mut self,
        s: S,
        part: Part,
        first: usize,
        scratch: &mut Scratch,
    ) {
        let (x, _) = scratch.inputs.as_chunks_mut::<T>();
        let x = &mut x[..part.end - part.start];
        self.gather(s, part, first, x);
        let n_rows = self.rows.len();
        let (panel, _) = scratch.panel.as_chunks::<R>();
        let sums = &mut scratch.sums[first * PANEL_ROWS..][..T * PANEL_ROWS];
        let (places, _) = sums.as_chunks_mut::<T>();
        let (places, _) = places.as_chunks_mut::<R>();
        for (group, place) in places.iter_mut().enumerate().take(n_rows.div_ceil(R)) {
            let mut sums: Sums<S::V, R, T> = [[s.splat(0.0); T]; R];
            if part.start > 0 {
                for r in 0..R {
                    for t in 0..T {
                        sums[r][t] = s.load(&place[r][t].0);
                    }
                }
            }
            let w = &panel[group * PART_VECTORS..][..x.len()];
            let sums = decoded_tile::<S, R, T>(s, w, x, sums);
            if !part.is_last {
                for r in 0..R {
                    for t in 0..T {
                        s.store(sums[r][t], &mut place[r][t].0);
                    }
                }
                continue;
            }
            let rows = group * R..n_rows.min((group + 1) * R);
            for t in 0..T {
                let lanes: [S::V; R] = std::array::from_fn(|r| sums[r][t]);
                let out = &mut self.out[(first + t) * n_rows..][rows.clone()];
                let sums = added_up(s, lanes);
                match out.as_mut_array() {
                    Some(all) => *all = sums,
                    None => out.copy_from_slice(&sums[..out.len()]),
                }
            }
        }
    }

    /// Copies a part of the inputs of `T` tokens, the last vector padded with zeros.
    #[inline(always)]
    fn gather<S: Simd, const T: usize>(&self, s: S, part: Part, first: usize, out: &mut [[Lanes; T]]) {
        let cols = part.start * LANES..(part.end * LANES).min(self.x.cols());
        for t in 0..T {
            let (x, rest) = self.x.row(first + t)[cols.clone()].as_chunks();
            for (x, out) in x.iter().zip(out.iter_mut()) {
                s.store(s.load(x), &mut out[t].0);
            }
            if !rest.is_empty() {
                s.store(s.load_partial(rest, 0.0), &mut out[x.len()][t].0);
            }
        }
    }
}

/// The sum of all lanes of each vector; of four vectors at once where there are four.
#[inline(always)]
fn added_up<S: Simd, const R: usize>(s: S, lanes: [S::V; R]) -> [f32; R] {
    let mut sums = [0.0; R];
    let (fours, rest) = lanes.as_chunks::<4>();
    let (sums_of_four, sums_of_rest) = sums.as_chunks_mut::<4>();
    for (sums, four) in sums_of_four.iter_mut().zip(fours) {
        *sums = s.sum_four(*four);
    }
    for (sum, one) in sums_of_rest.iter_mut().zip(rest) {
        *sum = s.sum(*one);
    }
    sums
}
