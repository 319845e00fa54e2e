//! The product as its formula says.

use cuvier_tensor::{MatRef, Matrix};

/// `out[i, j]` plus the sum over `k` of `a(i, k) * b[k, j]`, in ascending `k` with fused multiply-add.
pub(super) fn matmul(m: usize, a: impl Fn(usize, usize) -> f32, b: MatRef<'_>, out: &mut Matrix) {
    for i in 0..m {
        for (j, out) in out.row_mut(i).iter_mut().enumerate() {
            *out = (0..b.rows()).fold(*out, |sum, k| a(i, k).mul_add(b.row(k)[j], sum));
        }
    }
}
