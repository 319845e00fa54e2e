//! Attention over the sliding window and the compressed past.

use cuvier_kernels::{
    Activations, AttentionConfig, AttentionSegment, Entries, EntryCodec, KvFormat, Lent, RopeTable, Rotation,
    attention, encode_entries, gemm, gemm_grouped, norm_and_rope, rms_norm_in_place, rope,
};
use cuvier_tensor::{Matrix, PagedRows, WeightMatrix};

mod backward;

use crate::Ctx;
use crate::compressor::Compressor;
use crate::indexer::{IndexInput, IndexState, Indexer};
use crate::step::Step;
use std::sync::Arc;

/// Multi-query attention with one shared key-value head.
pub struct Attention {
    /// `[q_lora_rank, hidden_size]`.
    pub(crate) wq_a: WeightMatrix,
    /// `[q_lora_rank]`.
    pub(crate) q_norm: Vec<f32>,
    /// `[num_attention_heads * head_dim, q_lora_rank]`.
    pub(crate) wq_b: WeightMatrix,
    /// `[head_dim, hidden_size]`.
    pub(crate) wkv: WeightMatrix,
    /// `[head_dim]`.
    pub(crate) kv_norm: Vec<f32>,
    /// `[o_groups * o_lora_rank, num_attention_heads * head_dim / o_groups]`, block diagonal.
    pub(crate) wo_a: WeightMatrix,
    /// `[hidden_size, o_groups * o_lora_rank]`.
    pub(crate) wo_b: WeightMatrix,
    /// `[num_attention_heads]`.
    pub(crate) attn_sink: Vec<f32>,
    pub(crate) compressed: Compressed,
    /// The table of this layer's kind.
    pub(crate) table: Arc<RopeTable>,
    pub(crate) num_attention_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) qk_rope_head_dim: usize,
    pub(crate) o_groups: usize,
    pub(crate) sliding_window: usize,
    pub(crate) rms_norm_eps: f32,
}

/// What a layer sees beyond its window.
pub enum Compressed {
    /// Nothing.
    Sliding,
    /// Compressed sparse attention: the entries that the indexer selects.
    Csa { compressor: Compressor, indexer: Box<Indexer> },
    /// Heavily compressed attention: all entries.
    Hca { compressor: Compressor },
}

/// What a layer remembers of one sequence.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// Keys by position, in [`EntryCodec`]'s format.
    pub(crate) window: PagedRows<u8>,
    /// `None` in sliding layers.
    pub(crate) compressed: Option<CompressedState>,
}

/// The compressed past of one sequence in one layer.
#[derive(Clone, Debug)]
pub struct CompressedState {
    /// Rows of the compressor by position.
    pub(crate) pending: PagedRows<f32>,
    /// One entry per complete group.
    pub(crate) entries: PagedRows<u8>,
    /// `None` in HCA layers.
    pub(crate) index: Option<IndexState>,
}

/// The state of one segment's sequence in the layer at hand.
pub type SegmentState<'a> = &'a mut LayerState;

impl Attention {
    /// How entries of this layer are stored.
    pub fn codec(&self, kv: KvFormat) -> EntryCodec {
        EntryCodec { format: kv, head_dim: self.head_dim, rope_dim: self.qk_rope_head_dim }
    }

