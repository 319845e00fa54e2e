//! The product of some tokens with some rows of a matrix, on one thread.

#![expect(clippy::needless_range_loop, reason = "loops of constant length, which must unroll into registers")]

use std::cell::RefCell;

use cuvier_tensor::{Int8Panel, PANEL_ROWS};

use super::Range;
use crate::fp4::{Block, BlocksRef};
use crate::simd::{LANES, Lanes, Simd};
use crate::{Isa, Vectorized};

/// Strips of sixteen rows, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Strips<'a> {
    panels: &'a [Int8Panel],
    first_row: usize,
}

thread_local! {
    /// `[tokens, strips]`, kept from one product to the next.
    static SUMS: RefCell<Vec<Lanes>> = RefCell::default();
}

impl<'a> Strips<'a> {
    /// The strips from row `first_row` on, which begins one.
    pub(crate) fn new(panels: &'a [Int8Panel], first_row: usize) -> Self {
        assert!(first_row.is_multiple_of(PANEL_ROWS), "row {first_row} does not begin a strip");
        Self { panels, first_row }
    }
}

/// The product of the module with the rows `rows`: `out` is `[tokens, rows]`.
///
/// # Panics
/// If the shapes disagree.
pub(crate) fn product(isa: Isa, x: BlocksRef<'_>, w: Strips<'_>, rows: Range<usize>, out: &mut [f32]) {
    assert_eq!(out.len(), x.tokens() * rows.len(), "outputs");
    if out.is_empty() {
        return;
    }
    let blocks = x.blocks();
    let first = (rows.start - w.first_row) / PANEL_ROWS;
    let strips = (rows.end - w.first_row).div_ceil(PANEL_ROWS) - first;
    let panels = &w.panels[first * blocks..][..strips * blocks];
    let skipped = rows.start - w.first_row - first * PANEL_ROWS;
    SUMS.with_borrow_mut(|sums| {
        sums.clear();
        sums.resize(x.tokens() * strips, Lanes::ZERO);
        isa.dispatch(Product { x, panels, strips, sums });
        for (out, sums) in out.chunks_exact_mut(rows.len()).zip(sums.chunks_exact(strips)) {
            let (head, rest) = out.split_at_mut(rows.len().min(LANES - skipped));
            head.copy_from_slice(&sums[0].0[skipped..][..head.len()]);
            for (out, sums) in rest.chunks_mut(LANES).zip(&sums[1..]) {
                out.copy_from_slice(&sums.0[..out.len()]);
            }
        }
    });
}

struct Product<'a, 'o> {
    x: BlocksRef<'a>,
    panels: &'a [Int8Panel],
    strips: usize,
    sums: &'o mut [Lanes],
}

impl Vectorized for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let blocks = self.x.blocks();
        if blocks == 0 {
            return;
        }
        for (strip, panels) in self.panels.chunks_exact(blocks).enumerate() {
            if self.x.tokens() == 1 {
                self.alone(s, strip, panels);
                continue;
            }
            for (block, panel) in panels.iter().enumerate() {
                if S::ACCUMULATORS >= 16 {
                    self.tiles::<S, 8>(s, strip, block, panel);
                } else {
                    self.tiles::<S, 4>(s, strip, block, panel);
                }
            }
        }
    }
}

impl Product<'_, '_> {
    /// One token: its sums stay in registers.
    #[inline(always)]
    fn alone<S: Simd>(&mut self, s: S, strip: usize, panels: &[Int8Panel]) {
        let mut sum = [s.splat(0.0)];
        for (block, panel) in panels.iter().enumerate() {
            let x = self.x.block(block).first_chunk().expect("one token");
            sum = tile::<S, 1>(s, panel, x, sum);
        }
        s.store(sum[0], &mut self.sums[strip].0);
    }

    /// All tokens with one panel, in tiles of at most `T` as equal as possible.
    #[inline(always)]
    fn tiles<S: Simd, const T: usize>(&mut self, s: S, strip: usize, block: usize, panel: &Int8Panel) {
        let x = self.x.block(block);
        let tiles = x.len().div_ceil(T);
        let mut first = 0;
        for tile in 0..tiles {
            let tokens = (x.len() - first).div_ceil(tiles - tile);
            let x = &x[first..];
            match tokens {
                1 => self.tile::<S, 1>(s, strip, panel, x, first),
                2 => self.tile::<S, 2>(s, strip, panel, x, first),
                3 => self.tile::<S, 3>(s, strip, panel, x, first),
                4 => self.tile::<S, 4>(s, strip, panel, x, first),
                5 if T >= 5 => self.tile::<S, 5>(s, strip, panel, x, first),
                6 if T >= 6 => self.tile::<S, 6>(s, strip, panel, x, first),
                7 if T >= 7 => self.tile::<S, 7>(s, strip, panel, x, first),
                8 if T >= 8 => self.tile::<S, 8>(s, strip, panel, x, first),
                _ => unreachable!("{tokens} tokens in a tile of at most {T}"),
            }
            first += tokens;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const T: usize>(
        &mut self,
        s: S,
        strip: usize,
        panel: &Int8Panel,
        x: &[Block],
        first: usize,
    ) {
        let x = x.first_chunk::<T>().expect("as many tokens");
        let mut sums = [s.splat(0.0); T];
        for t in 0..T {
            sums[t] = s.load(&self.sums[(first + t) * self.strips + strip].0);
        }
        let sums = tile::<S, T>(s, panel, x, sums);
        for t in 0..T {
            s.store(sums[t], &mut self.sums[(first + t) * self.strips + strip].0);
        }
    }
}

/// Adds the products of a panel and `T` blocks of activations.
#[inline(always)]
fn tile<S: Simd, const T: usize>(s: S, panel: &Int8Panel, x: &[Block; T], mut sums: [S::V; T]) -> [S::V; T] {
    let mut totals = [s.zero_int(); T];
    for t in 0..T {
        totals[t] = s.start_signed(x[t].total);
    }
    for (i, quads) in panel.codes.as_chunks::<8>().0.iter().enumerate() {
        for j in 0..8 {
            let w = s.load_signed(&quads[j]);
            for t in 0..T {
                totals[t] = s.multiply_signed(totals[t], w, x[t].codes[i][j]);
            }
        }
    }
    let units = s.load(&panel.units);
    for t in 0..T {
        let scale = s.mul(units, s.splat(x[t].scale));
        sums[t] = s.fma(s.int_to_f32(totals[t]), scale, sums[t]);
    }
    sums
}
