//! The lightning indexer: which compressed entries a token of a CSA layer attends to.

use cuvier_kernels::{
    Activations, IndexKeyCodec, IndexSegment, KvFormat, Lent, RopeAngles, RopeTable, Rotation, Selection,
    encode_index_keys, gemm, hadamard, index_select, quantise_index_queries, rope, scale,
};
use cuvier_tensor::{Matrix, PagedRows, WeightMatrix};

use crate::Ctx;
use crate::compressor::Compressor;
use crate::step::Segment;

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
    /// The rows of each sequence.
    pub segments: &'a [Segment],
    /// Rotations of the rows' positions.
    pub angles: &'a RopeAngles,
    /// The table they come from.
    pub table: &'a RopeTable,
    /// How keys are stored.
    pub kv: KvFormat,
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
        states: &mut [&mut IndexState],
        ctx: &mut Ctx<'_>,
    ) -> Selection {
        self.append_keys(input, states, ctx);
        let q = self.queries(input, ctx);
        let w = self.weights(input.x, ctx);
        let segments: Vec<_> = input
            .segments
            .iter()
            .zip(states)
            .map(|(segment, state)| IndexSegment {
                tokens: segment.rows.clone(),
                first_position: segment.first_position,
                keys: &state.keys,
            })
            .collect();
        let ratio = self.compressor.shape.ratio;
        index_select(
            ctx.compute,
            q.view(),
            w.view(),
            &segments,
            &self.codec(input.kv),
            ratio,
            self.index_topk,
        )
    }

    fn append_keys(&self, input: &IndexInput<'_>, states: &mut [&mut IndexState], ctx: &mut Ctx<'_>) {
        let mut pending: Vec<_> = states.iter_mut().map(|state| &mut state.pending).collect();
        let (mut keys, counts) =
            self.compressor.forward(input.x, input.segments, &mut pending, input.table, ctx);
        hadamard(ctx.compute, keys.view_mut());
        ctx.probe("attn.indexer.keys", &keys);
        let codec = self.codec(input.kv);
        let mut bytes = Matrix::<u8>::zeros(keys.rows(), codec.row_bytes());
        encode_index_keys(ctx.compute, &codec, keys.view(), bytes.view_mut());
        let mut rest = bytes.data();
        for (state, count) in states.iter_mut().zip(counts) {
            let (own, others) = rest.split_at(count * codec.row_bytes());
            state.keys.extend(own);
            rest = others;
        }
    }

    fn queries<'c>(&self, input: &IndexInput<'_>, ctx: &mut Ctx<'c>) -> Lent<'c> {
        let mut q = ctx.matrix(input.qr.exact().rows(), self.wq_b.rows());
        gemm(ctx.compute, input.qr, &self.wq_b, q.view_mut());
        q.reshape(self.index_head_dim);
        rope(ctx.compute, q.view_mut(), self.index_n_heads, input.angles, Rotation::Forward);
        hadamard(ctx.compute, q.view_mut());
        match input.kv {
            KvFormat::Fp8 => quantise_index_queries(ctx.compute, q.view_mut()),
            KvFormat::F32 => {}
        }
        q
    }

    fn weights<'c>(&self, x: &Activations<'_>, ctx: &mut Ctx<'c>) -> Lent<'c> {
        let mut w = ctx.matrix(x.exact().rows(), self.weights_proj.rows());
        gemm(ctx.compute, x, &self.weights_proj, w.view_mut());
        let factor = (self.index_head_dim as f64).powf(-0.5) * (self.index_n_heads as f64).powf(-0.5);
        scale(ctx.compute, w.view_mut(), factor as f32);
        w
    }
}
