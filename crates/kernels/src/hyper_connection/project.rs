//! The streams of every token times the few long rows of `fn`, and their square sums.

use std::ops::Range;

use cuvier_tensor::{MatRef, Matrix};

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows, Lent};

/// Rows that are multiplied side by side: as many sums as AVX2 has room for.
const ROWS: usize = 6;

/// Tiles of [`ROWS`] rows that go through the tokens together, at most: all of four streams.
const TILES: usize = 4;

/// Vectors of each row that are multiplied before it is the next token's turn: few enough that those of all tiles
/// stay in the nearest cache, enough that putting the sums aside does not show.
const CHUNKS: usize = 12;

/// How many tokens ahead their numbers are asked for: the pieces of a token lie too far apart to be foreseen.
const AHEAD: usize = 2;

/// Tokens for which the rows are read once from far away.
const TOKENS: usize = 32;

/// Fewer products than this are not worth a second thread.
const PRODUCTS_PER_TASK_MIN: usize = 1 << 14;

/// Rows of weights, packed as they are multiplied: tile by tile, and in a tile one vector of each row after the
/// other. Rows and columns that a tile lacks are zeros.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rows {
    vectors: Vec<[[f32; LANES]; ROWS]>,
    rows: usize,
    cols: usize,
}

impl Rows {
    /// Packs rows of `cols` numbers.
    pub(super) fn pack(numbers: &[f32], cols: usize) -> Self {
        let (rows, chunks) = (numbers.len() / cols, cols.div_ceil(LANES));
        let mut vectors = vec![[[0.0; LANES]; ROWS]; rows.div_ceil(ROWS) * chunks];
        for (row, numbers) in numbers.chunks_exact(cols).enumerate() {
            let tile = &mut vectors[row / ROWS * chunks..][..chunks];
            for (numbers, group) in numbers.chunks(LANES).zip(tile) {
                group[row % ROWS][..numbers.len()].copy_from_slice(numbers);
            }
        }
        Self { vectors, rows, cols }
    }

    /// The rows as [`Rows::pack`] got them.
    pub(super) fn unpack(&self) -> Matrix {
        let mut out = Matrix::zeros(self.rows, self.cols);
        for row in 0..self.rows {
            let tile = self.tile(row / ROWS);
            for (numbers, group) in out.row_mut(row).chunks_mut(LANES).zip(tile) {
                numbers.copy_from_slice(&group[row % ROWS][..numbers.len()]);
            }
        }
        out
    }

    /// How long they are.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    fn tiles(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// One vector of each row of a tile after the other.
    fn tile(&self, tile: usize) -> &[[[f32; LANES]; ROWS]] {
        let chunks = self.cols.div_ceil(LANES);
        &self.vectors[tile * chunks..][..chunks]
    }
}

/// `[tokens, rows + 1]`: the dot products of each token's streams with each row of `weights`, and last its square
/// sum, each in the order of [`Simd::dot`].
pub(super) fn project(c: &Compute, streams: MatRef<'_>, weights: &Rows) -> Lent {
    let (n_tokens, n_tiles, rows) = (streams.rows(), weights.tiles(), weights.rows);
    let mut out = c.matrix(n_tokens, rows + 1);
    let parts = DisjointRows::new(out.data_mut(), rows + 1);
    // One token alone still has several tiles of rows to share among threads.
    let products = ROWS * TOKENS.min(n_tokens) * weights.cols;
    let min_len = PRODUCTS_PER_TASK_MIN.div_ceil(products.max(1));
    c.for_each_range(n_tokens.div_ceil(TOKENS) * n_tiles, min_len, |items| {
        let mut item = items.start;
        while item < items.end {
            let (block, first) = (item / n_tiles, item % n_tiles);
            let tiles = first..n_tiles.min(first + TILES).min(first + items.end - item);
            item += tiles.len();
            let tokens = block * TOKENS..n_tokens.min((block + 1) * TOKENS);
            let mut results = [[0.0; RESULTS]; TOKENS];
            let results = &mut results[..tokens.len()];
            c.isa().dispatch(Project {
                streams,
                weights,
                first: tokens.start,
                tiles: tiles.clone(),
                results,
            });
            for (token, results) in tokens.zip(results) {
                let columns = tiles.start * ROWS..rows.min(tiles.end * ROWS);
                // SAFETY: each pair of a block and a tile is one item, and lies in one range only.
                unsafe { parts.part(token, columns.clone()) }.copy_from_slice(&results[..columns.len()]);
                if tiles.start == 0 {
                    // SAFETY: as above; the last column belongs to the first tile.
                    let square_sum = unsafe { parts.part(token, rows..rows + 1) };
                    square_sum[0] = results[RESULTS - 1];
                }
            }
        }
    });
    out
}

