//! One panel of outputs: the right matrix packed, the left one read number by number, sums in registers.

#![expect(clippy::needless_range_loop, reason = "loops of constant length, which must unroll into registers")]

use std::cell::RefCell;
use std::ops::Range;

use cuvier_tensor::MatRef;

use super::Store;
use crate::DisjointRows;
use crate::isa::{Isa, Vectorized};
use crate::simd::{LANES, Lanes, Simd};

/// Vectors of a panel, at most.
const PANEL_VECTORS: usize = 4;

/// How many panels `n` columns make, and the columns of each but the last: as equal as possible in whole vectors.
pub(super) fn panels(n: usize) -> (usize, usize) {
    let vectors = n.div_ceil(LANES);
    let cols = vectors.div_ceil(vectors.div_ceil(PANEL_VECTORS)) * LANES;
    (n.div_ceil(cols), cols)
}
/// Terms of the sums that are packed at a time: 64 KiB, which stay in the second cache level for all rows.
const PART: usize = 256;

/// The left matrix: number `(i, k)` lies at `i * row_step + k * term_step`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    data: &'a [f32],
    row_step: usize,
    term_step: usize,
}

impl<'a> Left<'a> {
    /// Output row `i` has the terms of row `i`.
    pub(super) fn rows(a: MatRef<'a>) -> Self {
        let (data, stride) = a.parts();
        Self { data, row_step: stride, term_step: 1 }
    }

    /// Output row `i` has the terms of column `i`.
    pub(super) fn columns(a: MatRef<'a>) -> Self {
        let (data, stride) = a.parts();
        Self { data, row_step: 1, term_step: stride }
    }
}

/// The outputs `rows` by `cols`, which nobody else writes.
pub(super) struct Panel<'a> {
    pub a: Left<'a>,
    pub b: MatRef<'a>,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
    pub store: Store,
    pub out: &'a DisjointRows<'a, f32>,
}

thread_local! {
    static PACKED: RefCell<Vec<[Lanes; PANEL_VECTORS]>> = const { RefCell::new(Vec::new()) };
}

/// Computes a panel.
pub(super) fn multiply(isa: Isa, panel: Panel<'_>) {
    PACKED.with_borrow_mut(|packed| isa.dispatch(Multiply { panel, packed }));
}

struct Multiply<'a, 'p> {
    panel: Panel<'a>,
    packed: &'p mut Vec<[Lanes; PANEL_VECTORS]>,
}

impl Vectorized for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { panel, packed } = self;
        let terms = panel.b.rows();
        packed.resize(PART, [Lanes::ZERO; PANEL_VECTORS]);
        // Without terms there is one empty part, so that outputs are written.
        for start in (0..terms.max(1)).step_by(PART) {
            let part = start..terms.min(start + PART);
            pack(panel.b, part.clone(), panel.cols.clone(), packed);
            let is_first = start == 0 && panel.store == Store::Set;
            let packed = &packed[..part.len()];
            if const { S::ACCUMULATORS >= 24 } {
                match panel.cols.len().div_ceil(LANES) {
                    1 => panel.row_tiles::<S, 6, 1>(s, part, packed, is_first),
                    2 => panel.row_tiles::<S, 6, 2>(s, part, packed, is_first),
                    3 => panel.row_tiles::<S, 6, 3>(s, part, packed, is_first),
                    _ => panel.row_tiles::<S, 5, PANEL_VECTORS>(s, part, packed, is_first),
                }
            } else if const { S::ACCUMULATORS >= 6 } {
                panel.row_tiles::<S, 6, 1>(s, part, packed, is_first);
            } else {
                panel.row_tiles::<S, 2, 1>(s, part, packed, is_first);
            }
        }
    }
}

/// Copies the columns `cols` of the rows `part` of `b`, the last vector filled up with zeros.
#[inline(always)]
fn pack(b: MatRef<'_>, part: Range<usize>, cols: Range<usize>, packed: &mut [[Lanes; PANEL_VECTORS]]) {
    for (row, packed) in part.zip(packed) {
        // Vector by vector: lengths that only the program knows would be copied by a call each.
        let (vectors, rest) = b.row(row)[cols.clone()].as_chunks::<LANES>();
        for (to, from) in packed.iter_mut().zip(vectors) {
            to.0 = *from;
        }
        if !rest.is_empty() {
            let mut last = [0.0; LANES];
            last[..rest.len()].copy_from_slice(rest);
            packed[vectors.len()].0 = last;
        }
    }
}

