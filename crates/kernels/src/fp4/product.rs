//! The product of some tokens with some rows of a matrix, on one thread.

use std::cell::RefCell;

use cuvier_tensor::formats::FP4_BLOCK;

use super::panel::Strip;
use super::rows::{self, FourSums};
use super::{BLOCK_BYTES, BlocksRef, Fp4Matrix, Panel, Range, SCALES, Sink};
use crate::simd::{FourBlocks, LANES, Lanes, Simd, copy_lanes};
use crate::{ACTIVATION_BLOCK, Isa, Vectorized};

/// Blocks of columns that weights are asked for before they are needed.
const AHEAD: usize = 8;
/// From so many tokens on, two strips at a time take less time than one: the rows of two compete for the sets of the
/// first cache level, and few tokens do not make up for that.
const PAIRED_TOKENS: usize = 8;

/// The product of the module with the rows `rows` of `w`: `out` is `[tokens, rows]`.
///
/// # Panics
/// If the shapes disagree.
pub(crate) fn product(isa: Isa, x: BlocksRef<'_>, w: Fp4Matrix<'_>, rows: Range<usize>, out: &mut [f32]) {
    assert!(rows.start <= rows.end && rows.end <= w.rows, "rows {rows:?} of {}", w.rows);
    assert_eq!(out.len(), x.tokens() * rows.len(), "outputs");
    assert!(x.tokens() == 0 || x.blocks() == w.cols.div_ceil(ACTIVATION_BLOCK), "inputs");
    if out.is_empty() {
        return;
    }
    let n_rows = rows.len();
    SCRATCH.with_borrow_mut(|scratch| {
        let strips = n_rows.div_ceil(LANES);
        let Scratch { copy, sums, lanes } = scratch;
        lanes.resize(x.tokens() * strips, Lanes::ZERO);
        isa.dispatch(Product { x, w, rows, out: lanes, copy, sums });
        for (token, out) in out.chunks_exact_mut(n_rows).enumerate() {
            copy_lanes(lanes[token..].iter().step_by(x.tokens()), out);
        }
    });
}

/// Memory of a thread that it keeps from one product to the next.
#[derive(Default)]
struct Scratch {
    copy: Copied,
    sums: Vec<FourSums>,
    /// `[strips, tokens]`, zeros behind the last row.
    lanes: Vec<Lanes>,
}

/// Codes and scales of a strip that has fewer than sixteen rows.
#[derive(Default)]
struct Copied {
    codes: Vec<u8>,
    scales: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

struct Product<'a, 'o> {
    x: BlocksRef<'a>,
    w: Fp4Matrix<'a>,
    rows: Range<usize>,
    out: &'o mut [Lanes],
    copy: &'o mut Copied,
    sums: &'o mut Vec<FourSums>,
}

impl Vectorized for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if let Some(x) = self.x.fours() {
            self.direct::<S, 1>(s, x);
        } else if let Some(x) = self.x.fours() {
            self.direct::<S, 2>(s, x);
        } else {
            self.packed(s);
        }
    }
}

impl Product<'_, '_> {
    /// Rows are met one by one.
    #[inline(always)]
    fn direct<S: Simd, const T: usize>(self, s: S, x: [&[FourBlocks]; T]) {
        let Self { w, rows, out, copy, sums, .. } = self;
        for (i, first) in rows.clone().step_by(LANES).enumerate() {
            let strip = w.strip(first..rows.end.min(first + LANES), copy);
            let mut out = Outputs { out: &mut *out, tokens: T, strip: i };
            rows::product(s, &strip, x, sums, &mut out);
        }
    }

    /// Two strips at a time, where there are registers for both: activations are read half as often.
    #[inline(always)]
    fn packed<S: Simd>(self, s: S) {
        let Self { x, w, mut rows, out, copy, .. } = self;
        let mut out = Outputs { out, tokens: x.tokens(), strip: 0 };
        while S::ACCUMULATORS >= 24 && x.tokens() >= PAIRED_TOKENS && rows.len() >= 2 * LANES {
            let strips = [rows.start, rows.start + LANES].map(|first| w.whole_strip(first));
            packed(s, strips, x, &mut out);
            rows.start += 2 * LANES;
            out.strip += 2;
        }
        for first in rows.clone().step_by(LANES) {
            packed(s, [w.strip(first..rows.end.min(first + LANES), copy)], x, &mut out);
            out.strip += 1;
        }
    }
}

