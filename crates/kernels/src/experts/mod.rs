//! The routed experts of a mixture-of-experts layer.

use std::borrow::Borrow;

use cuvier_tensor::{MatMut, MatRef, Matrix, WeightMatrix};

use crate::swiglu::SwigluRow;
use crate::{Compute, gemm};

/// The weights of one expert, shared or routed.
#[derive(Clone, Debug)]
pub struct ExpertWeights {
    /// Gate projection, `[inter, dim]`.
    pub w1: WeightMatrix,
    /// Up projection, `[inter, dim]`.
    pub w3: WeightMatrix,
    /// Down projection, `[dim, inter]`.
    pub w2: WeightMatrix,
}

/// Mixture of experts: `out[t] = sum over j of w2(weights[t, j] * swiglu(w1 x[t], w3 x[t]))`, with the matrices of
/// expert `ids[t, j]`.
///
/// | argument       | shape           | dtype                 | unit           |
/// |----------------|-----------------|-----------------------|----------------|
/// | `x`            | `[tokens, dim]` | f32                   | activation     |
/// | `ids`          | `[tokens, k]`   | u16                   | expert         |
/// | `weights`      | `[tokens, k]`   | f32                   | routing weight |
/// | `experts`      | `[n_experts]`   | F32, BF16, FP8 or FP4 | weight         |
/// | `swiglu_limit` | scalar          | f32                   | bound          |
/// | `out`          | `[tokens, dim]` | f32                   | activation     |
///
/// Products as in [`gemm()`], the activation as in [`crate::swiglu()`], then times the routing weight, each rounded to
/// f32. The sum over a token's experts starts at zero and runs in ascending expert id, whatever the order of
/// `ids`: so the result depends on the token alone. The ids of a token are distinct. `out` is overwritten.
///
/// Source: DeepSeek-V4 `inference/model.py`, `MoE.forward` and `Expert.forward`.
///
/// # Panics
/// If the shapes disagree or an id is not an expert.
pub fn experts<E: Borrow<ExpertWeights> + Sync>(
    c: &Compute,
    x: MatRef<'_>,
    ids: &Matrix<u16>,
    weights: &Matrix<f32>,
    experts: &[E],
    swiglu_limit: f32,
    mut out: MatMut<'_>,
) {
    assert_eq!((out.rows(), out.cols()), (x.rows(), x.cols()), "outputs");
    assert_eq!((ids.rows(), ids.cols()), (weights.rows(), weights.cols()), "ids and weights");
    assert_eq!(ids.rows(), x.rows(), "tokens");
    for t in 0..x.rows() {
        out.row_mut(t).fill(0.0);
        let mut chosen: Vec<usize> = (0..ids.cols()).collect();
        chosen.sort_by_key(|&j| ids.row(t)[j]);
        for j in chosen {
            let expert: &ExpertWeights = experts[usize::from(ids.row(t)[j])].borrow();
            let x = MatRef::new(x.row(t), 1, x.cols());
            let inter = expert.w1.rows();
            let [mut gate, mut up, mut a] = [(); 3].map(|()| Matrix::zeros(1, inter));
            let mut y = Matrix::zeros(1, x.cols());
            gemm(c, x, &expert.w1, gate.view_mut());
            gemm(c, x, &expert.w3, up.view_mut());
            c.isa().dispatch(SwigluRow {
                gate: gate.data(),
                up: up.data(),
                limit: swiglu_limit,
                weight: weights.row(t)[j],
                out: a.data_mut(),
            });
            gemm(c, a.view(), &expert.w2, y.view_mut());
            for (out, y) in out.row_mut(t).iter_mut().zip(y.data()) {
                *out += y;
            }
        }
    }
}