impl Panel<'_> {
    /// Goes through the rows in tiles of at most `R`, as equal as possible, and `V` vectors at a time.
    #[inline(always)]
    fn row_tiles<S: Simd, const R: usize, const V: usize>(
        &self,
        s: S,
        part: Range<usize>,
        b: &[[Lanes; PANEL_VECTORS]],
        is_first: bool,
    ) {
        let tiles = self.rows.len().div_ceil(R);
        let mut first = self.rows.start;
        for tile in 0..tiles {
            let count = (self.rows.end - first).div_ceil(tiles - tile);
            for vector in (0..self.cols.len().div_ceil(LANES)).step_by(V) {
                match count {
                    1 => {
                        s.apart(Tile::<1, V> { panel: self, first, vector, part: part.clone(), b, is_first });
                    }
                    2 => {
                        s.apart(Tile::<2, V> { panel: self, first, vector, part: part.clone(), b, is_first });
                    }
                    3 => {
                        s.apart(Tile::<3, V> { panel: self, first, vector, part: part.clone(), b, is_first });
                    }
                    4 => {
                        s.apart(Tile::<4, V> { panel: self, first, vector, part: part.clone(), b, is_first });
                    }
                    5 => {
                        s.apart(Tile::<5, V> { panel: self, first, vector, part: part.clone(), b, is_first });
                    }
                    _ => {
                        s.apart(Tile::<6, V> { panel: self, first, vector, part: part.clone(), b, is_first });
                    }
                }
            }
            first += count;
        }
    }
}

/// `R` rows from `first` on, `V` vectors of columns from `vector` on, and the terms of one part.
struct Tile<'a, const R: usize, const V: usize> {
    panel: &'a Panel<'a>,
    first: usize,
    vector: usize,
    part: Range<usize>,
    b: &'a [[Lanes; PANEL_VECTORS]],
    is_first: bool,
}

impl<const R: usize, const V: usize> Vectorized for Tile<'_, R, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { panel, first, vector, ref part, b, is_first } = self;
        let Left { data, row_step, term_step } = panel.a;
        let at = first * row_step + part.start * term_step;
        let terms = b.len();
        assert!(
            terms == 0 || at + (R - 1) * row_step + (terms - 1) * term_step < data.len(),
            "terms of the left matrix"
        );
        let mut sums = [[s.splat(0.0); V]; R];
        // Whole vectors apart, so that sums stay in registers from load to store.
        let is_whole = panel.cols.len() >= (vector + V) * LANES;
        if !is_first && is_whole {
            for r in 0..R {
                let (out, _) = self.out(first + r).as_chunks();
                let out: &[_; V] = out.first_chunk().expect("whole vectors");
                for v in 0..V {
                    sums[r][v] = s.load(&out[v]);
                }
            }
        } else if !is_first {
            for r in 0..R {
                let mut parts = self.out(first + r).chunks(LANES);
                for v in 0..V {
                    sums[r][v] = s.load_partial(parts.next().unwrap_or(&[]), 0.0);
                }
            }
        }
        for (k, b) in b.iter().enumerate() {
            let mut right = [s.splat(0.0); V];
            for v in 0..V {
                right[v] = s.load(&b[vector + v].0);
            }
            for r in 0..R {
                // SAFETY: `k < terms` and `r < R`, so the index is at most the one asserted above.
                let left = s.splat(unsafe { *data.get_unchecked(at + r * row_step + k * term_step) });
                for v in 0..V {
                    sums[r][v] = s.fma(left, right[v], sums[r][v]);
                }
            }
        }
        if is_whole {
            for r in 0..R {
                let (out, _) = self.out(first + r).as_chunks_mut();
                let out: &mut [_; V] = out.first_chunk_mut().expect("whole vectors");
                for v in 0..V {
                    s.store(sums[r][v], &mut out[v]);
                }
            }
        } else {
            for r in 0..R {
                let mut parts = self.out(first + r).chunks_mut(LANES);
                for v in 0..V {
                    s.store_partial(sums[r][v], parts.next().unwrap_or(&mut []));
                }
            }
        }
    }
}

impl<const R: usize, const V: usize> Tile<'_, R, V> {
    /// The tile's columns in output row `row`, as far as the panel has them.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    fn out(&self, row: usize) -> &mut [f32] {
        let Range { start, end } = self.panel.cols;
        let start = end.min(start + self.vector * LANES);
        // SAFETY: the panel's rows and columns are its own, it is computed on one thread, and each borrow ends
        // before the next one begins.
        unsafe { self.panel.out.part(row, start..end.min(start + V * LANES)) }
    }
}
