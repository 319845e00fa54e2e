//! The gradient of the routed experts, or of the shared one.

use cuvier_tensor::{MatMut, MatRef, Matrix};

use super::{Dispatch, ExpertWeights};
use crate::gemm::decoded;
use crate::{Activations, Compute, Lent, Store, gemm, matmul, matmul_transposed, swiglu_backward};

#[cfg(test)]
mod tests;

/// The gradients of one expert's weights, shaped as [`ExpertWeights`]; added to.
#[derive(Debug)]
pub struct ExpertGradients<'a> {
    /// `[inter, dim]`.
    pub w1: MatMut<'a>,
    /// `[inter, dim]`.
    pub w3: MatMut<'a>,
    /// `[dim, inter]`.
    pub w2: MatMut<'a>,
}

/// Gradient of [`experts`](crate::experts()) for its inputs, the routing weights and the weights of the experts.
///
/// | argument        | shape           | dtype | unit |
/// |-----------------|-----------------|-------|------|
/// | `x`             | `[tokens, dim]` | f32   | activation |
/// | `ids`           | `[tokens, k]`   | u16   | expert |
/// | `weights`       | `[tokens, k]`   | f32   | routing weight |
/// | `experts`       | `[n_experts]`   | any   | weight; stored formats count as the numbers they stand for |
/// | `dout`          | `[tokens, dim]` | f32   | gradient of the outputs |
/// | `gradients`     | `[n_experts]`   | f32   | of the experts' weights, added to |
/// | `dx`            | `[tokens, dim]` | f32   | of the inputs, added to |
/// | result          | `[tokens, k]`   | f32   | of the routing weights |
///
/// The forward pass is computed once more, expert by expert. Sums over tokens run in ascending order of tokens, those
/// over experts in ascending order of experts.
///
/// Source: derivative of DeepSeek-V4 `inference/model.py`, `MoE.forward` and `Expert.forward`.
///
/// # Panics
/// If the shapes disagree or an id is not an expert.
#[expect(
    clippy::too_many_arguments,
    reason = "a forward operation and the gradients of each of its arguments"
)]
pub fn experts_backward(
    c: &Compute,
    x: MatRef<'_>,
    ids: &Matrix<u16>,
    weights: &Matrix<f32>,
    experts: &[ExpertWeights],
    swiglu_limit: f32,
    dout: MatRef<'_>,
    gradients: &mut [ExpertGradients<'_>],
    dx: &mut Matrix,
) -> Lent {
    let dispatch = Dispatch::new(c, ids, weights);
    let mut dweights = c.matrix(weights.rows(), weights.cols());
    for (id, pairs) in &dispatch.chosen {
        let tokens = &dispatch.tokens.data()[pairs.clone()];
        let inputs = gather(c, x, tokens);
        let mut of_pairs = c.matrix(tokens.len(), 1);
        let pass = Pass {
            x: inputs.view(),
            weights: &dispatch.weights.data()[pairs.clone()],
            expert: &experts[usize::from(*id)],
            limit: swiglu_limit,
            dout: gather(c, dout, tokens),
        };
        let dinputs = pass.run(c, &mut gradients[usize::from(*id)], of_pairs.data_mut());
        for (i, &token) in tokens.iter().enumerate() {
            let token = token as usize;
            dx.row_mut(token).iter_mut().zip(dinputs.row(i)).for_each(|(dx, d)| *dx += d);
            let slot = ids.row(token).iter().position(|of| of == id).expect("the token chose this expert");
            dweights.row_mut(token)[slot] = of_pairs.data()[i];
        }
    }
    dweights
}

/// Gradient of one expert that sees every token with the weight 1: the shared one. Arguments as in
/// [`experts_backward`].
///
/// # Panics
/// If the shapes disagree.
pub fn expert_backward(
    c: &Compute,
    x: MatRef<'_>,
    expert: &ExpertWeights,
    swiglu_limit: f32,
    dout: MatRef<'_>,
    gradients: &mut ExpertGradients<'_>,
    dx: &mut Matrix,
) {
    let ones = vec![1.0; x.rows()];
    let mut copy = c.matrix(dout.rows(), dout.cols());
    copy.data_mut()
        .chunks_exact_mut(dout.cols())
        .zip(dout.iter())
        .for_each(|(to, from)| to.copy_from_slice(from));
    let pass = Pass { x, weights: &ones, expert, limit: swiglu_limit, dout: copy };
    let mut unused = c.matrix(x.rows(), 1);
    let dinputs = pass.run(c, gradients, unused.data_mut());
    dx.data_mut().iter_mut().zip(dinputs.data()).for_each(|(dx, d)| *dx += d);
}

/// One expert and its tokens.
struct Pass<'a> {
    x: MatRef<'a>,
    weights: &'a [f32],
    expert: &'a ExpertWeights,
    limit: f32,
    dout: Lent,
}

impl Pass<'_> {
    /// The gradient of the inputs.
    fn run(self, c: &Compute, gradients: &mut ExpertGradients<'_>, dweights: &mut [f32]) -> Lent {
        let Self { x, weights, expert: ExpertWeights { w1, w3, w2 }, limit, dout } = self;
        let [mut gate, mut up, mut hidden] = [(); 3].map(|()| c.matrix(x.rows(), w1.rows()));
        let activations = Activations::new(x);
        gemm(c, &activations, w1, gate.view_mut());
        gemm(c, &activations, w3, up.view_mut());
        let [w1, w3, w2] = [w1, w3, w2].map(|w| decoded(c, w));
        matmul(c, dout.view(), w2.view(), Store::Set, hidden.view_mut());
        swiglu_backward(c, gate.view_mut(), up.view_mut(), weights, limit, hidden.view_mut(), dweights);
        let (dgate, dup) = (gate, up);
        matmul_transposed(c, dout.view(), hidden.view(), Store::Add, gradients.w2.reborrow());
        matmul_transposed(c, dgate.view(), x, Store::Add, gradients.w1.reborrow());
        matmul_transposed(c, dup.view(), x, Store::Add, gradients.w3.reborrow());
        let mut dx = c.matrix(x.rows(), x.cols());
        matmul(c, dgate.view(), w1.view(), Store::Set, dx.view_mut());
        matmul(c, dup.view(), w3.view(), Store::Add, dx.view_mut());
        dx
    }
}

/// The rows `tokens` of `x`.
fn gather(c: &Compute, x: MatRef<'_>, tokens: &[u32]) -> Lent {
    let mut out = c.matrix(tokens.len(), x.cols());
    for (i, &token) in tokens.iter().enumerate() {
        out.row_mut(i).copy_from_slice(x.row(token as usize));
    }
    out
}
