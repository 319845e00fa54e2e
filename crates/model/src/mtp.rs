//! Multi-token prediction: one more layer that drafts the token after the next.

use cuvier_kernels::{Activations, HcConfig, HcHead, Lent, add, gemm, rms_norm_in_place};
use cuvier_tensor::{Matrix, WeightMatrix};
use cuvier_types::TokenId;

mod backward;

use crate::attention::SegmentState;
use crate::hyper_connection::Streams;
use crate::layer::Layer;
use crate::step::{Segment, Step};
use crate::transformer::head;
use crate::{Ctx, ModelError, SequenceState, Transformer};

/// The MTP block of the first V4 checkpoints; embedding and LM head are the backbone's.
pub struct Mtp {
    /// `[hidden_size, hidden_size]`.
    pub(crate) e_proj: WeightMatrix,
    /// `[hidden_size, hidden_size]`.
    pub(crate) h_proj: WeightMatrix,
    /// `[hidden_size]`.
    pub(crate) enorm: Vec<f32>,
    /// `[hidden_size]`.
    pub(crate) hnorm: Vec<f32>,
    pub(crate) layer: Layer,
    pub(crate) hc_head: HcHead,
    pub(crate) hc_config: HcConfig,
    /// `[hidden_size]`.
    pub(crate) norm: Vec<f32>,
}

impl Mtp {
    /// For consecutive tokens of one sequence: `streams` are their residual streams out of
    /// [`Transformer::forward`], `next` the tokens that follow each of them. Returns for each the logits of the
    /// token after `next`, `[tokens, vocab_size]`, and the block's own streams for drafting further.
    ///
    /// The block keeps its own window in `state`, which must have seen the tokens before these, or none.
    ///
    /// Source: DeepSeek-V4 `inference/model.py`, `MTPBlock.forward`.
    ///
    /// # Errors
    /// If a token is outside the vocabulary, the numbers of rows differ, or weights cannot be read.
    pub fn forward(
        &self,
        model: &Transformer,
        streams: &Streams,
        next: &[TokenId],
        state: &mut SequenceState,
        ctx: &mut Ctx<'_>,
    ) -> Result<(Lent, Streams), ModelError> {
        let tokens: Vec<u32> = next.iter().map(|token| token.0).collect();
        model.check_tokens(tokens.iter().copied())?;
        if tokens.len() != streams.rows() || tokens.is_empty() {
            return Err(ModelError::States { chunks: tokens.len(), states: streams.rows() });
        }
        let kv = state.geometry.kv;
        let own = state.mtp.as_mut().ok_or(ModelError::ForeignState)?;
        let segment = Segment { rows: 0..tokens.len(), first_position: own.window.range().end };
        let positions = ctx.column(tokens.len(), segment.positions());
        let positions = positions.data();
        let angles = model.tables.sliding.angles(ctx.compute, positions);
        let step = Step { tokens: &tokens, positions, segments: &[segment], angles: &angles, kv };
        let output = self.run(model, streams, &step, &mut [own], ctx)?;
        state.release(0);
        Ok(output)
    }

    /// [`Mtp::forward`] for the tokens of any number of sequences: those of `step` are the next ones.
    pub(crate) fn run(
        &self,
        model: &Transformer,
        streams: &Streams,
        step: &Step<'_>,
        states: &mut [SegmentState<'_>],
        ctx: &mut Ctx<'_>,
    ) -> Result<(Lent, Streams), ModelError> {
        ctx.enter(|| "mtp.0".to_owned());
        let mut streams = self.combine(model, streams, step.tokens, ctx)?;
        let read = model.read_layer(model.layers.len(), ctx.compute)?;
        let layer = read.as_ref().unwrap_or(&self.layer);
        layer.forward(&mut streams, step, states, None, ctx)?;
        let logits = head(&streams, &self.hc_head, &self.hc_config, &self.norm, &model.head, ctx);
        Ok((logits, streams))
    }

    /// `e_proj norm(embed(next)) + h_proj norm(stream)`, for each stream.
    ///
    /// # Errors
    /// If the embedding cannot be read.
    fn combine(
        &self,
        model: &Transformer,
        streams: &Streams,
        tokens: &[u32],
        ctx: &mut Ctx<'_>,
    ) -> Result<Streams, ModelError> {
        let (c, hidden_size) = (ctx.compute, self.e_proj.cols());
        let eps = self.hc_config.norm_eps;
        let mut e = model.embed.forward(tokens, ctx)?;
        rms_norm_in_place(c, e.view_mut(), Some(&self.enorm), eps);
        let mut e_projected = ctx.matrix(tokens.len(), self.e_proj.rows());
        gemm(c, &Activations::new(e.view()), &self.e_proj, e_projected.view_mut());

        let mut h = Matrix::from_vec(streams.data().to_vec(), hidden_size);
        rms_norm_in_place(c, h.view_mut(), Some(&self.hnorm), eps);
        let mut h_projected = Matrix::zeros(h.rows(), self.h_proj.rows());
        gemm(c, &Activations::new(h.view()), &self.h_proj, h_projected.view_mut());
        let mut combined = Matrix::from_vec(h_projected.into_vec(), streams.cols());
        add(c, combined.view_mut(), e_projected.view());
        Ok(combined)
    }
}
