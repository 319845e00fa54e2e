//! The whole model: embedding, layers, head.

use std::sync::Arc;

use cuvier_kernels::{
    Activations, Compute, HcConfig, HcHead, KvFormat, Lent, RopeTable, gemm, hc_head, replicate,
};
use cuvier_tensor::WeightMatrix;
use cuvier_types::{Batch, LogitRows};
use cuvier_weights::ModelConfig;
use cuvier_weights::expert_store::LayerReads;

use crate::attention::SegmentState;
use crate::embedding::Embedding;
use crate::hyper_connection::Streams;
use crate::layer::Layer;
use crate::load::Streamed;
use crate::mtp::Mtp;
use crate::state::Geometry;
use crate::step::{Segment, Step};
use crate::{Ctx, ModelError, SequenceState};

/// A loaded DeepSeek-V4.
pub struct Transformer {
    pub(crate) config: ModelConfig,
    pub(crate) embed: Embedding,
    pub(crate) layers: Vec<Layer>,
    pub(crate) hc_head: HcHead,
    pub(crate) hc_config: HcConfig,
    /// `[hidden_size]`.
    pub(crate) norm: Vec<f32>,
    /// `[vocab_size, hidden_size]`.
    pub(crate) head: WeightMatrix,
    pub(crate) mtp: Option<Mtp>,
    pub(crate) tables: Tables,
    /// `None`: all weights are in memory.
    pub(crate) streamed: Option<Streamed>,
    pub(crate) fingerprint: u64,
}

/// The two rotations: layers that only see their window, and layers that also see a compressed past.
pub(crate) struct Tables {
    pub(crate) sliding: Arc<RopeTable>,
    pub(crate) compressed: Arc<RopeTable>,
}

/// What a step gives.
pub struct StepOutput {
    /// `[rows asked for, vocab_size]`, in the order of the batch.
    pub logits: Lent,
    /// The residual streams after the last layer, `[tokens, hc_mult * hidden_size]`: the MTP block's input.
    pub streams: Lent,
}

impl Transformer {
    /// The config of the checkpoint.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The MTP block, when the checkpoint has one.
    pub fn mtp(&self) -> Option<&Mtp> {
        self.mtp.as_ref()
    }

    /// The state of a sequence without tokens.
    pub fn new_state(&self, kv: KvFormat) -> SequenceState {
        SequenceState::new(self.geometry(kv))
    }

    /// Reads a state back that [`SequenceState::save`] wrote.
    ///
    /// # Errors
    /// [`ModelError::ForeignState`] for another model's or format's, [`ModelError::DamagedState`] for broken ones.
    pub fn restore(&self, bytes: &[u8], kv: KvFormat) -> Result<SequenceState, ModelError> {
        let state = SequenceState::restore(bytes, self.geometry(kv))?;
        if state.position > self.config.max_position_embeddings {
            return Err(ModelError::DamagedState { problem: "its position exceeds the context" });
        }
        Ok(state)
    }

    /// Computes one step: every chunk's tokens go into its state (`states` is parallel to `batch.chunks`).
    ///
    /// Source: DeepSeek-V4 `inference/model.py`, `Transformer.forward`.
    ///
    /// # Errors
    /// If the batch does not fit the states, the vocabulary or the context: no state has changed then. If weights cannot
    /// be read: the states may hold anything.
    pub fn forward(
        &self,
        batch: &Batch,
        states: &mut [&mut SequenceState],
        ctx: &mut Ctx<'_>,
    ) -> Result<StepOutput, ModelError> {
        self.check(batch, states)?;
        let kv = states[0].geometry.kv;
        let segments = segments(batch, states);
        let n_tokens = segments.last().map_or(0, |last| last.rows.end);
        ctx.compute.make_room(n_tokens);
        let tokens = batch.chunks.iter().flat_map(|chunk| chunk.tokens.iter().map(|t| t.0));
        let tokens = ctx.column(n_tokens, tokens);
        let positions = ctx.column(n_tokens, segments.iter().flat_map(Segment::positions));
        let (tokens, positions) = (tokens.data(), positions.data());
        let sliding = self.tables.sliding.angles(ctx.compute, positions);
        let compressed = self.tables.compressed.angles(ctx.compute, positions);

        self.begin_step(tokens);
        let x = self.embed.forward(tokens, ctx)?;
        ctx.enter(String::new);
        ctx.probe("embed", &x);
        let mut streams = replicate(ctx.compute, x.view(), self.config.hc_mult);
        for (index, layer) in self.layers.iter().enumerate() {
            let read = self.read_layer(index, ctx.compute)?;
            let layer = read.as_ref().unwrap_or(layer);
            ctx.enter(|| format!("layers.{index}"));
            let angles = if layer.attn.is_sliding() { &sliding } else { &compressed };
            let step = Step { tokens, positions, segments: &segments, angles, kv };
            let mut layer_states: Vec<SegmentState<'_>> =
                states.iter_mut().map(|state| &mut state.layers[index]).collect();
            let next = self.layers.get(index + 1);
            layer.forward(&mut streams, &step, &mut layer_states, next, ctx)?;
            for (state, segment) in states.iter_mut().zip(&segments) {
                state.release_layer(index, segment.first_position, segment.end_position());
            }
        }
        for (state, segment) in states.iter_mut().zip(&segments) {
            state.position = segment.end_position();
            state.release(segment.first_position);
        }
        ctx.enter(String::new);
        let logits = self.logits(&wanted_rows(&streams, batch, &segments, ctx), ctx);
        Ok(StepOutput { logits, streams })
    }

