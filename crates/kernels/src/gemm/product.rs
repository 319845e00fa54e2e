//! The product of some tokens with some rows of weights, on one thread.

#![expect(clippy::needless_range_loop, reason = "loops of constant length, which must unroll into registers")]

use std::cell::RefCell;
use std::ops::Range;

use cuvier_tensor::{Int8Panel, MatRef, PANEL_ROWS as INT8_ROWS, WeightFormat, WeightMatrix};

use super::panel::{Panels, Scratch};
use super::rows::{ForRows, Row, Rows, for_rows};
use super::tile::stored_tile;
use crate::fp4::{self, Blocks, Fp4Matrix};
use crate::int8::{self, Strips};
use crate::isa::Vectorized;
use crate::simd::Simd;
use crate::{ACTIVATION_BLOCK, Activations, Compute, Isa, QuantisedRows};

/// Rows of weights that are handled together: a divisor of the rows that share an FP8 scale, and few enough
/// that their decoded columns stay in the cache.
pub(crate) const PANEL_ROWS: usize = 64;
/// Tokens that are handled together: as many as keep their lane sums in the cache.
pub(crate) const PANEL_TOKENS: usize = 96;

/// The inputs of a product: rows of a matrix, all or some, as numbers and, where the weights ask for it, in eight
/// bits.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    exact: MatRef<'a>,
    quantised: Option<&'a QuantisedRows>,
    rows: Selection<'a>,
}

#[derive(Clone, Copy)]
enum Selection<'a> {
    Every { start: usize, step: usize, len: usize },
    These(&'a [u32]),
}

impl<'a> Inputs<'a> {
    /// All rows of `x`, for products with matrices in the formats of `weights`. Quantises them if need be, so it
    /// must not be called by several tasks at once, which would wait for each other's threads.
    pub(crate) fn new<'w>(
        c: &Compute,
        x: &'a Activations<'_>,
        weights: impl IntoIterator<Item = &'w WeightMatrix>,
    ) -> Self {
        let quantised = weights.into_iter().any(takes_eight_bits).then(|| x.quantised(c));
        let exact = x.exact();
        Self { exact, quantised, rows: Selection::Every { start: 0, step: 1, len: exact.rows() } }
    }

    /// The rows `rows` of the matrix.
    pub(crate) fn range(self, rows: Range<usize>) -> Self {
        self.every(rows.start, 1, rows.len())
    }

    /// `len` rows of the matrix, `step` apart.
    pub(crate) fn every(self, start: usize, step: usize, len: usize) -> Self {
        Self { rows: Selection::Every { start, step, len }, ..self }
    }

    /// The rows of the matrix that `rows` lists.
    pub(crate) fn listed(self, rows: &'a [u32]) -> Self {
        Self { rows: Selection::These(rows), ..self }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        match self.rows {
            Selection::Every { len, .. } => len,
            Selection::These(rows) => rows.len(),
        }
    }

    /// Numbers of a row.
    pub(crate) fn cols(&self) -> usize {
        self.exact.cols()
    }

    /// Row `t` of the selection.
    #[inline(always)]
    pub(crate) fn row(&self, t: usize) -> &'a [f32] {
        self.exact.row(self.index(t))
    }

    /// Row `t` of the selection in eight bits, and the scale of each of its blocks.
    ///
    /// # Panics
    /// If the inputs were made for weights that do not ask for it.
    #[inline(always)]
    pub(crate) fn quantised(&self, t: usize) -> (&'a [[i8; ACTIVATION_BLOCK]], &'a [f32]) {
        let rows = self.quantised.expect("inputs are quantised for these weights");
        let row = self.index(t);
        (rows.codes(row), rows.scales(row))
    }

    /// Brings the rows into the form that products with `weights` read, if that is not the one they have.
    pub(crate) fn gather(self, isa: Isa, weights: &[&WeightMatrix], gathered: &mut Blocks) {
        if weights.iter().any(|w| takes_eight_bits(w)) {
            let blocks = self.cols().div_ceil(ACTIVATION_BLOCK);
            gathered.gather(isa, blocks, (0..self.len()).map(|t| self.quantised(t)));
        }
        if weights.iter().any(|w| Fp4Matrix::of(w).is_some()) {
            gathered.gather_fours((0..self.len()).map(|t| self.quantised(t).0));
        }
    }

    #[inline(always)]
    fn index(&self, t: usize) -> usize {
        match self.rows {
            Selection::Every { start, step, .. } => start + t * step,
            Selection::These(rows) => rows[t] as usize,
        }
    }
}

/// Whether products with `w` see their inputs in eight bits.
fn takes_eight_bits(w: &WeightMatrix) -> bool {
    !matches!(w.format(), WeightFormat::F32(_) | WeightFormat::Bf16(_))
}

