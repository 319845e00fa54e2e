//! Hyper-connections: the residual streams are read through a learned mix and written through another.

use cuvier_kernels::{HcConfig, HcMix, HyperConnection, Lent, hc_collapse, hc_expand, hc_mix};
use cuvier_tensor::Matrix;

mod backward;

pub(crate) use backward::with_hc;

use crate::Ctx;
use crate::compressor::copy;
use crate::kept::Sublayer;

/// The residual streams of all tokens of a step, `[tokens, hc_mult * hidden_size]`, stream 0 first.
pub type Streams = Matrix;

/// One hyper-connection around one sublayer, with its constants.
///
/// Source: DeepSeek-V4 report, section on manifold-constrained hyper-connections; `Block.hc_pre` and
/// `Block.hc_post` of the released code.
pub struct Connection {
    pub(crate) hc: HyperConnection,
    pub(crate) config: HcConfig,
}

impl Connection {
    /// The sublayer's input `[tokens, hidden_size]` with the gain `norm`, and the mix that [`Connection::post`] needs.
    pub fn pre(&self, streams: &Streams, norm: &[f32], ctx: &mut Ctx<'_>) -> (Lent, HcMix) {
        let mix = hc_mix(ctx.compute, streams.view(), &self.hc, &self.config);
        let mut x = ctx.matrix(streams.rows(), streams.cols() / self.config.hc_mult);
        hc_collapse(ctx.compute, streams.view(), &mix.pre, norm, self.config.norm_eps, x.view_mut());
        (x, mix)
    }

    /// Writes the sublayer's output `o` `[tokens, hidden_size]` into the streams.
    pub fn post(&self, streams: &mut Streams, o: &Matrix, mix: &HcMix, ctx: &mut Ctx<'_>) {
        let compute = ctx.compute;
        ctx.keep(|kept| {
            let [streams, out] = [streams, o].map(|x| copy(compute, x.view()));
            kept.sublayers.push(Sublayer { streams, out, mix: mix.clone() });
        });
        hc_expand(ctx.compute, streams.view_mut(), o.view(), mix);
    }
}