    /// What can be known of a step before it is computed.
    fn begin_step(&self, tokens: &[u32]) {
        let Some(Streamed { store, ahead, .. }) = &self.streamed else { return };
        store.begin_step();
        ahead.begin_step();
        self.layers.iter().for_each(|layer| layer.ffn.foresee(tokens));
    }

    /// The layer of that number with all its weights, if they are not kept in memory. The MTP block is the last one.
    pub(crate) fn read_layer(&self, index: usize, compute: &Compute) -> Result<Option<Layer>, ModelError> {
        match &self.streamed {
            None => Ok(None),
            Some(streamed) => streamed.layer(index, &self.tables, compute),
        }
    }

    /// What was read so far, by layer, the MTP block last: routed experts, and other weights where they do not stay in memory.
    /// `None`: all weights are in memory.
    pub fn expert_reads(&self) -> Option<Vec<LayerReads>> {
        let Streamed { store, ahead, .. } = self.streamed.as_ref()?;
        Some(
            store.reads().into_iter().zip(ahead.reads()).map(|(experts, other)| experts.and(other)).collect(),
        )
    }

    fn logits(&self, streams: &Streams, ctx: &mut Ctx<'_>) -> Lent {
        head(streams, &self.hc_head, &self.hc_config, &self.norm, &self.head, ctx)
    }

    fn check(&self, batch: &Batch, states: &[&mut SequenceState]) -> Result<(), ModelError> {
        if batch.chunks.len() != states.len() || states.is_empty() {
            return Err(ModelError::States { chunks: batch.chunks.len(), states: states.len() });
        }
        for (index, (chunk, state)) in batch.chunks.iter().zip(states).enumerate() {
            if chunk.tokens.is_empty() {
                return Err(ModelError::EmptyChunk { chunk: index });
            }
            self.check_tokens(chunk.tokens.iter().map(|t| t.0))?;
            let (position, tokens) = (state.position, chunk.tokens.len());
            let context_max = self.config.max_position_embeddings;
            if position + tokens > context_max {
                return Err(ModelError::Context { position, tokens, context_max });
            }
            if state.geometry != states[0].geometry || state.geometry.fingerprint != self.fingerprint {
                return Err(ModelError::ForeignState);
            }
        }
        Ok(())
    }

    pub(crate) fn check_tokens(&self, tokens: impl Iterator<Item = u32>) -> Result<(), ModelError> {
        let vocab_size = self.config.vocab_size;
        for token in tokens {
            if token as usize >= vocab_size {
                return Err(ModelError::Token { token, vocab_size });
            }
        }
        Ok(())
    }

    fn geometry(&self, kv: KvFormat) -> Geometry {
        Geometry {
            fingerprint: self.fingerprint,
            kv,
            sliding_window: self.config.sliding_window,
            layers: self.layers.iter().map(|layer| layer.attn.geometry(kv)).collect(),
            mtp: self.mtp.as_ref().map(|mtp| mtp.layer.attn.geometry(kv)),
        }
    }
}

/// Streams to logits: collapse, norm, LM head.
///
/// Source: DeepSeek-V4 `inference/model.py`, `ParallelHead.forward`.
pub(crate) fn head(
    streams: &Streams,
    hc: &HcHead,
    config: &HcConfig,
    norm: &[f32],
    weight: &WeightMatrix,
    ctx: &mut Ctx<'_>,
) -> Lent {
    let mut h = ctx.matrix(streams.rows(), weight.cols());
    hc_head(ctx.compute, streams.view(), hc, config, norm, h.view_mut());
    ctx.probe("norm", &h);
    let mut logits = ctx.matrix(h.rows(), weight.rows());
    gemm(ctx.compute, &Activations::new(h.view()), weight, logits.view_mut());
    ctx.probe("logits", &logits);
    logits
}

fn segments(batch: &Batch, states: &[&mut SequenceState]) -> Vec<Segment> {
    let mut start = 0;
    let mut segments = Vec::with_capacity(states.len());
    for (chunk, state) in batch.chunks.iter().zip(states) {
        let rows = start..start + chunk.tokens.len();
        start = rows.end;
        segments.push(Segment { rows, first_position: state.position });
    }
    segments
}

/// The rows of `streams` whose logits the batch asks for.
fn wanted_rows(streams: &Streams, batch: &Batch, segments: &[Segment], ctx: &Ctx<'_>) -> Lent {
    let wanted = batch.chunks.iter().zip(segments).map(|(chunk, Segment { rows, .. })| match chunk.logits {
        LogitRows::None => 0..0,
        LogitRows::Last => rows.end - 1..rows.end,
        LogitRows::All => rows.clone(),
    });
    let mut out = ctx.matrix(wanted.clone().map(|rows| rows.len()).sum(), streams.cols());
    for (index, row) in wanted.flatten().enumerate() {
        out.row_mut(index).copy_from_slice(streams.row(row));
    }
    out
}
