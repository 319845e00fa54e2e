//! Matrix products of activations and gradients, both of which change with every step.

use cuvier_tensor::{MatMut, MatRef};

use crate::{Compute, DisjointRows};

mod tile;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use tile::{Left, Panel, panels};

/// Rows of outputs that one task computes: a panel of the right matrix is packed once for all of them.
const BLOCK_ROWS: usize = 192;

/// Rows and columns that are turned together.
const TURNED: usize = 16;

/// Products for which a second thread is worth waking.
const MIN_PRODUCTS: usize = 1 << 15;

/// What becomes of the numbers that an output already holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// They are overwritten.
    Set,
    /// The product is added to them.
    Add,
}

/// Matrix product: `out[i, j] = sum over k of a[i, k] * b[k, j]`, or that added to `out`.
///
/// | argument | shape    | dtype |
/// |----------|----------|-------|
/// | `a`      | `[m, k]` | f32   |
/// | `b`      | `[k, n]` | f32   |
/// | `out`    | `[m, n]` | f32   |
///
/// Each output is one chain of fused multiply-adds in ascending `k`, which starts at 0 or at what `out` held: the same
/// bits for any number of rows, columns and threads and on every instruction set.
///
/// As the gradient of [`gemm`](crate::gemm()): with `a` the gradient of its outputs and `b` its weights, `out` is the
/// gradient of its inputs.
///
/// # Panics
/// If the shapes disagree.
pub fn matmul(c: &Compute, a: MatRef<'_>, b: MatRef<'_>, store: Store, out: MatMut<'_>) {
    assert_eq!(a.cols(), b.rows(), "columns of a and rows of b");
    let (m, n) = (a.rows(), b.cols());
    product(c, Left::rows(a), m, b, n, store, out);
}

/// Product with a transposed matrix: `out[i, j] = sum over k of a[k, i] * b[k, j]`, or that added to `out`.
///
/// | argument | shape    | dtype |
/// |----------|----------|-------|
/// | `a`      | `[k, m]` | f32   |
/// | `b`      | `[k, n]` | f32   |
/// | `out`    | `[m, n]` | f32   |
///
/// Summed as in [`matmul`]. As the gradient of [`gemm`](crate::gemm()): with `a` the gradient of its outputs and `b`
/// its inputs, row by row the same tokens, `out` is the gradient of its weights.
///
/// # Panics
/// If the shapes disagree.
pub fn matmul_transposed(c: &Compute, a: MatRef<'_>, b: MatRef<'_>, store: Store, out: MatMut<'_>) {
    assert_eq!(a.rows(), b.rows(), "rows of a and of b");
    let (m, n) = (a.cols(), b.cols());
    product(c, Left::columns(a), m, b, n, store, out);
}

fn product(c: &Compute, a: Left<'_>, m: usize, b: MatRef<'_>, n: usize, store: Store, out: MatMut<'_>) {
    assert!(m * n == 0 || (out.rows(), out.cols()) == (m, n), "outputs of {m} by {n}");
    if m * n == 0 {
        return;
    }
    let out = DisjointRows::new(out.into_data(), n);
    let (panels, panel_cols) = panels(n);
    let blocks = m.div_ceil(BLOCK_ROWS);
    let block_len = m.div_ceil(blocks);
    let per_item = block_len * panel_cols.min(n) * b.rows();
    c.for_each_range(blocks * panels, MIN_PRODUCTS / per_item.max(1), |items| {
        for item in items {
            let (block, panel) = (item / panels, item % panels);
            let rows = block * block_len..m.min((block + 1) * block_len);
            let cols = panel * panel_cols..n.min((panel + 1) * panel_cols);
            // An item is one block of rows and one panel of columns, and lies in one range only.
            tile::multiply(c.isa(), Panel { a, b, rows, cols, store, out: &out });
        }
    });
}

/// The matrix turned: `[rows, cols]` to `[cols, rows]`.
///
/// # Panics
/// If the shapes disagree.
pub fn transpose(a: MatRef<'_>, mut out: MatMut<'_>) {
    assert!(a.rows() * a.cols() == 0 || (out.rows(), out.cols()) == (a.cols(), a.rows()), "turned");
    // Squares whose lines stay in the cache while they are turned.
    for first in (0..out.rows()).step_by(TURNED) {
        for start in (0..a.rows()).step_by(TURNED) {
            for k in start..a.rows().min(start + TURNED) {
                let row = &a.row(k)[first..a.cols().min(first + TURNED)];
                for (i, &x) in row.iter().enumerate() {
                    out.row_mut(first + i)[k] = x;
                }
            }
        }
    }
}
