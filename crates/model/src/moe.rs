//! Mixture of experts: a router picks a few experts per token, one shared expert sees every token.

use cuvier_kernels::{
    Activations, ExpertWeights, Lent, Routing, add, experts, gemm, route_by_hash, route_by_score, swiglu,
};
use cuvier_tensor::{Matrix, WeightMatrix};

mod backward;

pub use backward::BalanceLoss;

use crate::Ctx;

/// The feed-forward part of a layer.
pub struct Moe {
    pub(crate) gate: Gate,
    pub(crate) experts: Vec<ExpertWeights>,
    pub(crate) shared_experts: ExpertWeights,
    pub(crate) num_experts_per_tok: usize,
    pub(crate) routed_scaling_factor: f32,
    pub(crate) swiglu_limit: f32,
}

/// The router, under its checkpoint key.
pub struct Gate {
    /// `[n_routed_experts, hidden_size]`.
    pub(crate) weight: WeightMatrix,
    pub(crate) selection: Selection,
}

/// How a router picks experts; their weights come from the scores either way.
pub enum Selection {
    /// The best scores after adding `bias` `[n_routed_experts]`, which has no other effect.
    Score { bias: Vec<f32> },
    /// The row of the token id in this table `[vocab_size, num_experts_per_tok]`.
    Hash { tid2eid: Matrix<u16> },
}

impl Moe {
    /// `x`: `[tokens, hidden_size]`, normed. Returns the same shape.
    ///
    /// Source: DeepSeek-V4 `inference/model.py`, `MoE.forward` and `Gate.forward`.
    pub fn forward(&self, x: &Matrix, tokens: &[u32], ctx: &mut Ctx<'_>) -> Lent {
        let mut out = ctx.matrix(x.rows(), x.cols());
        let x = &Activations::new(x.view());
        let routing = self.route(x, tokens, ctx);
        let Routing { ids, weights } = &routing;
        experts(ctx.compute, x, ids, weights, &self.experts, self.swiglu_limit, out.view_mut());
        let shared = self.shared(x, ctx);
        add(ctx.compute, out.view_mut(), shared.view());
        ctx.keep(|kept| kept.routings.push(routing));
        out
    }

    pub(crate) fn routes_by_score(&self) -> bool {
        matches!(self.gate.selection, Selection::Score { .. })
    }

    fn route(&self, x: &Activations<'_>, tokens: &[u32], ctx: &mut Ctx<'_>) -> Routing {
        let mut logits = ctx.matrix(tokens.len(), self.gate.weight.rows());
        gemm(ctx.compute, x, &self.gate.weight, logits.view_mut());
        ctx.probe("ffn.gate", &logits);
        let routing = match &self.gate.selection {
            Selection::Score { bias } => route_by_score(
                ctx.compute,
                logits.view(),
                bias,
                self.num_experts_per_tok,
                self.routed_scaling_factor,
            ),
            Selection::Hash { tid2eid } => {
                route_by_hash(ctx.compute, logits.view(), tid2eid, tokens, self.routed_scaling_factor)
            }
        };
        ctx.probe_ids("ffn.experts", &routing.ids);
        routing
    }

    fn shared(&self, x: &Activations<'_>, ctx: &mut Ctx<'_>) -> Lent {
        let ExpertWeights { w1, w3, w2 } = &self.shared_experts;
        let tokens = x.exact().rows();
        let mut gate = ctx.matrix(tokens, w1.rows());
        let mut up = ctx.matrix(tokens, w3.rows());
        let mut hidden = ctx.matrix(tokens, w1.rows());
        let mut out = ctx.matrix(tokens, w2.rows());
        gemm(ctx.compute, x, w1, gate.view_mut());
        gemm(ctx.compute, x, w3, up.view_mut());
        swiglu(ctx.compute, gate.view(), up.view(), self.swiglu_limit, hidden.view_mut());
        gemm(ctx.compute, &Activations::new(hidden.view()), w2, out.view_mut());
        out
    }
}
