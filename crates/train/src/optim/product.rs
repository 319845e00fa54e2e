//! The matrix product of an optimiser's task: on one thread, vectorised.

use cuvier_kernels::simd::{LANES, Simd};
use cuvier_kernels::{Isa, Vectorized};
use cuvier_tensor::{MatMut, MatRef};

/// Columns of `b` that are packed, and computed, together: two vectors.
const PANEL: usize = 2 * LANES;
/// Rows of `a` that share the loads of a panel.
const ROWS: usize = 4;

/// `out = a * b`.
///
/// | argument | shape           | dtype |
/// |----------|-----------------|-------|
/// | `a`      | `[rows, inner]` | f32   |
/// | `b`      | `[inner, cols]` | f32   |
/// | `out`    | `[rows, cols]`  | f32   |
///
/// Every element is summed in ascending order of the inner index by fused multiply-add, so all instruction sets give
/// the same bits.
///
/// # Panics
/// If the shapes disagree.
pub(super) fn product(isa: Isa, a: MatRef<'_>, b: MatRef<'_>, mut out: MatMut<'_>) {
    let shapes = ((a.rows(), a.cols()), (b.rows(), b.cols()), (out.rows(), out.cols()));
    assert_eq!(shapes, ((a.rows(), b.rows()), (a.cols(), b.cols()), (a.rows(), b.cols())), "a, b, out");
    let mut panel = vec![[[0.0; LANES]; 2]; b.rows()];
    for start in (0..b.cols()).step_by(PANEL) {
        let cols = PANEL.min(b.cols() - start);
        for (packed, row) in panel.iter_mut().zip(b.iter()) {
            // What stands behind the last column is not stored.
            packed.as_flattened_mut()[..cols].copy_from_slice(&row[start..start + cols]);
        }
        isa.dispatch(PanelProduct { a, panel: &panel, start, cols, out: out.reborrow() });
    }
}

struct PanelProduct<'a> {
    a: MatRef<'a>,
    panel: &'a [[[f32; LANES]; 2]],
    start: usize,
    cols: usize,
    out: MatMut<'a>,
}

impl Vectorized for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let rows = self.a.rows();
        let whole = rows - rows % ROWS;
        for row in (0..whole).step_by(ROWS) {
            self.tile::<S, ROWS>(simd, row);
        }
        for row in whole..rows {
            self.tile::<S, 1>(simd, row);
        }
    }
}

impl PanelProduct<'_> {
    /// The rows `row..row + R` of the panel's columns.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&mut self, simd: S, row: usize) {
        let inner = self.panel.len();
        let a: [&[f32]; R] = std::array::from_fn(|r| &self.a.row(row + r)[..inner]);
        let mut sums = [[simd.splat(0.0); 2]; R];
        for (k, b) in self.panel.iter().enumerate() {
            let b = [simd.load(&b[0]), simd.load(&b[1])];
            for (sums, a) in sums.iter_mut().zip(a) {
                let a = simd.splat(a[k]);
                sums[0] = simd.fma(a, b[0], sums[0]);
                sums[1] = simd.fma(a, b[1], sums[1]);
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let out = &mut self.out.row_mut(row + r)[self.start..self.start + self.cols];
            for (sum, out) in sums.into_iter().zip(out.chunks_mut(LANES)) {
                simd.store_partial(sum, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cuvier_tensor::Matrix;

    use super::*;
    use crate::optim::testing::normal_matrix;

    #[test]
    fn a_product_has_the_bits_of_the_plain_sum_at_every_tail_length_on_every_instruction_set() {
        for (rows, inner, cols) in
            [(1, 1, 1), (4, 7, 16), (5, 16, 31), (3, 33, 32), (9, 5, 33), (8, 64, 100), (2, 0, 3)]
        {
            let (a, b) = (normal_matrix(rows, inner, 1), normal_matrix(inner, cols, 2));
            let (a, b) = (MatRef::new(a.data(), rows, inner), MatRef::new(b.data(), inner, cols));
            let expected: Vec<f32> = (0..rows * cols)
                .map(|i| {
                    let (row, col) = (i / cols, i % cols);
                    (0..inner).fold(0.0_f32, |sum, k| a.row(row)[k].mul_add(b.row(k)[col], sum))
                })
                .collect();
            for isa in Isa::available() {
                let mut out = Matrix::zeros(rows, cols);
                product(isa, a, b, out.view_mut());
                assert_eq!(out.data(), expected, "{isa:?} {rows} {inner} {cols}");
            }
        }
    }
}
