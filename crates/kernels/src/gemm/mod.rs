//! Matrix products of activations with stored weights.

mod panel;
mod product;
mod rows;
mod tile;
mod workbench;

use std::marker::PhantomData;

use cuvier_tensor::{MatMut, WeightMatrix};

pub(crate) use product::{Inputs, PANEL_ROWS, PANEL_TOKENS, product};
pub(crate) use workbench::Workbench;

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Activations, Compute, DisjointRows, Isa, Lent};
use rows::{CHUNK, ForRows, Row, Rows, decode_chunks, for_rows};

#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
pub(crate) mod tests;

/// Products for which a second thread is worth waking.
pub(crate) const MIN_PRODUCTS: usize = 1 << 15;

/// Matrix product: `out[t, r] = sum over i of w[r, i] * x[t, i]`.
///
/// | argument | shape           | dtype                  | unit       |
/// |----------|-----------------|------------------------|------------|
/// | `x`      | `[tokens, in]`  | f32                    | activation |
/// | `w`      | `[out, in]`     | any                    | weight     |
/// | `out`    | `[tokens, out]` | f32                    | activation |
///
/// F32 and BF16 weights meet activations in f32, summed in the fixed order of this crate, the columns padded with
/// zeros to a multiple of sixteen. The others meet activations in eight bits ([`quantise`](crate::quantise())) and are
/// summed in integers within 128 columns: FP4 exactly, FP8 as the eight-bit integers of [`pack`](crate::pack()),
/// packed before or not. So each output has the same bits whatever the other rows and tokens are, and on any number of
/// threads.
///
/// Source: DeepSeek-V4 `inference/model.py`, `linear`.
///
/// # Panics
/// If the shapes disagree.
pub fn gemm(c: &Compute, x: &Activations<'_>, w: &WeightMatrix, out: MatMut<'_>) {
    gemm_grouped(c, x, w, 1, out);
}

/// Product with a block-diagonal matrix: group `g` of the outputs sees group `g` of the inputs only, which is a row
/// by itself, `out[t, g * rank + r] = sum over i of w[g * rank + r, i] * x[t * groups + g, i]`.
///
/// | argument | shape                     | dtype                  | unit       |
/// |----------|---------------------------|------------------------|------------|
/// | `x`      | `[tokens * groups, in]`   | f32                    | activation |
/// | `w`      | `[groups * rank, in]`     | any                    | weight     |
/// | `out`    | `[tokens, groups * rank]` | f32                    | activation |
///
/// Precision and order as in [`gemm`].
///
/// Source: DeepSeek-V4 `inference/model.py`, `Attention.forward`, the product with `wo_a`.
///
/// # Panics
/// If the shapes disagree or the rows of `w` are not a whole number of groups.
pub fn gemm_grouped(c: &Compute, x: &Activations<'_>, w: &WeightMatrix, groups: usize, out: MatMut<'_>) {
    assert!(groups > 0 && w.rows().is_multiple_of(groups), "{} rows in {groups} groups", w.rows());
    let inputs = Inputs::new(c, x, [w]);
    assert_eq!(inputs.cols(), w.cols(), "inputs");
    assert_eq!((out.rows() * groups, out.cols()), (inputs.len(), w.rows()), "outputs of {groups} groups");
    let n_tokens = out.rows();
    let rank = w.rows() / groups;
    let panels = rank.div_ceil(PANEL_ROWS);
    let blocks = n_tokens.div_ceil(PANEL_TOKENS);
    let block_len = n_tokens.div_ceil(blocks.max(1));
    let out = DisjointRows::new(out.into_data(), w.rows());
    let min_len = MIN_PRODUCTS / (PANEL_ROWS * w.cols() * block_len).max(1);
    c.for_each_range(blocks * groups * panels, min_len, |items| {
        let mut bench = Workbench::take();
        let Workbench { gathered, parts: [part, _] } = &mut *bench;
        for item in items.clone() {
            let (block, group, panel) = (item / panels / groups, item / panels % groups, item % panels);
            let tokens = block * block_len..((block + 1) * block_len).min(n_tokens);
            let rows = group * rank + panel * PANEL_ROWS..group * rank + rank.min((panel + 1) * PANEL_ROWS);
            part.resize(tokens.len() * rows.len(), 0.0);
            let x = inputs.every(tokens.start * groups + group, groups, tokens.len());
            if item == items.start || panel == 0 {
                x.gather(c.isa(), &[w], gathered);
            }
            product(c.isa(), x, gathered, w, rows.clone(), part);
            for (t, part) in tokens.zip(part.chunks_exact(rows.len())) {
                // SAFETY: an item is one block of tokens and one panel of rows, and lies in one range only.
                unsafe { out.part(t, rows.clone()) }.copy_from_slice(part);
            }
        }
    });
}

/// The numbers that `w` stands for, `[out, in]`.
///
/// # Panics
/// If `w` is packed.
pub fn decoded(c: &Compute, w: &WeightMatrix) -> Lent {
    let mut out = c.matrix(w.rows(), w.cols());
    for row in 0..w.rows() {
        decode(c.isa(), w, row, out.row_mut(row));
    }
    out
}

/// Writes row `row` of `w`, decoded.
///
/// # Panics
/// If `out` is not as long as the row, or the row does not exist.
pub(crate) fn decode(isa: Isa, w: &WeightMatrix, row: usize, out: &mut [f32]) {
    assert!(out.len() == w.cols() && row < w.rows());
    for_rows(w, Decode { isa, row, out });
}

struct Decode<'o> {
    isa: Isa,
    row: usize,
    out: &'o mut [f32],
}

impl ForRows for Decode<'_> {
    type Output = ();

    fn run<'a, W: Rows<'a>>(self, rows: W) {
        self.isa.dispatch(DecodeRow { row: rows.row(self.row), rows: PhantomData::<W>, out: self.out });
    }
}

struct DecodeRow<'a, 'o, W: Rows<'a>> {
    row: Row<'a, W::Chunk, W::Scales>,
    rows: PhantomData<W>,
    out: &'o mut [f32],
}

impl<'a, W: Rows<'a>> Vectorized for DecodeRow<'a, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (out, rest) = self.out.as_chunks_mut::<LANES>();
        let vectors = out.len();
        let chunks = 0..(vectors * LANES + rest.len()).div_ceil(CHUNK);
        decode_chunks::<S, W>(s, &self.row, chunks, |i, v| match out.get_mut(i) {
            Some(out) => s.store(v, out),
            None if i == vectors => s.store_partial(v, rest),
            None => {}
        });
    }
}
