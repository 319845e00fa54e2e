//! Sums and products of matrices, number by number.
//!
//! | argument | shape                     | dtype |
//! |----------|---------------------------|-------|
//! | `x`      | `[rows, parts * cols]`    | f32   |
//! | `y`      | `[rows, cols]`            | f32   |
//! | `factor` | scalar                    | f32   |
//!
//! One rounding per number; the instruction set does not matter, so plain loops are all there is.

use cuvier_tensor::{MatMut, MatRef};

use crate::{Compute, Lent};

/// Adds row `i` of `y` to each part of row `i` of `x`.
///
/// # Panics
/// If the numbers of rows differ or a row of `x` is not a whole number of rows of `y`.
pub fn add(_: &Compute, mut x: MatMut<'_>, y: MatRef<'_>) {
    assert_eq!(x.rows(), y.rows());
    assert!(y.cols() > 0 && x.cols().is_multiple_of(y.cols()), "{} into {}", x.cols(), y.cols());
    for row in 0..y.rows() {
        for part in x.row_mut(row).chunks_exact_mut(y.cols()) {
            for (x, y) in part.iter_mut().zip(y.row(row)) {
                *x += y;
            }
        }
    }
}

/// Multiplies every number of `x` by `factor`.
pub fn scale(_: &Compute, x: MatMut<'_>, factor: f32) {
    for x in x.into_data() {
        *x *= factor;
    }
}

/// Each row of `x` `parts` times side by side, `[rows, parts * cols]`: the residual streams of an embedding.
///
/// Source: DeepSeek-V4 `inference/model.py`, `Transformer.forward`.
pub fn replicate(c: &Compute, x: MatRef<'_>, parts: usize) -> Lent {
    let mut out = c.matrix(x.rows(), x.cols() * parts);
    for (row, out) in x.iter().zip(out.data_mut().chunks_exact_mut((x.cols() * parts).max(1))) {
        out.chunks_exact_mut(x.cols()).for_each(|part| part.copy_from_slice(row));
    }
    out
}

/// The sum of the parts of each row of `x`, `[rows, cols / parts]`, in ascending order: the gradient of [`replicate`] for
/// what it copied, where `x` is that of the copies.
///
/// # Panics
/// If a row is not a whole number of parts.
pub fn replicate_backward(c: &Compute, x: MatRef<'_>, parts: usize) -> Lent {
    assert!(parts > 0 && x.cols().is_multiple_of(parts), "{} columns in {parts} parts", x.cols());
    let cols = x.cols() / parts;
    let mut out = c.matrix(x.rows(), cols);
    for (row, out) in x.iter().zip(out.data_mut().chunks_exact_mut(cols.max(1))) {
        out.copy_from_slice(&row[..cols]);
        for part in row[cols..].chunks_exact(cols) {
            out.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{assert_gradient, differences, drawn, everywhere};
    use cuvier_tensor::Matrix;
    use std::num::NonZeroUsize;

    #[test]
    fn a_row_is_added_to_every_part_of_its_own_row_only() {
        let c = Compute::new(Isa::Scalar, NonZeroUsize::MIN).expect("one thread needs no pool");
        let y = Matrix::from_vec(vec![1.0, 2.0, 3.0, 4.0], 2);
        let mut x = replicate(&c, y.view(), 3);
        assert_eq!(x.row(1), [3.0, 4.0, 3.0, 4.0, 3.0, 4.0]);
        add(&c, x.view_mut(), y.view());
        scale(&c, x.view_mut(), 0.5);
        assert_eq!(*x, *replicate(&c, y.view(), 3));
    }

    #[test]
    fn the_gradient_of_a_row_is_the_sum_of_those_of_its_copies() {
        for (cols, parts) in [(1, 1), (3, 4), (17, 2), (33, 8)] {
            let (x, dout) = (drawn(3, cols, 1), drawn(3, cols * parts, 2));
            let got = everywhere(|c| replicate_backward(c, dout.view(), parts).data().to_vec());
            let loss_of_row = |row: usize, x: &[f64]| -> f64 {
                let copies = dout.row(row).chunks_exact(cols);
                copies.flat_map(|d| d.iter().zip(x)).map(|(&d, x)| f64::from(d) * x).sum()
            };
            let of_row = |row: usize| differences(x.row(row), |x| loss_of_row(row, x));
            let exact: Vec<f64> = (0..3).flat_map(of_row).collect();
            assert_gradient(&got, &exact, &format!("{parts} copies of {cols}"));
        }
    }
}
