//! The gradient of root-mean-square normalisation.

use cuvier_tensor::{MatMut, MatRef};

use super::{NUMBERS_PER_TASK_MIN, check_weight, inverse_rms};
use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

#[cfg(test)]
mod tests;

/// Gradient of [`rms_norm_in_place`](crate::rms_norm_in_place()): with `r = 1 / sqrt(mean(x²) + eps)` and
/// `e = dout * weight`
///
/// ```text
/// dx = r * (e - x * r² * mean(e * x))        dweight += sum over rows of dout * x * r
/// ```
///
/// | argument  | shape         | dtype | unit |
/// |-----------|---------------|-------|------|
/// | `x`       | `[rows, dim]` | f32   | the rows before they were normalised |
/// | `weight`  | `[dim]`       | f32   | gain; none means 1 |
/// | `dout`    | `[rows, dim]` | f32   | gradient of the normalised rows; becomes that of `x` |
/// | `dweight` | `[dim]`       | f32   | gradient of the gain, added to; empty without one |
///
/// Source: the formula's derivative.
///
/// # Panics
/// If the shapes disagree.
pub fn rms_norm_backward(
    c: &Compute,
    x: MatRef<'_>,
    weight: Option<&[f32]>,
    eps: f32,
    dout: MatMut<'_>,
    dweight: &mut [f32],
) {
    check_weight(weight, x.cols());
    assert_eq!(dweight.len(), weight.map_or(0, <[f32]>::len), "a gradient per gain");
    assert_eq!((dout.rows(), dout.cols()), (x.rows(), x.cols()), "gradients of these rows");
    let (rows, cols) = (x.rows(), x.cols());
    let dout = DisjointRows::new(dout.into_data(), cols);
    c.add_over_rows(rows, dweight, |rows, sums| {
        for row in rows {
            // SAFETY: each row belongs to exactly one block, and blocks end before gradients of rows begin.
            let dout = unsafe { dout.part(row, 0..cols) };
            c.isa().dispatch(OfWeight { x: x.row(row), eps, dout, sums });
        }
    });
    c.for_each_range(rows, NUMBERS_PER_TASK_MIN.div_ceil(cols.max(1)), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let dout = unsafe { dout.part(row, 0..cols) };
            c.isa().dispatch(OfRow { x: x.row(row), weight, eps, dout });
        }
    });
}

/// Adds `dout * x * r` of one row to `sums`.
struct OfWeight<'a> {
    x: &'a [f32],
    eps: f32,
    dout: &'a [f32],
    sums: &'a mut [f32],
}

impl Vectorized for OfWeight<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let factor = s.splat(inverse_rms(s.dot(self.x, self.x), self.x.len(), self.eps));
        let parts = self.x.chunks(LANES).zip(self.dout.chunks(LANES)).zip(self.sums.chunks_mut(LANES));
        for ((x, dout), sums) in parts {
            let x = s.mul(s.load_partial(x, 0.0), factor);
            s.store_partial(s.fma(s.load_partial(dout, 0.0), x, s.load_partial(sums, 0.0)), sums);
        }
    }
}

/// The gradient of one row, in place of that of its norm.
pub(crate) struct OfRow<'a> {
    pub x: &'a [f32],
    pub weight: Option<&'a [f32]>,
    pub eps: f32,
    pub dout: &'a mut [f32],
}

impl Vectorized for OfRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, weight, eps, dout } = self;
        if let Some(weight) = weight {
            for (dout, weight) in dout.chunks_mut(LANES).zip(weight.chunks(LANES)) {
                s.store_partial(s.mul(s.load_partial(dout, 0.0), s.load_partial(weight, 0.0)), dout);
            }
        }
        let factor = inverse_rms(s.dot(x, x), x.len(), eps);
        let along = -(factor * factor) * s.dot(dout, x) / x.len() as f32;
        let (factor, along) = (s.splat(factor), s.splat(along));
        for (dout, x) in dout.chunks_mut(LANES).zip(x.chunks(LANES)) {
            let across = s.fma(s.load_partial(x, 0.0), along, s.load_partial(dout, 0.0));
            s.store_partial(s.mul(factor, across), dout);
        }
    }
}
