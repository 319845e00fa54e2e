//! Mixture of experts: a router picks a few experts per token, one shared expert sees every token.

use std::sync::Arc;

use cuvier_kernels::{
    Activations, Compute, Dispatch, ExpertWeights, Lent, Routing, Store, add, experts, experts_part, gemm,
    route_by_hash, route_by_score, swiglu,
};
use cuvier_tensor::{Matrix, WeightMatrix};
use cuvier_types::LayerId;
use cuvier_weights::Expert;
use cuvier_weights::expert_store::{ExpertStore, Fetch};

mod backward;

pub use backward::BalanceLoss;

use crate::{Ctx, ModelError};

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
    /// `x`: `[tokens, hidden_size]`, normed. Returns the same shape. `meanwhile` is called once it is known which experts
    /// are needed; if they have to be read, they are on their way then.
    ///
    /// Source: DeepSeek-V4 `inference/model.py`, `MoE.forward` and `Gate.forward`.
    ///
    /// # Errors
    /// If an expert cannot be read.
    pub fn forward(
        &self,
        x: &Matrix,
        tokens: &[u32],
        meanwhile: impl FnOnce(&mut Ctx<'_>),
        ctx: &mut Ctx<'_>,
    ) -> Result<Lent, ModelError> {
        let mut out = ctx.matrix(x.rows(), x.cols());
        let x = &Activations::new(x.view());
        let routing = self.route(x, tokens, ctx);
        let coming = self.experts.ask(&routing, ctx.compute);
        meanwhile(ctx);
        let shared = self.shared(x, ctx);
        self.experts.forward(x, &routing, coming, self.swiglu_limit, &mut out, ctx.compute)?;
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

    /// Whether it is of use to [guess](Self::guess): experts come from disk, what they are depends on activations, and there
    /// is a router to ask, not an outline of one.
    pub(crate) fn can_guess(&self) -> bool {
        let is_stored = match &self.experts {
            Experts::Stored { store, layer, n_experts } => store.can_guess(*layer, *n_experts),
            Experts::Loaded(_) => false,
        };
        is_stored && self.routes_by_score() && self.gate.weight.bytes() > 0
    }

    /// Tells the store what this router would choose for `x` `[tokens, hidden_size]`, which its input will be like.
    pub(crate) fn guess(&self, x: &Matrix, ctx: &Ctx<'_>) {
        let (Experts::Stored { store, layer, .. }, Selection::Score { bias }) =
            (&self.experts, &self.gate.selection)
        else {
            return;
        };
        let mut logits = ctx.matrix(x.rows(), self.gate.weight.rows());
        gemm(ctx.compute, &Activations::new(x.view()), &self.gate.weight, logits.view_mut());
        let (k, factor) = (self.num_experts_per_tok, self.routed_scaling_factor);
        let routing = route_by_score(ctx.compute, logits.view(), bias, k, factor);
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

    /// Asks for the experts of a step where they come from disk.
    fn ask(&self, routing: &Routing, compute: &Compute) -> Option<Coming<'_>> {
        let Self::Stored { store, layer, .. } = self else { return None };
        let dispatch = Dispatch::new(compute, &routing.ids, &routing.weights);
        let fetch = store.fetch(*layer, dispatch.ids());
        Some(Coming { dispatch, fetch })
    }

    /// The same operation over the same experts in the same order, wherever they are: so the same bits. `coming`: what
    /// [`Experts::ask`] said.
    fn forward(
        &self,
        x: &Activations<'_>,
        routing: &Routing,
        coming: Option<Coming<'_>>,
        limit: f32,
        out: &mut Matrix,
        compute: &Compute,
    ) -> Result<(), ModelError> {
        let Some(Coming { dispatch, fetch }) = coming else {
            let Routing { ids, weights } = routing;
            experts(compute, x, ids, weights, self.loaded(), limit, out.view_mut());
            return Ok(());
        };
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

/// The experts of a step, on their way from disk.
struct Coming<'a> {
    dispatch: Dispatch,
    fetch: Fetch<'a>,
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
