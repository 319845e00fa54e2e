//! The way back through a hyper-connection.

use cuvier_kernels::{
    HcGradients, HcMix, Lent, hc_collapse, hc_collapse_backward, hc_expand_backward, hc_mix_backward,
};
use cuvier_tensor::Matrix;

use super::{Connection, Streams};
use crate::Ctx;
use crate::gradients::Gradients;
use crate::kept::Sublayer;

impl Connection {
    /// The sublayer's input once more, as [`Connection::pre`] gave it.
    pub(crate) fn input_again(&self, kept: &Sublayer, norm: &[f32], ctx: &Ctx<'_>) -> Lent {
        let mut x = ctx.matrix(kept.out.rows(), kept.out.cols());
        let eps = self.config.norm_eps;
        hc_collapse(ctx.compute, kept.streams.view(), &kept.mix.pre, norm, eps, x.view_mut());
        x
    }

    /// The way back through [`Connection::post`]: `dstreams` turns from the gradient of the streams after the sublayer
    /// into that of those before, as far as they went around it. Returns the gradients of the sublayer's output and of
    /// the mix.
    pub(crate) fn post_backward(
        &self,
        kept: &Sublayer,
        dstreams: &mut Streams,
        ctx: &Ctx<'_>,
    ) -> (Lent, HcMix) {
        let mut d_o = ctx.matrix(kept.out.rows(), kept.out.cols());
        let Sublayer { streams, out, mix } = kept;
        let views = (dstreams.view_mut(), d_o.view_mut());
        let dmix = hc_expand_backward(ctx.compute, streams.view(), out.view(), mix, views.0, views.1);
        (d_o, dmix)
    }

    /// The way back through [`Connection::pre`]: adds what went into the sublayer to `dstreams`. `dx` is the gradient of
    /// the sublayer's input, `name` is this connection's and `norm_name` its norm's among `gradients`.
    #[expect(
        clippy::too_many_arguments,
        reason = "a forward operation and the gradients of each of its arguments"
    )]
    pub(crate) fn pre_backward(
        &self,
        kept: &Sublayer,
        norm: &[f32],
        mut dx: Lent,
        mut dmix: HcMix,
        dstreams: &mut Streams,
        (name, norm_name): (&str, &str),
        gradients: &mut Gradients<'_>,
        ctx: &Ctx<'_>,
    ) {
        let c = ctx.compute;
        let (streams, pre, eps) = (kept.streams.view(), &kept.mix.pre, self.config.norm_eps);
        gradients.with(norm_name, |dnorm| {
            let (dx, dnorm) = (dx.view_mut(), dnorm.data_mut());
            hc_collapse_backward(c, streams, pre, norm, eps, dx, dnorm, &mut dmix.pre, dstreams.view_mut());
        });
        with_hc(gradients, name, |gradients| {
            hc_mix_backward(c, streams, &self.hc, &self.config, &dmix, gradients, dstreams.view_mut());
        });
    }
}

/// Runs `add` on the gradients of the hyper-connection `name`.
pub(crate) fn with_hc(gradients: &mut Gradients<'_>, name: &str, add: impl FnOnce(&mut HcGradients<'_>)) {
    let names = ["fn", "base", "scale"].map(|part| format!("{name}_{part}"));
    let mut taken: [Matrix; 3] = names.each_ref().map(|name| gradients.take(name));
    let [r#fn, base, scale] = &mut taken;
    add(&mut HcGradients { r#fn: r#fn.view_mut(), base: base.data_mut(), scale: scale.data_mut() });
    names.into_iter().zip(taken).for_each(|(name, gradient)| gradients.put(&name, gradient));
}
