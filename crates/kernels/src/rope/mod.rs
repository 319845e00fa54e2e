//! Rotary position embedding: frequencies, angles, rotation.

use cuvier_tensor::{MatMut, Matrix};

use crate::isa::Vectorized;
use crate::rms_norm::{Row, check_weight};
use crate::simd::Simd;
use crate::{Compute, DisjointRows, Lent};

#[cfg(test)]
mod reference;
mod table;
#[cfg(test)]
mod tests;

pub use table::RopeTable;

/// Fewer rotated numbers than this are not worth a second thread.
const NUMBERS_PER_TASK_MIN: usize = 1 << 16;

/// Cosines and sines of the angles of some tokens: made once per step by [`RopeTable::angles`], used by every layer
/// with that table.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeAngles {
    /// `[tokens, rope_dim / 2]`.
    cos: Lent,
    /// `[tokens, rope_dim / 2]`.
    sin: Lent,
}

impl RopeAngles {
    /// Cosines, `[tokens, rope_dim / 2]`.
    pub fn cos(&self) -> &Matrix {
        &self.cos
    }

    /// Sines, `[tokens, rope_dim / 2]`.
    pub fn sin(&self) -> &Matrix {
        &self.sin
    }
}

/// Which way [`rope`] turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// By the angle of the position: queries, keys, compressed entries.
    Forward,
    /// Back by it: attention outputs. Also the gradient of the forward rotation.
    Inverse,
}

/// Rotates the last `rope_dim` numbers of every row, pair by pair of neighbours: `(a, b)` becomes
/// `(a cos - b sin, a sin + b cos)`.
///
/// | argument | shape                    | dtype | unit       |
/// |----------|--------------------------|-------|------------|
/// | `x`      | `[tokens * heads, dim]`  | f32   | activation; the heads of a token lie together |
/// | `angles` | `[tokens, rope_dim / 2]` | f32   | cosines and sines |
///
/// Products and sums are f32, each rounded. The numbers before the last `rope_dim` stay as they are. The inverse
/// rotation takes `-sin` for `sin`.
///
/// Source: DeepSeek-V4 `inference/model.py`, `apply_rotary_emb`.
///
/// # Panics
/// If there are not `heads` rows per token of `angles`, or rows are shorter than `rope_dim`.
pub fn rope(c: &Compute, x: MatMut<'_>, heads: usize, angles: &RopeAngles, direction: Rotation) {
    let (rope_dim, rows, cols) = (check_angles(&x, heads, angles), x.rows(), x.cols());
    let x = DisjointRows::new(x.into_data(), cols);
    c.for_each_range(rows, NUMBERS_PER_TASK_MIN.div_ceil(rope_dim.max(1)), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let x = unsafe { x.part(row, cols - rope_dim..cols) };
            let (cos, sin) = (angles.cos.row(row / heads), angles.sin.row(row / heads));
            c.isa().dispatch(Rotate { x, cos, sin, direction });
        }
    });
}

/// Normalises each row by itself as [`rms_norm_in_place`](crate::rms_norm_in_place) does, then rotates it forward as
/// [`rope`] does, while it is near: queries, keys and compressed entries.
///
/// | argument | shape                    | dtype | unit       |
/// |----------|--------------------------|-------|------------|
/// | `x`      | `[tokens * heads, dim]`  | f32   | activation; the heads of a token lie together |
/// | `weight` | `[dim]`                  | f32   | gain; none means 1 |
/// | `angles` | `[tokens, rope_dim / 2]` | f32   | cosines and sines |
///
/// # Panics
/// If `weight` is not as long as the rows; and as [`rope`].
pub fn norm_and_rope(
    c: &Compute,
    x: MatMut<'_>,
    weight: Option<&[f32]>,
    eps: f32,
    heads: usize,
    angles: &RopeAngles,
) {
    check_weight(weight, x.cols());
    let (rope_dim, cols) = (check_angles(&x, heads, angles), x.cols());
    let rows = x.rows();
    let x = DisjointRows::new(x.into_data(), cols);
    c.for_each_range(rows, NUMBERS_PER_TASK_MIN.div_ceil(cols.max(1)), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let x = unsafe { x.part(row, 0..cols) };
            let (cos, sin) = (angles.cos.row(row / heads), angles.sin.row(row / heads));
            c.isa().dispatch(NormAndRotate { x, weight, eps, rope_dim, cos, sin });
        }
    });
}

/// The numbers per row that `angles` rotates, once it fits the rows.
fn check_angles(x: &MatMut<'_>, heads: usize, angles: &RopeAngles) -> usize {
    let rope_dim = 2 * angles.cos.cols();
    assert_eq!(x.rows(), angles.cos.rows() * heads, "rows = tokens * {heads} heads");
    assert!(x.rows() == 0 || rope_dim <= x.cols(), "{rope_dim} rotated numbers in rows of {}", x.cols());
    rope_dim
}

/// One row, normalised and rotated forward.
struct NormAndRotate<'a> {
    x: &'a mut [f32],
    weight: Option<&'a [f32]>,
    eps: f32,
    rope_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Vectorized for NormAndRotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, weight, eps, rope_dim, cos, sin } = self;
        Row { x, weight, eps }.run(s);
        let first = x.len() - rope_dim;
        Rotate { x: &mut x[first..], cos, sin, direction: Rotation::Forward }.run(s);
    }
}

/// The rotated part of one row.
struct Rotate<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    direction: Rotation,
}

impl Vectorized for Rotate<'_> {
    type Output = ();

    // Plain Rust: neighbours have to be taken apart, which the compiler does at least as well, and it may not fuse
    // a product with a sum, so the bits are the same on every instruction set.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let sign = match self.direction {
            Rotation::Forward => 1.0,
            Rotation::Inverse => -1.0,
        };
        let (pairs, _) = self.x.as_chunks_mut::<2>();
        for (([a, b], &cos), &sin) in pairs.iter_mut().zip(self.cos).zip(self.sin) {
            let sin = sign * sin;
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    }
}
