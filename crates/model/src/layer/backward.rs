//! The way back through a layer.

use cuvier_kernels::{Routing, Selection};

use super::Layer;
use crate::Ctx;
use crate::gradients::Gradients;
use crate::hyper_connection::Streams;
use crate::indexer::IndexerLoss;
use crate::kept::Sublayer;
use crate::moe::BalanceLoss;
use crate::step::Step;

/// What the forward pass of one layer kept.
pub(crate) struct KeptLayer<'a> {
    /// Attention, experts.
    pub(crate) sublayers: [&'a Sublayer; 2],
    /// What the indexer chose, in CSA layers.
    pub(crate) selection: Option<&'a Selection>,
    /// Where the router sent the tokens.
    pub(crate) routing: &'a Routing,
}

impl Layer {
    /// `dstreams`: the gradient of the streams after the layer, `[tokens, hc_mult * hidden_size]`; becomes that of those
    /// before. Returns the sum over sequences of length times balance loss.
    #[expect(clippy::too_many_arguments, reason = "a forward pass, its losses, and where gradients go")]
    pub(crate) fn backward(
        &self,
        kept: &KeptLayer<'_>,
        dstreams: &mut Streams,
        step: &Step<'_>,
        balance: BalanceLoss,
        indexer: Option<&mut IndexerLoss>,
        gradients: &mut Gradients<'_>,
        ctx: &mut Ctx<'_>,
    ) -> f32 {
        let [attn, ffn] = kept.sublayers;
        let (d_o, dmix) = self.hc_ffn.post_backward(ffn, dstreams, ctx);
        let x = self.hc_ffn.input_again(ffn, &self.ffn_norm, ctx);
        let below = &mut gradients.below("ffn");
        let (dx, loss) = self.ffn.backward(&x, &d_o, step, kept.routing, balance, below, ctx);
        let names = ("hc_ffn", "ffn_norm.weight");
        self.hc_ffn.pre_backward(ffn, &self.ffn_norm, dx, dmix, dstreams, names, gradients, ctx);

        let (d_o, dmix) = self.hc_attn.post_backward(attn, dstreams, ctx);
        let x = self.hc_attn.input_again(attn, &self.attn_norm, ctx);
        let below = &mut gradients.below("attn");
        let dx = self.attn.backward(&x, &d_o, step, kept.selection, indexer, below, ctx);
        let names = ("hc_attn", "attn_norm.weight");
        self.hc_attn.pre_backward(attn, &self.attn_norm, dx, dmix, dstreams, names, gradients, ctx);
        loss
    }
}