    /// `x`: `[tokens, hidden_size]`, normed. Returns the same shape; the states take the tokens in.
    ///
    /// Source: DeepSeek-V4 `inference/model.py`, `Attention.forward`.
    pub fn forward(
        &self,
        x: &Matrix,
        step: &Step<'_>,
        states: &mut [SegmentState<'_>],
        ctx: &mut Ctx<'_>,
    ) -> Lent {
        let tokens = x.rows();
        let x = &Activations::new(x.view());
        let mut qr = self.linear(x, &self.wq_a, ctx);
        rms_norm_in_place(ctx.compute, qr.view_mut(), Some(&self.q_norm), self.rms_norm_eps);
        let qr = &Activations::new(qr.view());
        let q = self.queries(qr, step, ctx);
        ctx.probe("attn.q", &q);

        let mut kv = self.linear(x, &self.wkv, ctx);
        let norm = Some(&self.kv_norm[..]);
        norm_and_rope(ctx.compute, kv.view_mut(), norm, self.rms_norm_eps, 1, step.angles);
        ctx.probe("attn.kv", &kv);
        self.append_window(&kv, step, states, ctx);

        let mut o = self.attend(x, qr, &q, step, states, ctx);
        drop(q);
        o.reshape(self.head_dim);
        rope(ctx.compute, o.view_mut(), self.num_attention_heads, step.angles, Rotation::Inverse);
        o.reshape(self.num_attention_heads * self.head_dim);
        ctx.probe("attn.o", &o);

        let mut z = ctx.matrix(tokens, self.wo_a.rows());
        let o = Activations::new(o.view().split_rows(self.wo_a.cols()));
        gemm_grouped(ctx.compute, &o, &self.wo_a, self.o_groups, z.view_mut());
        self.linear(&Activations::new(z.view()), &self.wo_b, ctx)
    }

    fn linear(&self, x: &Activations<'_>, weight: &WeightMatrix, ctx: &mut Ctx<'_>) -> Lent {
        let mut out = ctx.matrix(x.exact().rows(), weight.rows());
        gemm(ctx.compute, x, weight, out.view_mut());
        out
    }

    /// `[tokens, num_attention_heads * head_dim]`: each head normed by itself, then rotated.
    fn queries(&self, qr: &Activations<'_>, step: &Step<'_>, ctx: &mut Ctx<'_>) -> Lent {
        let mut q = self.linear(qr, &self.wq_b, ctx);
        q.reshape(self.head_dim);
        let heads = self.num_attention_heads;
        norm_and_rope(ctx.compute, q.view_mut(), None, self.rms_norm_eps, heads, step.angles);
        q.reshape(self.num_attention_heads * self.head_dim);
        q
    }

    fn append_window(
        &self,
        kv: &Matrix,
        step: &Step<'_>,
        states: &mut [SegmentState<'_>],
        ctx: &mut Ctx<'_>,
    ) {
        let codec = self.codec(step.kv);
        let mut bytes = ctx.matrix(kv.rows(), codec.row_bytes());
        encode_entries(ctx.compute, &codec, kv.view(), bytes.view_mut());
        for (segment, state) in step.segments.iter().zip(states) {
            state
                .window
                .extend(&bytes.data()[segment.rows.start * bytes.cols()..segment.rows.end * bytes.cols()]);
        }
    }

    fn attend(
        &self,
        x: &Activations<'_>,
        qr: &Activations<'_>,
        q: &Matrix,
        step: &Step<'_>,
        states: &mut [SegmentState<'_>],
        ctx: &mut Ctx<'_>,
    ) -> Lent {
        match &self.compressed {
            Compressed::Sliding => self.attend_to(q, Entries::None, step, states, ctx),
            Compressed::Hca { compressor } => {
                self.append_entries(compressor, x, step, states, ctx);
                self.attend_to(q, Entries::All { ratio: compressor.shape.ratio }, step, states, ctx)
            }
            Compressed::Csa { compressor, indexer } => {
                self.append_entries(compressor, x, step, states, ctx);
                let input = IndexInput { x, qr, step, table: &self.table };
                let selection = indexer.forward(&input, states, ctx);
                let o = self.attend_to(q, Entries::Selected(&selection), step, states, ctx);
                ctx.keep(|kept| kept.selections.push(selection));
                o
            }
        }
    }

    fn append_entries(
        &self,
        compressor: &Compressor,
        x: &Activations<'_>,
        step: &Step<'_>,
        states: &mut [SegmentState<'_>],
        ctx: &mut Ctx<'_>,
    ) {
        let pending = states.iter_mut().map(|state| &mut state.compressed_mut().pending);
        let entries = compressor.forward(x, step, pending, &self.table, ctx);
        ctx.probe("attn.compressor", &entries);
        let codec = self.codec(step.kv);
        let mut bytes = ctx.matrix(entries.rows(), codec.row_bytes());
        encode_entries(ctx.compute, &codec, entries.view(), bytes.view_mut());
        let mut rest = bytes.data();
        for (state, segment) in states.iter_mut().zip(step.segments) {
            let (own, others) = rest.split_at(compressor.groups(segment).len() * codec.row_bytes());
            state.compressed_mut().entries.extend(own);
            rest = others;
        }
    }

    fn attend_to(
        &self,
        q: &Matrix,
        entries: Entries<'_>,
        step: &Step<'_>,
        states: &[SegmentState<'_>],
        ctx: &mut Ctx<'_>,
    ) -> Lent {
        let segments: Vec<_> = step
            .segments
            .iter()
            .zip(states)
            .map(|(segment, state)| AttentionSegment {
                tokens: segment.rows.clone(),
                first_position: segment.first_position,
                window: &state.window,
                entries: state.compressed.as_ref().map(|compressed| &compressed.entries),
            })
            .collect();
        let mut out = ctx.matrix(q.rows(), q.cols());
        let config = AttentionConfig {
            codec: self.codec(step.kv),
            attn_sink: &self.attn_sink,
            sliding_window: self.sliding_window,
            scale: (self.head_dim as f64).powf(-0.5) as f32,
        };
        attention(ctx.compute, q.view(), &segments, entries, &config, out.view_mut());
        out
    }
}

impl LayerState {
    fn compressed_mut(&mut self) -> &mut CompressedState {
        self.compressed.as_mut().expect("states are made by the model whose layers they serve")
    }

    pub(crate) fn index_mut(&mut self) -> &mut IndexState {
        self.compressed_mut().index.as_mut().expect("states are made by the model whose layers they serve")
    }
}
