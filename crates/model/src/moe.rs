//! Mixture of experts: a router picks a few experts per token, one shared expert sees every token.

use std::sync::Arc;

use cuvier_kernels::{
    Activations, Compute, Dispatch, ExpertWeights, Lent, Routing, Store, add, experts, experts_part, gemm,
    route_by_hash, route_by_score, swiglu,
};
use cuvier_tensor::{Matrix, WeightMatrix};
use cuvier_types::LayerId;
use cuvier_weights::Expert;
use cuvier_weights::expert_store::ExpertStore;

mod backward;

pub use backward::BalanceLoss;

use crate::{Ctx, ModelError};

/// The most tokens whose next experts are guessed.
const GUESSED_TOKENS_MAX: usize = 8;

/// The feed-forward part of a layer.
pub struct Moe {
    pub(crate) gate: Gate,
    pub(crate) experts: Experts,
    pub(crate) shared_experts: ExpertWeights,
    pub(crate) num_experts_per_tok: usize,
    pub(crate) routed_scaling_factor: f32,
    pub(crate) swiglu_limit: f32,
}

/// Where routed experts are.
pub enum Experts {
    /// All in memory, `[n_routed_experts]`.
    Loaded(Vec<ExpertWeights>),
    /// In files, and in memory as far as the store has room.
    Stored {
        /// What reads them.
        store: Arc<ExpertStore>,
        /// Whose they are.
        layer: LayerId,
        /// How many.
        n_experts: usize,
    },
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
    /// `x`: `[tokens, hidden_size]`, normed. Returns the same shape. `next`: the experts of the layer behind, see
    /// [`Layer::forward`](crate::layer::Layer::forward).
    ///
    /// Source: DeepSeek-V4 `inference/model.py`, `MoE.forward` and `Gate.forward`.
    ///
    /// # Errors
    /// If an expert cannot be read.
    pub fn forward(
        &self,
        x: &Matrix,
        tokens: &[u32],
        next: Option<&Self>,
        ctx: &mut Ctx<'_>,
    ) -> Result<Lent, ModelError> {
        let mut out = ctx.matrix(x.rows(), x.cols());
        let x = &Activations::new(x.view());
        let routing = self.route(x, tokens, ctx);
        let guess = || next.iter().for_each(|next| next.guess(x, ctx.compute));
        self.experts.forward(x, &routing, self.swiglu_limit, guess, &mut out, ctx.compute)?;
        let shared = self.shared(x, ctx);
        add(ctx.compute, out.view_mut(), shared.view());
        ctx.keep(|kept| kept.routings.push(routing));
        Ok(out)
    }

    /// Begins to read the experts of these tokens, where they are known before anything is computed.
    pub(crate) fn foresee(&self, tokens: &[u32]) {
        if let (Experts::Stored { store, layer, .. }, Selection::Hash { tid2eid }) =
            (&self.experts, &self.gate.selection)
        {
            let ids = tokens.iter().flat_map(|&token| tid2eid.row(token as usize)).copied();
            store.foresee(*layer, distinct(ids));
        }
    }

    /// What this router would choose for the input of the layer before, told to the store: streams change little from
    /// layer to layer, so most of it is what it will choose.
    fn guess(&self, x: &Activations<'_>, compute: &Compute) {
        let (Experts::Stored { store, layer, .. }, Selection::Score { bias }) =
            (&self.experts, &self.gate.selection)
        else {
            return;
        };
        let weight = &self.gate.weight;
        // Many tokens choose almost all; and there is nothing to ask where only an outline is kept.
        if x.exact().rows() > GUESSED_TOKENS_MAX || weight.bytes() == 0 {
            return;
        }
        let mut logits = compute.matrix(x.exact().rows(), weight.rows());
        gemm(compute, x, weight, logits.view_mut());
        let routing = route_by_score(
            compute,
            logits.view(),
            bias,
            self.num_experts_per_tok,
            self.routed_scaling_factor,
        );
        store.guess(*layer, distinct(routing.ids.data().iter().copied()));
    }

    pub(crate) fn routes_by_score(&self) -> bool {
        matches!(self.gate.selection, Selection::Score { .. })
    }

    fn route(&self, x: &Activations<'_>, tokens: &[u32], ctx: &mut Ctx<'_>) -> Routing {
        let mut logits = ctx.matrix(tokens.len(), self.gate.weight.rows());
        gemm(ctx.compute, x, &self.gate.weight, logits.view_mut());
        ctx.probe("ffn.gate", &logits);
        let (logits, factor) = (logits.view(), self.routed_scaling_factor);
        let routing = match &self.gate.selection {
            Selection::Score { bias } => match ctx.chosen() {
                None => route_by_score(ctx.compute, logits, bias, self.num_experts_per_tok, factor),
                Some(ids) => {
                    let rows: Vec<u32> = (0..ids.rows() as u32).collect();
                    route_by_hash(ctx.compute, logits, ids, &rows, factor)
                }
            },
            Selection::Hash { tid2eid } => route_by_hash(ctx.compute, logits, tid2eid, tokens, factor),
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

impl Experts {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Loaded(experts) => experts.len(),
            Self::Stored { n_experts, .. } => *n_experts,
        }
    }

    /// Bytes of one of them as it is stored.
    pub(crate) fn bytes_of_one(&self) -> usize {
        match self {
            Self::Loaded(all) => all.first().map_or(0, |e| e.w1.bytes() + e.w3.bytes() + e.w2.bytes()),
            Self::Stored { store, .. } => store.stored_bytes(),
        }
    }

    /// Those in memory for good: all, or none.
    pub(crate) fn loaded(&self) -> &[ExpertWeights] {
        match self {
            Self::Loaded(experts) => experts,
            Self::Stored { .. } => &[],
        }
    }

    /// See [`Experts::loaded`].
    pub(crate) fn loaded_mut(&mut self) -> &mut [ExpertWeights] {
        match self {
            Self::Loaded(experts) => experts,
            Self::Stored { .. } => &mut [],
        }
    }

    /// The same operation over the same experts in the same order, wherever they are: so the same bits. `guess` is called
    /// while the first of them are read, if any are.
    fn forward(
        &self,
        x: &Activations<'_>,
        routing: &Routing,
        limit: f32,
        guess: impl FnOnce(),
        out: &mut Matrix,
        compute: &Compute,
    ) -> Result<(), ModelError> {
        let Routing { ids, weights } = routing;
        let (store, layer) = match self {
            Self::Loaded(all) => {
                experts(compute, x, ids, weights, all, limit, out.view_mut());
                return Ok(());
            }
            Self::Stored { store, layer, .. } => (store, *layer),
        };
        let dispatch = Dispatch::new(compute, ids, weights);
        let fetch = store.fetch(layer, dispatch.ids());
        // What this layer waits for is on its way.
        guess();
        let mut mode = Store::Set;
        for lease in fetch {
            let lease = lease?;
            let here: Vec<ExpertWeights> = lease.experts().map(weights_of).collect();
            let here: Vec<&ExpertWeights> = here.iter().collect();
            experts_part(compute, x, &dispatch, lease.range(), &here, limit, mode, out.view_mut());
            mode = Store::Add;
        }
        Ok(())
    }
}

/// Each id once, ascending.
fn distinct(ids: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut ids: Vec<u16> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The matrices as operations take them; they share memory with the expert.
pub(crate) fn weights_of(expert: &Expert) -> ExpertWeights {
    ExpertWeights { w1: expert.w1.clone(), w3: expert.w3.clone(), w2: expert.w2.clone() }
}
