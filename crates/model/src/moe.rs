//! Mixture of experts: a router picks a few experts per token, one shared expert sees every token.

use std::collections::BTreeMap;
use std::ops::Range;
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

/// The most tokens of a step that computes with experts before their turn, while others are read: each of these has a share of
/// the output in memory until it is its turn.
pub(crate) const EARLY_TOKENS_MAX: usize = 4;
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
        let compute = ctx.compute;
        let mut shared = None;
        let meanwhile = || {
            next.iter().for_each(|next| next.guess(x, compute));
            // Of more tokens it would take memory beside that of routed experts.
            if tokens.len() <= EARLY_TOKENS_MAX {
                shared = Some(self.shared(x, compute));
            }
        };
        self.experts.forward(x, &routing, self.swiglu_limit, meanwhile, &mut out, compute)?;
        let shared = shared.unwrap_or_else(|| self.shared(x, compute));
        add(compute, out.view_mut(), shared.view());
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

    fn shared(&self, x: &Activations<'_>, compute: &Compute) -> Lent {
        let ExpertWeights { w1, w3, w2 } = &self.shared_experts;
        let tokens = x.exact().rows();
        let mut gate = compute.matrix(tokens, w1.rows());
        let mut up = compute.matrix(tokens, w3.rows());
        let mut hidden = compute.matrix(tokens, w1.rows());
        let mut out = compute.matrix(tokens, w2.rows());
        gemm(compute, x, w1, gate.view_mut());
        gemm(compute, x, w3, up.view_mut());
        swiglu(compute, gate.view(), up.view(), self.swiglu_limit, hidden.view_mut());
        gemm(compute, &Activations::new(hidden.view()), w2, out.view_mut());
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

    /// The same sums over the same experts in the same order, wherever they are: so the same bits. `meanwhile` is called
    /// while the first of them are read, if any are.
    fn forward(
        &self,
        x: &Activations<'_>,
        routing: &Routing,
        limit: f32,
        meanwhile: impl FnOnce(),
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
        let mut fetch = store.fetch(layer, dispatch.ids());
        if out.rows() <= EARLY_TOKENS_MAX {
            fetch = fetch.in_any_order();
        }
        // What this layer waits for is on its way.
        meanwhile();
        // Shares of experts that came before their turn.
        let mut early = BTreeMap::new();
        let mut turn = 0;
        for lease in fetch {
            let lease = lease?;
            let here: Vec<ExpertWeights> = lease.experts().map(weights_of).collect();
            let here: Vec<&ExpertWeights> = here.iter().collect();
            let Range { start, end } = lease.range();
            if start > turn {
                let mut share = compute.matrix(out.rows(), out.cols());
                experts_part(compute, x, &dispatch, start..end, &here, limit, Store::Set, share.view_mut());
                early.insert(start, share);
                continue;
            }
            let store = if turn == 0 { Store::Set } else { Store::Add };
            experts_part(compute, x, &dispatch, start..end, &here, limit, store, out.view_mut());
            turn = end;
            // An expert's share alone is what it would have added.
            while let Some(share) = early.remove(&turn) {
                add(compute, out.view_mut(), share.view());
                turn += 1;
            }
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
