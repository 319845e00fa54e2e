//! The lightning indexer: which compressed entries a token of a CSA layer attends to.

use cuvier_kernels::{
    Activations, IndexKeyCodec, IndexSegment, KvFormat, Lent, RopeTable, Rotation, Selection,
    encode_index_keys, gemm, hadamard, index_select, quantise_index_queries, rope, scale,
};
use cuvier_tensor::{PagedRows, WeightMatrix};

mod backward;

pub use backward::IndexerLoss;

use crate::Ctx;
use crate::attention::SegmentState;
use crate::compressor::Compressor;
use crate::step::Step;

/// The indexer of a CSA layer.
pub struct Indexer {
    /// `[index_n_heads * index_head_dim, q_lora_rank]`.
    pub(crate) wq_b: WeightMatrix,
    /// `[index_n_heads, hidden_size]`.
    pub(crate) weights_proj: WeightMatrix,
    pub(crate) compressor: Compressor,
    pub(crate) index_n_heads: usize,
    pub(crate) index_head_dim: usize,
    pub(crate) index_topk: usize,
}

/// What the indexer remembers of one sequence.
#[derive(Clone, Debug)]
pub struct IndexState {
    /// Rows of the compressor by position.
    pub(crate) pending: PagedRows<f32>,
    /// One key per complete group, in [`IndexKeyCodec`]'s format.
    pub(crate) keys: PagedRows<u8>,
}

/// The indexer's input: the normed tokens and their query bottleneck.
pub struct IndexInput<'a> {
    /// `[tokens, hidden_size]`.
    pub x: &'a Activations<'a>,
    /// `[tokens, q_lora_rank]`.
    pub qr: &'a Activations<'a>,
    /// What they are tokens of.
    pub step: &'a Step<'a>,
    /// The table that the step's angles come from.
    pub table: &'a RopeTable,
}

impl Indexer {
    /// How keys of this indexer are stored.
    pub fn codec(&self, kv: KvFormat) -> IndexKeyCodec {
        IndexKeyCodec { format: kv, dim: self.index_head_dim }
    }

    /// Takes the tokens into the keys, and selects for each at most `index_topk` entries.
    ///
    /// The score of entry `j` is `sum over heads h of w_h * relu(q_h . k_j)`; equal scores prefer the older entry.
    ///
    /// Source: DeepSeek-V4 `inference/model.py`, `Indexer.forward`.
    pub fn forward(
        &self,
        input: &IndexInput<'_>,
        states: &mut [SegmentState<'_>],
        ctx: &mut Ctx<'_>,
    ) -> Selection {
        self.append_keys(input, states, ctx);
        let q = self.queries(input, ctx);
        let w = self.weights(input.x, ctx);
        let segments: Vec<_> = input
            .step
            .segments
            .iter()
            .zip(states)
            .map(|(segment, state)| IndexSegment {
                tokens: segment.rows.clone(),
                first_position: segment.first_position,
                keys: &state.index_mut().keys,
            })
            .collect();
        let ratio = self.compressor.shape.ratio;
        index_select(
            ctx.compute,
            q.view(),
            w.view(),
            &segments,
            &self.codec(input.step.kv),
            ratio,
            self.index_topk,
        )
    }

    fn append_keys(&self, input: &IndexInput<'_>, states: &mut [SegmentState<'_>], ctx: &mut Ctx<'_>) {
        let pending = states.iter_mut().map(|state| &mut state.index_mut().pending);
        let mut keys = self.compressor.forward(input.x, input.step, pending, input.table, ctx);
        hadamard(ctx.compute, keys.view_mut());
        ctx.probe("attn.indexer.keys", &keys);
        let codec = self.codec(input.step.kv);
        let mut bytes = ctx.matrix(keys.rows(), codec.row_bytes());
        encode_index_keys(ctx.compute, &codec, keys.view(), bytes.view_mut());
        let mut rest = bytes.data();
        for (state, segment) in states.iter_mut().zip(input.step.segments) {
            let (own, others) = rest.split_at(self.compressor.groups(segment).len() * codec.row_bytes());
            state.index_mut().keys.extend(own);
            rest = others;
        }
    }

    fn queries(&self, input: &IndexInput<'_>, ctx: &mut Ctx<'_>) -> Lent {
        let mut q = ctx.matrix(input.qr.exact().rows(), self.wq_b.rows());
        gemm(ctx.compute, input.qr, &self.wq_b, q.view_mut());
        q.reshape(self.index_head_dim);
        rope(ctx.compute, q.view_mut(), self.index_n_heads, input.step.angles, Rotation::Forward);
        hadamard(ctx.compute, q.view_mut());
        match input.step.kv {
            KvFormat::Fp8 => quantise_index_queries(ctx.compute, q.view_mut()),
            KvFormat::F32 => {}
        }
        q
    }

    fn weights(&self, x: &Activations<'_>, ctx: &mut Ctx<'_>) -> Lent {
        let mut w = ctx.matrix(x.exact().rows(), self.weights_proj.rows());
        gemm(ctx.compute, x, &self.weights_proj, w.view_mut());
        scale(ctx.compute, w.view_mut(), self.weight_factor());
        w
    }

    /// What the weights of the heads are multiplied by.
    fn weight_factor(&self) -> f32 {
        let factor = (self.index_head_dim as f64).powf(-0.5) * (self.index_n_heads as f64).powf(-0.5);
        factor as f32
    }
}
