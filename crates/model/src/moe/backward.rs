//! The way back through the experts and their router.

use cuvier_kernels::{
    Activations, ExpertGradients, Lent, Routing, Store, balance_backward, expert_backward, experts_backward,
    gemm, route_backward,
};
use cuvier_tensor::Matrix;

use super::{Moe, Selection};
use crate::Ctx;
use crate::gradients::{Gradients, add_weight_gradient, input_gradient};
use crate::step::Step;

/// The balance loss of a backward pass.
#[derive(Clone, Copy, Debug)]
pub struct BalanceLoss {
    /// Its factor in the objective, divided by the tokens of the optimiser's step: a sequence counts with its length.
    pub per_token: f32,
}

impl Moe {
    /// `x`: the normed input of the forward pass; `dout`: the gradient of its output, both `[tokens, hidden_size]`;
    /// `routing`: where the router sent the tokens then. Returns the gradient of `x`, and the sum over sequences of
    /// length times balance loss; that is 0 where the router goes by hash.
    #[expect(clippy::too_many_arguments, reason = "a forward pass, its loss, and where gradients go")]
    pub(crate) fn backward(
        &self,
        x: &Matrix,
        dout: &Matrix,
        step: &Step<'_>,
        routing: &Routing,
        balance: BalanceLoss,
        gradients: &mut Gradients<'_>,
        ctx: &mut Ctx<'_>,
    ) -> (Lent, f32) {
        let c = ctx.compute;
        let mut dx = ctx.matrix(x.rows(), x.cols());
        dx.data_mut().fill(0.0);
        let dweights = self.experts_backward(x, dout, routing, &mut dx, gradients, ctx);

        let mut logits = ctx.matrix(x.rows(), self.gate.weight.rows());
        gemm(c, &Activations::new(x.view()), &self.gate.weight, logits.view_mut());
        let mut dlogits = ctx.matrix(logits.rows(), logits.cols());
        dlogits.data_mut().fill(0.0);
        let factor = self.routed_scaling_factor;
        route_backward(c, logits.view(), routing, factor, &dweights, dlogits.view_mut());
        let mut loss = 0.0;
        if matches!(self.gate.selection, Selection::Score { .. }) {
            let sequences: Vec<_> = step.segments.iter().map(|segment| segment.rows.clone()).collect();
            let lengths: Vec<f32> = sequences.iter().map(|rows| rows.len() as f32).collect();
            let weights: Vec<f32> = lengths.iter().map(|len| balance.per_token * len).collect();
            let k = self.num_experts_per_tok;
            let losses = balance_backward(c, logits.view(), &sequences, k, &weights, dlogits.view_mut());
            loss = losses.iter().zip(&lengths).map(|(loss, len)| loss * len).sum();
        }
        gradients.with("gate.weight", |dw| add_weight_gradient(c, dlogits.view(), x.view(), dw.view_mut()));
        input_gradient(c, dlogits.view(), &self.gate.weight, Store::Add, dx.view_mut());
        (dx, loss)
    }

    /// Routed and shared experts. Returns the gradient of the routing weights.
    fn experts_backward(
        &self,
        x: &Matrix,
        dout: &Matrix,
        routing: &Routing,
        dx: &mut Matrix,
        gradients: &mut Gradients<'_>,
        ctx: &Ctx<'_>,
    ) -> Lent {
        let (c, limit) = (ctx.compute, self.swiglu_limit);
        let prefixes: Vec<String> =
            (0..self.experts.len()).map(|expert| format!("experts.{expert}")).collect();
        let mut taken: Vec<[Matrix; 3]> = prefixes.iter().map(|prefix| take(gradients, prefix)).collect();
        let mut of_experts: Vec<_> = taken.iter_mut().map(views).collect();
        let Routing { ids, weights } = routing;
        let (experts, dweights) = (self.experts.loaded(), &mut of_experts[..]);
        let dweights = experts_backward(c, x.view(), ids, weights, experts, limit, dout.view(), dweights, dx);
        drop(of_experts);
        prefixes.iter().zip(taken).for_each(|(prefix, taken)| put(gradients, prefix, taken));

        let mut shared = take(gradients, "shared_experts");
        expert_backward(c, x.view(), &self.shared_experts, limit, dout.view(), &mut views(&mut shared), dx);
        put(gradients, "shared_experts", shared);
        dweights
    }
}

/// The three matrices of an expert.
const PARTS: [&str; 3] = ["w1.weight", "w3.weight", "w2.weight"];

fn take(gradients: &mut Gradients<'_>, prefix: &str) -> [Matrix; 3] {
    PARTS.map(|part| gradients.take(&format!("{prefix}.{part}")))
}

fn put(gradients: &mut Gradients<'_>, prefix: &str, taken: [Matrix; 3]) {
    for (part, gradient) in PARTS.iter().zip(taken) {
        gradients.put(&format!("{prefix}.{part}"), gradient);
    }
}

fn views(taken: &mut [Matrix; 3]) -> ExpertGradients<'_> {
    let [w1, w3, w2] = taken;
    ExpertGradients { w1: w1.view_mut(), w3: w3.view_mut(), w2: w2.view_mut() }
}
