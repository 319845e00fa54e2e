//! The gradient of the routed experts, or of the shared one.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use cuvier_tensor::{MatMut, MatRef, Matrix};

use super::{Dispatch, ExpertWeights};
use crate::gemm::{MIN_PRODUCTS, decoded};
use crate::{
    Activations, Compute, DisjointRows, Lent, Store, gemm, matmul, matmul_transposed, swiglu_backward,
};

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
    let (n_pairs, dim) = (ids.data().len(), x.cols());
    let (mut dinputs, mut of_pairs) = (c.matrix(n_pairs, dim), c.matrix(n_pairs, 1));
    let (mut dinputs_left, mut of_pairs_left) = (dinputs.data_mut(), of_pairs.data_mut());
    let mut gradients = gradients.iter_mut().enumerate();
    let mut tasks = Vec::with_capacity(dispatch.chosen.len());
    for (id, pairs) in &dispatch.chosen {
        let id = usize::from(*id);
        let gradients = gradients.find(|(of, _)| *of == id).expect("gradients of every expert").1;
        let own = dinputs_left.split_off_mut(..pairs.len() * dim).expect("rows of all pairs");
        let of_pairs = of_pairs_left.split_off_mut(..pairs.len()).expect("all pairs");
        let pairs = pairs.clone();
        tasks.push(Mutex::new(Some(Task { expert: &experts[id], pairs, gradients, dinputs: own, of_pairs })));
    }
    // An expert is one thread's: no two share a sum.
    c.for_each(tasks.len(), |i| {
        if let Some(task) = tasks[i].lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.run(c, x, dout, &dispatch, swiglu_limit);
        }
    });
    add_to_tokens(c, &dispatch, &dinputs, dx);
    let mut dweights = c.matrix(weights.rows(), weights.cols());
    for (id, pairs) in &dispatch.chosen {
        for pair in pairs.clone() {
            let token = dispatch.tokens.data()[pair] as usize;
            let slot = ids.row(token).iter().position(|of| of == id).expect("the token chose this expert");
            dweights.row_mut(token)[slot] = of_pairs.data()[pair];
        }
    }
    dweights
}

/// What one expert has to do.
struct Task<'a, 'g> {
    expert: &'a ExpertWeights,
    pairs: Range<usize>,
    gradients: &'a mut ExpertGradients<'g>,
    /// Gradient of the inputs of its pairs, `[pairs, dim]`.
    dinputs: &'a mut [f32],
    /// Gradient of their routing weights.
    of_pairs: &'a mut [f32],
}

impl Task<'_, '_> {
    fn run(self, c: &Compute, x: MatRef<'_>, dout: MatRef<'_>, dispatch: &Dispatch, limit: f32) {
        let tokens = &dispatch.tokens.data()[self.pairs.clone()];
        let inputs = gather(c, x, tokens);
        let weights = &dispatch.weights.data()[self.pairs];
        let dout = gather(c, dout, tokens);
        let pass = Pass { x: inputs.view(), weights, expert: self.expert, limit, dout };
        let dinputs = pass.run(c, self.gradients, self.of_pairs);
        self.dinputs.copy_from_slice(dinputs.data());
    }
}

/// Adds the rows of all pairs to those of their tokens, for each token in ascending order of experts.
fn add_to_tokens(c: &Compute, dispatch: &Dispatch, dinputs: &Matrix, dx: &mut Matrix) {
    let k = dispatch.tokens.data().len() / dispatch.n_tokens.max(1);
    let mut pairs_of = c.matrix::<u32>(dispatch.n_tokens, k);
    let mut known = c.matrix::<u32>(dispatch.n_tokens, 1);
    known.data_mut().fill(0);
    // Pairs are numbered by experts.
    for (pair, &token) in (0..).zip(dispatch.tokens.data()) {
        let known = &mut known.data_mut()[token as usize];
        pairs_of.row_mut(token as usize)[*known as usize] = pair;
        *known += 1;
    }
    let dim = dinputs.cols();
    let dx = DisjointRows::new(dx.data_mut(), dim);
    c.for_each_range(dispatch.n_tokens, MIN_PRODUCTS / (k * dim).max(1), |tokens| {
        for token in tokens {
            // SAFETY: a token lies in one range only.
            let dx = unsafe { dx.part(token, 0..dim) };
            for &pair in pairs_of.row(token) {
                dx.iter_mut().zip(dinputs.row(pair as usize)).for_each(|(dx, d)| *dx += d);
            }
        }
    });
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
