//! Matrix products of activations with stored weights.

mod rows;

use cuvier_tensor::{MatMut, MatRef, WeightMatrix};

pub(crate) use rows::{ForRows, Rows, decode_row, for_rows};

use crate::isa::Vectorized;
use crate::simd::Simd;
use crate::{Compute, DisjointRows, Isa};

/// Matrix product: `out[t, r] = sum over i of w[r, i] * x[t, i]`.
///
/// | argument | shape           | dtype                  | unit       |
/// |----------|-----------------|------------------------|------------|
/// | `x`      | `[tokens, in]`  | f32                    | activation |
/// | `w`      | `[out, in]`     | F32, BF16, FP8 or FP4  | weight     |
/// | `out`    | `[tokens, out]` | f32                    | activation |
///
/// Weights are decoded to f32: code times scale, which is exact for UE8M0 scales and rounded once for F32
/// scales. Products are summed in f32 in the fixed order of this crate, the columns padded with zeros to a
/// multiple of sixteen. Activations are not quantised. So each output has the same bits whatever the other rows
/// and tokens are, and on any number of threads.
///
/// Source: DeepSeek-V4 `inference/model.py`, `linear`.
///
/// # Panics
/// If the shapes disagree.
pub fn gemm(c: &Compute, x: MatRef<'_>, w: &WeightMatrix, out: MatMut<'_>) {
    gemm_grouped(c, x, w, 1, out);
}

/// Product with a block-diagonal matrix: group `g` of the outputs sees group `g` of the inputs only,
/// `out[t, g * rank + r] = sum over i of w[g * rank + r, i] * x[t, g * in + i]`.
///
/// | argument | shape                     | dtype                  | unit       |
/// |----------|---------------------------|------------------------|------------|
/// | `x`      | `[tokens, groups * in]`   | f32                    | activation |
/// | `w`      | `[groups * rank, in]`     | F32, BF16, FP8 or FP4  | weight     |
/// | `out`    | `[tokens, groups * rank]` | f32                    | activation |
///
/// Precision and order as in [`gemm`].
///
/// Source: DeepSeek-V4 `inference/model.py`, `Attention.forward`, the product with `wo_a`.
///
/// # Panics
/// If the shapes disagree or the rows of `w` are not a whole number of groups.
pub fn gemm_grouped(c: &Compute, x: MatRef<'_>, w: &WeightMatrix, groups: usize, out: MatMut<'_>) {
    assert!(groups > 0 && w.rows().is_multiple_of(groups), "{} rows in {groups} groups", w.rows());
    assert_eq!(x.cols(), groups * w.cols(), "inputs of {groups} groups");
    assert_eq!((out.rows(), out.cols()), (x.rows(), w.rows()), "outputs");
    let rank = w.rows() / groups;
    let out = DisjointRows::new(out.into_data(), w.rows());
    c.for_each_range(w.rows(), 64, |rows| {
        for row in rows {
            let x = x.columns(row / rank * w.cols(), w.cols());
            let mut weights = vec![0.0; w.cols()];
            decode(c.isa(), w, row, &mut weights);
            for t in 0..x.rows() {
                let value = c.isa().dispatch(Dot(&weights, x.row(t)));
                // SAFETY: rows are ranges of one partition.
                unsafe { out.part(t, row..row + 1)[0] = value };
            }
        }
    });
}

struct Dot<'a>(&'a [f32], &'a [f32]);

impl Vectorized for Dot<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        s.dot(self.0, self.1)
    }
}

/// Writes row `row` of `w`, decoded.
pub(crate) fn decode(isa: Isa, w: &WeightMatrix, row: usize, out: &mut [f32]) {
    assert_eq!(out.len(), w.cols());
    for_rows(w, DecodeRow { isa, row, out });
}

struct DecodeRow<'a> {
    isa: Isa,
    row: usize,
    out: &'a mut [f32],
}

impl ForRows for DecodeRow<'_> {
    type Output = ();
    fn run<'a, W: Rows<'a>>(self, rows: W) {
        self.isa.dispatch(DecodeRowOf { rows, row: self.row, out: self.out });
    }
}

struct DecodeRowOf<'o, W> {
    rows: W,
    row: usize,
    out: &'o mut [f32],
}

impl<'a, W: Rows<'a>> Vectorized for DecodeRowOf<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        decode_row(s, self.rows, self.row, self.out);
    }
}
