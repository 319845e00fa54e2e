//! Root-mean-square normalisation.

use cuvier_tensor::MatMut;

mod backward;

pub use backward::rms_norm_backward;

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// Fewer numbers than this are not worth a second thread.
const NUMBERS_PER_TASK_MIN: usize = 1 << 16;

/// Root-mean-square normalisation of each row: `x = x / sqrt(mean(x²) + eps) * weight`.
///
/// | argument | shape         | dtype | unit       |
/// |----------|---------------|-------|------------|
/// | `x`      | `[rows, dim]` | f32   | activation |
/// | `weight` | `[dim]`       | f32   | gain; none means 1 |
///
/// The squares are summed in f32 in the order of [`Simd::dot`]; mean, `eps`, root and reciprocal are f64, so an
/// `eps` of 1e-20 counts; that factor is rounded to f32 once, then `(x * factor) * weight` in f32.
///
/// Source: DeepSeek-V4 `inference/model.py`, `RMSNorm.forward`; without weight the norm of each query head.
///
/// # Panics
/// If `weight` is not as long as the rows.
pub fn rms_norm_in_place(c: &Compute, x: MatMut<'_>, weight: Option<&[f32]>, eps: f32) {
    check_weight(weight, x.cols());
    let (rows, cols) = (x.rows(), x.cols());
    let x = DisjointRows::new(x.into_data(), cols);
    c.for_each_range(rows, NUMBERS_PER_TASK_MIN.div_ceil(cols.max(1)), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let x = unsafe { x.part(row, 0..cols) };
            c.isa().dispatch(Row { x, weight, eps });
        }
    });
}

pub(crate) fn check_weight(weight: Option<&[f32]>, cols: usize) {
    assert!(weight.is_none_or(|w| w.len() == cols), "a weight for each of {cols} columns");
}

/// One row, normalised in place.
pub(crate) struct Row<'a> {
    pub x: &'a mut [f32],
    pub weight: Option<&'a [f32]>,
    pub eps: f32,
}

impl Vectorized for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let square_sum = s.dot(self.x, self.x);
        Scale { x: self.x, square_sum, weight: self.weight, eps: self.eps }.run(s);
    }
}

/// One row whose square sum is known, normalised in place.
pub(crate) struct Scale<'a> {
    pub x: &'a mut [f32],
    pub square_sum: f32,
    pub weight: Option<&'a [f32]>,
    pub eps: f32,
}

impl Vectorized for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let factor = s.splat(inverse_rms(self.square_sum, self.x.len(), self.eps));
        let (x, x_tail) = self.x.as_chunks_mut::<LANES>();
        let Some(weight) = self.weight else {
            for x in x {
                s.store(s.mul(s.load(x), factor), x);
            }
            return s.store_partial(s.mul(s.load_partial(x_tail, 0.0), factor), x_tail);
        };
        let (weight, weight_tail) = weight.as_chunks::<LANES>();
        for (x, w) in x.iter_mut().zip(weight) {
            s.store(s.mul(s.mul(s.load(x), factor), s.load(w)), x);
        }
        let scaled = s.mul(s.load_partial(x_tail, 0.0), factor);
        s.store_partial(s.mul(scaled, s.load_partial(weight_tail, 0.0)), x_tail);
    }
}

/// `1 / sqrt(square_sum / len + eps)`, computed in f64 and rounded once.
pub(crate) fn inverse_rms(square_sum: f32, len: usize, eps: f32) -> f32 {
    (1.0 / (f64::from(square_sum) / len as f64 + f64::from(eps)).sqrt()) as f32
}