/// Numbers per token that a call gives: the products with each row of its tiles, and the square sum.
const RESULTS: usize = TILES * ROWS + 1;

/// The tokens from `first` on, as many as there are `results`, times some tiles of rows.
struct Project<'a> {
    streams: MatRef<'a>,
    weights: &'a Rows,
    first: usize,
    tiles: Range<usize>,
    results: &'a mut [[f32; RESULTS]],
}

/// The sums of one token, lane by lane, in the order of its results.
type Sums = [[f32; LANES]; RESULTS];

impl Vectorized for Project<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.results.len() {
            // The rows of a lone token need not be near when the next one comes: each at its whole length.
            1 => self.multiply(s, usize::MAX, &mut [[[0.0; LANES]; RESULTS]; 1]),
            _ => self.multiply(s, CHUNKS, &mut [[[0.0; LANES]; RESULTS]; TOKENS]),
        }
    }
}

impl Project<'_> {
    /// Takes `step` vectors of every token at a time; `sums` are zeros.
    #[inline(always)]
    fn multiply<S: Simd>(self, s: S, step: usize, sums: &mut [Sums]) {
        let Self { streams, weights, first, tiles, results } = self;
        let (chunks, n_tokens) = (weights.cols.div_ceil(LANES), results.len());
        for start in (0..chunks).step_by(step) {
            let chunks = start..chunks.min(start.saturating_add(step));
            for (token, sums) in sums[..results.len()].iter_mut().enumerate() {
                let v = streams.row(first + token);
                let v = &v[start * LANES..v.len().min(chunks.end * LANES)];
                if token + AHEAD < n_tokens {
                    let next = &streams.row(first + token + AHEAD)[start * LANES..];
                    for chunk in 0..chunks.len() {
                        s.prefetch(next.as_ptr().wrapping_add(chunk * LANES).cast());
                    }
                }
                for (tile, sums) in tiles.clone().zip(sums.as_chunks_mut().0) {
                    add_tile(s, v, &weights.tile(tile)[chunks.clone()], sums);
                }
                if tiles.start == 0 {
                    add_squares(s, v, &mut sums[RESULTS - 1]);
                }
            }
        }
        for (sums, results) in sums.iter().zip(results) {
            for (sum, result) in sums.iter().zip(results) {
                *result = s.sum(s.load(sum));
            }
        }
    }
}

/// Adds the products of `v` with each row to its sum, lane by lane.
#[inline(always)]
fn add_tile<S: Simd>(s: S, v: &[f32], rows: &[[[f32; LANES]; ROWS]], sums: &mut [[f32; LANES]; ROWS]) {
    let mut products = [s.splat(0.0); ROWS];
    for r in 0..ROWS {
        products[r] = s.load(&sums[r]);
    }
    let (v, tail) = v.as_chunks::<LANES>();
    for (v, rows) in v.iter().zip(rows) {
        let v = s.load(v);
        for r in 0..ROWS {
            products[r] = s.fma(v, s.load(&rows[r]), products[r]);
        }
    }
    for r in 0..ROWS {
        s.store(products[r], &mut sums[r]);
    }
    if !tail.is_empty() {
        let v = s.load_partial(tail, 0.0);
        for (row, sum) in rows[rows.len() - 1].iter().zip(sums) {
            s.store(s.fma(v, s.load(row), s.load(sum)), sum);
        }
    }
}

/// Adds the squares of `v` to their sum, lane by lane.
#[inline(always)]
fn add_squares<S: Simd>(s: S, v: &[f32], sum: &mut [f32; LANES]) {
    let mut squares = s.load(sum);
    let (v, tail) = v.as_chunks::<LANES>();
    for v in v {
        let v = s.load(v);
        squares = s.fma(v, v, squares);
    }
    s.store(squares, sum);
    if !tail.is_empty() {
        let v = s.load_partial(tail, 0.0);
        s.store(s.fma(v, v, s.load(sum)), sum);
    }
}
