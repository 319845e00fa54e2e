//! One layer: attention and experts, each between a reading and a writing of the residual streams.

mod backward;

pub(crate) use backward::KeptLayer;

use crate::attention::{Attention, SegmentState};
use crate::hyper_connection::{Connection, Streams};
use crate::moe::Moe;
use crate::step::Step;
use crate::{Ctx, ModelError};

/// A layer of the backbone, or the one inside the MTP block.
pub struct Layer {
    pub(crate) hc_attn: Connection,
    pub(crate) attn_norm: Vec<f32>,
    pub(crate) attn: Attention,
    pub(crate) hc_ffn: Connection,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) ffn: Moe,
}

impl Layer {
    /// `streams`: `[tokens, hc_mult * hidden_size]`, updated in place; `states`: one per segment; `next`: the layer
    /// behind this one, for whose experts reading may begin early.
    ///
    /// Source: DeepSeek-V4 `inference/model.py`, `Block.forward`.
    ///
    /// # Errors
    /// If weights cannot be read. Streams and states may hold anything then.
    pub fn forward(
        &self,
        streams: &mut Streams,
        step: &Step<'_>,
        states: &mut [SegmentState<'_>],
        next: Option<&Self>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), ModelError> {
        let (x, mix) = self.hc_attn.pre(streams, &self.attn_norm, ctx);
        ctx.probe("hc_attn.comb", &mix.comb);
        ctx.probe("attn.in", &x);
        let x = self.attn.forward(&x, step, states, ctx);
        ctx.probe("attn.out", &x);
        self.hc_attn.post(streams, &x, &mix, ctx);

        let (x, mix) = self.hc_ffn.pre(streams, &self.ffn_norm, ctx);
        ctx.probe("hc_ffn.comb", &mix.comb);
        ctx.probe("ffn.in", &x);
        let guess = |ctx: &mut Ctx<'_>| next.iter().for_each(|next| next.guess(streams, ctx));
        let x = self.ffn.forward(&x, step.tokens, guess, ctx)?;
        ctx.probe("ffn.out", &x);
        self.hc_ffn.post(streams, &x, &mix, ctx);
        ctx.probe("streams", streams);
        Ok(())
    }

    /// Which experts this layer will probably use, told to those who read them: those it would if the experts before it and
    /// its own attention changed nothing. On trained models most of them are right.
    fn guess(&self, streams: &Streams, ctx: &mut Ctx<'_>) {
        if self.ffn.can_guess() {
            let (x, _) = self.hc_ffn.pre(streams, &self.ffn_norm, ctx);
            self.ffn.guess(&x, ctx);
        }
    }
}
