//! The product of some tokens with some rows of a matrix, on one thread.

#![expect(clippy::needless_range_loop, reason = "loops of constant length, which must unroll into registers")]

use std::cell::RefCell;

use cuvier_tensor::{Int8Panel, PANEL_ROWS};

use super::Range;
use crate::fp4::{Block, BlocksRef};
use crate::simd::{LANES, Lanes, Simd, copy_lanes};
use crate::{ACTIVATION_BLOCK, Isa, Vectorized};

/// Panels that weights are asked for before they are needed. The prefetchers of the core stop at every page.
const AHEAD: usize = 4;

/// Strips of sixteen rows, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Strips<'a> {
    panels: &'a [Int8Panel],
    first_row: usize,
}

thread_local! {
    /// `[strips, tokens]`, kept from one product to the next.
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
        for (token, out) in out.chunks_exact_mut(rows.len()).enumerate() {
            let mut sums = sums[token..].iter().step_by(x.tokens());
            let (head, rest) = out.split_at_mut(rows.len().min(LANES - skipped) % LANES);
            if !head.is_empty() {
                let first = sums.next().expect("a strip");
                head.copy_from_slice(&first.0[skipped..][..head.len()]);
            }
            copy_lanes(sums, rest);
        }
    });
}

struct Product<'a, 'o> {
    x: BlocksRef<'a>,
    panels: &'a [Int8Panel],
    strips: usize,
    /// `[strips, tokens]`.
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
        if self.x.tokens() == 1 {
            for (strip, panels) in self.panels.chunks_exact(blocks).enumerate() {
                self.alone(s, strip, panels);
            }
            return;
        }
        let mut strip = 0;
        while strip < self.strips {
            strip += match self.strips - strip {
                4.. if S::ACCUMULATORS >= 24 => self.side_by_side::<S, 4, 6>(s, strip),
                _ if S::ACCUMULATORS >= 16 => self.side_by_side::<S, 1, 8>(s, strip),
                _ => self.side_by_side::<S, 1, 4>(s, strip),
            };
        }
    }
}

impl Product<'_, '_> {
    /// One token: its sums stay in registers.
    #[inline(always)]
    fn alone<S: Simd>(&mut self, s: S, strip: usize, panels: &[Int8Panel]) {
        let mut sum = s.splat(0.0);
        for (block, panel) in panels.iter().enumerate() {
            let x = self.x.block(block).first_chunk().expect("one token");
            ask(s, std::ptr::from_ref(panel).wrapping_add(AHEAD));
            let [[total]] = totals::<S, 1, 1>(s, [panel], x);
            sum = add(s, panel, &x[0], total, sum);
        }
        s.store(sum, &mut self.sums[strip].0);
    }

    /// All tokens with `P` strips, in tiles of at most `T` tokens, as equal as possible. Returns how many strips.
    #[inline(always)]
    fn side_by_side<S: Simd, const P: usize, const T: usize>(&mut self, s: S, strip: usize) -> usize {
        let blocks = self.x.blocks();
        let n_tokens = self.x.tokens();
        let tiles = n_tokens.div_ceil(T);
        for block in 0..blocks {
            let mut first = 0;
            for tile in 0..tiles {
                let tokens = (n_tokens - first).div_ceil(tiles - tile);
                match tokens {
                    1 => self.tile::<S, P, 1>(s, strip, block, first),
                    2 => self.tile::<S, P, 2>(s, strip, block, first),
                    3 => self.tile::<S, P, 3>(s, strip, block, first),
                    4 => self.tile::<S, P, 4>(s, strip, block, first),
                    5 if T >= 5 => self.tile::<S, P, 5>(s, strip, block, first),
                    6 if T >= 6 => self.tile::<S, P, 6>(s, strip, block, first),
                    7 if T >= 7 => self.tile::<S, P, 7>(s, strip, block, first),
                    8 if T >= 8 => self.tile::<S, P, 8>(s, strip, block, first),
                    _ => unreachable!("{tokens} tokens in a tile of at most {T}"),
                }
                first += tokens;
            }
        }
        P
    }

    /// `T` tokens from token `first` on with block `block` of `P` strips from strip `strip` on.
    #[inline(always)]
    fn tile<S: Simd, const P: usize, const T: usize>(
        &mut self,
        s: S,
        strip: usize,
        block: usize,
        first: usize,
    ) {
        let blocks = self.x.blocks();
        let mut panels = [&self.panels[strip * blocks + block]; P];
        for p in 1..P {
            panels[p] = &self.panels[(strip + p) * blocks + block];
        }
        let x = self.x.block(block)[first..].first_chunk::<T>().expect("as many tokens");
        let totals = totals::<S, P, T>(s, panels, x);
        for p in 0..P {
            let at = (strip + p) * self.x.tokens() + first;
            let sums = self.sums[at..].first_chunk_mut::<T>().expect("a place for each");
            for t in 0..T {
                let sum = add(s, panels[p], &x[t], totals[t][p], s.load(&sums[t].0));
                s.store(sum, &mut sums[t].0);
            }
        }
    }
}

/// Asks for the panel at `panel`, which need not exist.
#[inline(always)]
fn ask<S: Simd>(s: S, panel: *const Int8Panel) {
    for line in (0..size_of::<Int8Panel>()).step_by(64) {
        s.prefetch_far(panel.cast::<u8>().wrapping_add(line));
    }
}

/// The integer products of `P` panels and `T` blocks of activations.
#[inline(always)]
fn totals<S: Simd, const P: usize, const T: usize>(
    s: S,
    panels: [&Int8Panel; P],
    x: &[Block; T],
) -> [[S::Int; P]; T] {
    let mut totals = [[s.zero_int(); P]; T];
    for t in 0..T {
        totals[t] = [s.start_signed(x[t].total); P];
    }
    // Two quads at a time: with more unrolled the compiler loads weights ahead until it spills sums, with one it keeps all
    // sums in memory.
    for i in 0..ACTIVATION_BLOCK / 8 {
        for j in 0..2 {
            let quad = 2 * i + j;
            let mut w = [s.load_signed(&panels[0].codes[quad]); P];
            for p in 1..P {
                w[p] = s.load_signed(&panels[p].codes[quad]);
            }
            for t in 0..T {
                for p in 0..P {
                    totals[t][p] = s.multiply_signed(totals[t][p], w[p], x[t].codes[i / 4][2 * (i % 4) + j]);
                }
            }
        }
    }
    totals
}

/// `sum` and what `total` of a panel and a block stands for.
#[inline(always)]
fn add<S: Simd>(s: S, panel: &Int8Panel, x: &Block, total: S::Int, sum: S::V) -> S::V {
    let scale = s.mul(s.load(&panel.units), s.splat(x.scale));
    s.fma(s.int_to_f32(total), scale, sum)
}
