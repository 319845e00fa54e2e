//! The product of some tokens with some rows of a matrix, on one thread.

use std::cell::RefCell;

use super::panel::Strip;
use super::rows::{self, FourSums};
use super::{BLOCK_BYTES, BlocksRef, Fp4Matrix, Panel, Range, SCALES, Sink};
use crate::simd::{LANES, Lanes, Simd};
use crate::{ACTIVATION_BLOCK, Isa, Vectorized};

/// Blocks of columns that weights are asked for before they are needed.
const AHEAD: usize = 8;

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
            let lanes = lanes[token..].iter().step_by(x.tokens());
            for (out, lanes) in out.chunks_mut(LANES).zip(lanes) {
                out.copy_from_slice(&lanes.0[..out.len()]);
            }
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
        let Self { x, w, rows: wanted, out, copy, sums } = self;
        for (i, first) in wanted.clone().step_by(LANES).enumerate() {
            let rows = first..wanted.end.min(first + LANES);
            let strip = w.strip(rows, copy);
            let mut out = Outputs { out: &mut *out, tokens: x.tokens(), strip: i };
            if let Some(x) = x.fours() {
                rows::product::<S, 1>(s, &strip, x, sums, &mut out);
            } else if let Some(x) = x.fours() {
                rows::product::<S, 2>(s, &strip, x, sums, &mut out);
            } else {
                packed(s, &strip, x, &mut out);
            }
        }
    }
}

impl Fp4Matrix<'_> {
    /// The rows `rows`, at most sixteen; in `copy` if there are fewer.
    #[inline(always)]
    fn strip<'s>(&'s self, rows: Range<usize>, copy: &'s mut Copied) -> Strip<'s> {
        let (codes_stride, scales_stride) = (self.cols / 2, self.cols / (ACTIVATION_BLOCK / SCALES));
        let codes = &self.codes[rows.start * codes_stride..];
        let scales = &self.scales[rows.start * scales_stride..];
        if rows.len() == LANES {
            return Strip { codes, codes_stride, scales, scales_stride };
        }
        let fill = |out: &mut Vec<u8>, rows: &[u8], stride: usize| {
            out.clear();
            out.extend_from_slice(rows);
            out.resize(LANES * stride, 0);
        };
        fill(&mut copy.codes, &codes[..rows.len() * codes_stride], codes_stride);
        fill(&mut copy.scales, &scales[..rows.len() * scales_stride], scales_stride);
        Strip { codes: &copy.codes, codes_stride, scales: &copy.scales, scales_stride }
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

/// Asks for the weights and scales that come [`AHEAD`] blocks after block `block`, in this strip or the next.
#[inline(always)]
fn prefetch<S: Simd>(s: S, strip: &Strip<'_>, blocks: usize, block: usize) {
    let ahead = block + AHEAD.min(blocks);
    let offset = match ahead < blocks {
        true => ahead * BLOCK_BYTES,
        false => LANES * strip.codes_stride + (ahead - blocks) * BLOCK_BYTES,
    };
    let at = strip.codes.as_ptr().wrapping_add(offset);
    for r in 0..LANES {
        s.prefetch(at.wrapping_add(r * strip.codes_stride));
    }
    s.prefetch(strip.scales.as_ptr().wrapping_add(LANES * strip.scales_stride + block * LANES * SCALES));
}

/// Weights brought to the first cache level and met there by all tokens.
#[inline(always)]
fn packed<S: Simd>(s: S, strip: &Strip<'_>, x: BlocksRef<'_>, out: &mut Outputs<'_>) {
    let blocks = x.blocks();
    let mut panel = [Panel::ZERO];
    let mut scales = [[0; 4 * LANES]; 4];
    for t in 0..x.tokens() {
        out.out[out.strip * out.tokens + t] = Lanes::ZERO;
    }
    for block in 0..blocks {
        if block.is_multiple_of(4) {
            scales = strip.scales(s, block);
        }
        prefetch(s, strip, blocks, block);
        let columns = strip.n_scales(block) * (ACTIVATION_BLOCK / SCALES);
        panel[0].pack(s, strip.codes(block), strip.codes_stride, &scales[block % 4], columns);
        Panel::multiply_all(&panel, s, x.block(block), out);
    }
}