impl<'a> Fp4Matrix<'a> {
    /// The sixteen rows from row `first` on.
    #[inline(always)]
    fn whole_strip(&self, first: usize) -> Strip<'a> {
        let (codes_stride, scales_stride) = (self.cols / 2, self.cols / FP4_BLOCK);
        let codes = &self.codes[first * codes_stride..];
        Strip { codes, codes_stride, scales: &self.scales[first * scales_stride..], scales_stride }
    }

    /// The rows `rows`, at most sixteen; in `copy` if there are fewer.
    #[inline(always)]
    fn strip<'s>(&'s self, rows: Range<usize>, copy: &'s mut Copied) -> Strip<'s> {
        let whole = self.whole_strip(rows.start);
        if rows.len() == LANES {
            return whole;
        }
        let fill = |out: &mut Vec<u8>, bytes: &[u8], stride: usize| {
            out.clear();
            out.extend_from_slice(&bytes[..rows.len() * stride]);
            out.resize(LANES * stride, 0);
        };
        fill(&mut copy.codes, whole.codes, whole.codes_stride);
        fill(&mut copy.scales, whole.scales, whole.scales_stride);
        Strip { codes: &copy.codes, scales: &copy.scales, ..whole }
    }
}

/// Where the outputs of one strip belong.
pub(super) struct Outputs<'o> {
    /// `[strips, tokens]`.
    out: &'o mut [Lanes],
    tokens: usize,
    strip: usize,
}

impl Outputs<'_> {
    /// Sets the outputs of token `token`.
    #[inline(always)]
    pub(super) fn store<S: Simd>(&mut self, s: S, token: usize, v: S::V) {
        s.store(v, &mut self.out[self.strip * self.tokens + token].0);
    }
}

impl Sink for Outputs<'_> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, s: S, token: usize, panel: usize, sum: S::V, scale: S::V) {
        let out = &mut self.out[(self.strip + panel) * self.tokens + token].0;
        s.store(s.fma(sum, scale, s.load(out)), out);
    }
}

/// Asks for the weights and scales that come [`AHEAD`] blocks after block `block`, in this strip or the one `P` strips on.
#[inline(always)]
fn prefetch<S: Simd, const P: usize>(s: S, strip: &Strip<'_>, blocks: usize, block: usize) {
    let ahead = block + AHEAD.min(blocks);
    let offset = match ahead < blocks {
        true => ahead * BLOCK_BYTES,
        false => P * LANES * strip.codes_stride + (ahead - blocks) * BLOCK_BYTES,
    };
    let at = strip.codes.as_ptr().wrapping_add(offset);
    for r in 0..LANES {
        s.prefetch(at.wrapping_add(r * strip.codes_stride));
    }
    s.prefetch(strip.scales.as_ptr().wrapping_add(P * LANES * strip.scales_stride + block * LANES * SCALES));
}

/// Weights of `P` strips brought to the first cache level and met there by all tokens.
#[inline(always)]
fn packed<S: Simd, const P: usize>(s: S, strips: [Strip<'_>; P], x: BlocksRef<'_>, out: &mut Outputs<'_>) {
    let blocks = x.blocks();
    let mut panels = [Panel::ZERO; P];
    let mut scales = [[[0; 4 * LANES]; 4]; P];
    out.out[out.strip * out.tokens..][..P * out.tokens].fill(Lanes::ZERO);
    for block in 0..blocks {
        for p in 0..P {
            let strip = &strips[p];
            if block.is_multiple_of(4) {
                scales[p] = strip.scales(s, block);
            }
            prefetch::<S, P>(s, strip, blocks, block);
            let columns = strip.n_scales(block) * FP4_BLOCK;
            panels[p].pack(s, strip.codes(block), strip.codes_stride, &scales[p][block % 4], columns);
        }
        Panel::multiply_all(&panels, s, x.block(block), out);
    }
}