/// `out[t, r] = sum over i of w[rows.start + r, i] * x[t, i]`, `out` being `[x.len(), rows.len()]`; at most
/// [`PANEL_ROWS`] rows. `gathered` is what [`Inputs::gather`] made of `x` for weights in the format of `w`.
pub(crate) fn product(
    isa: Isa,
    x: Inputs<'_>,
    gathered: &Blocks,
    w: &WeightMatrix,
    rows: Range<usize>,
    out: &mut [f32],
) {
    assert!(x.cols() == w.cols() && out.len() == x.len() * rows.len());
    assert!(rows.len() <= PANEL_ROWS && rows.end <= w.rows());
    if out.is_empty() {
        return;
    }
    match w.format() {
        WeightFormat::Fp4 { .. } => {
            fp4::product(isa, gathered.view(), Fp4Matrix::of(w).expect("FP4"), rows, out);
        }
        WeightFormat::Int8(panels) => {
            int8::product(isa, gathered.view(), Strips::new(panels, 0), rows, out);
        }
        WeightFormat::Fp8 { .. } => PACKED.with_borrow_mut(|packed| {
            let first_row = rows.start / INT8_ROWS * INT8_ROWS;
            int8::pack_strips(isa, w, first_row..rows.end, packed);
            int8::product(isa, gathered.view(), Strips::new(packed, first_row), rows, out);
        }),
        WeightFormat::F32(_) | WeightFormat::Bf16(_) => for_rows(w, ProductWith { isa, x, rows, out }),
    }
}

/// A product whose format of weights is still open.
struct ProductWith<'x, 'o> {
    isa: Isa,
    x: Inputs<'x>,
    rows: Range<usize>,
    out: &'o mut [f32],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// FP8 weights that were not packed when the model was loaded.
    static PACKED: RefCell<Vec<Int8Panel>> = RefCell::default();
}

impl ForRows for ProductWith<'_, '_> {
    type Output = ();

    fn run<'a, W: Rows<'a>>(self, w: W) {
        let Self { isa, x, rows, out } = self;
        if x.len() <= DIRECT_TOKENS {
            isa.dispatch(Direct { w, x, rows, out });
        } else {
            SCRATCH.with_borrow_mut(|scratch| isa.dispatch(Panels { w, x, rows, out, scratch }));
        }
    }
}

/// Up to so many tokens, decoding weights into registers, for every tile anew, takes less time than by way of the
/// cache.
const DIRECT_TOKENS: usize = 12;

/// Few tokens: weights are decoded in registers.
struct Direct<'x, 'o, W> {
    w: W,
    x: Inputs<'x>,
    rows: Range<usize>,
    out: &'o mut [f32],
}

impl<'a, W: Rows<'a>> Vectorized for Direct<'_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match S::ACCUMULATORS {
            16.. => self.groups::<S, 4, 4>(s),
            _ if self.x.len() == 1 => self.groups::<S, 4, 1>(s),
            _ => self.groups::<S, 2, 2>(s),
        }
    }
}

impl<'a, W: Rows<'a>> Direct<'_, '_, W> {
    /// Goes through groups of `R` rows, and for each through tiles of at most `T` tokens, as equal as possible.
    #[inline(always)]
    fn groups<S: Simd, const R: usize, const T: usize>(mut self, s: S) {
        let n_rows = self.rows.len();
        for group in (0..n_rows).step_by(R) {
            // Behind the last row stands the last row again; its sums are dropped.
            let mut rows = [self.w.row(self.rows.start + group); R];
            for r in 1..R {
                rows[r] = self.w.row(self.rows.start + (group + r).min(n_rows - 1));
            }
            let tiles = self.x.len().div_ceil(T);
            let mut first = 0;
            for tile in 0..tiles {
                let tokens = (self.x.len() - first).div_ceil(tiles - tile);
                match tokens {
                    1 => self.tile::<S, R, 1>(s, &rows, group, first),
                    2 if T >= 2 => self.tile::<S, R, 2>(s, &rows, group, first),
                    3 if T >= 3 => self.tile::<S, R, 3>(s, &rows, group, first),
                    4 if T >= 4 => self.tile::<S, R, 4>(s, &rows, group, first),
                    _ => unreachable!("{tokens} tokens in a tile of at most {T}"),
                }
                first += tokens;
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const T: usize>(
        &mut self,
        s: S,
        rows: &[Row<'a, W::Chunk, W::Scales>; R],
        group: usize,
        first: usize,
    ) {
        let mut x: [&[f32]; T] = [&[]; T];
        for t in 0..T {
            x[t] = self.x.row(first + t);
        }
        let sums = stored_tile::<S, W, R, T>(s, rows, &x);
        let n_rows = self.rows.len();
        for r in 0..R {
            for t in 0..T {
                let sum = s.sum(sums[r][t]);
                if group + r < n_rows {
                    self.out[(first + t) * n_rows + group + r] = sum;
                }
            }
        }
    }
}
