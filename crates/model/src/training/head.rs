//! The way back from the logits to the streams.

use cuvier_kernels::{
    HcConfig, HcHead, Lent, Store, hc_collapse, hc_collapse_backward, hc_head_backward, hc_head_shares,
};
use cuvier_tensor::{Matrix, WeightMatrix};

use crate::Ctx;
use crate::gradients::{Gradients, add_weight_gradient, input_gradient};
use crate::hyper_connection::{Streams, with_hc};

/// The head of the backbone or of the MTP block, and the names of its parts.
pub(super) struct Head<'a> {
    pub hc: &'a HcHead,
    pub config: &'a HcConfig,
    pub norm: &'a [f32],
    pub weight: &'a WeightMatrix,
    pub hc_name: String,
    pub norm_name: String,
}

impl Head<'_> {
    /// The gradient of `streams` `[tokens, hc_mult * hidden_size]`, whose logits have the gradient `dlogits`.
    pub(super) fn backward(
        &self,
        streams: &Streams,
        dlogits: &Matrix,
        gradients: &mut Gradients<'_>,
        ctx: &Ctx<'_>,
    ) -> Lent {
        let (c, eps) = (ctx.compute, self.config.norm_eps);
        let shares = hc_head_shares(c, streams.view(), self.hc, self.config);
        let mut h = ctx.matrix(streams.rows(), self.weight.cols());
        hc_collapse(c, streams.view(), &shares, self.norm, eps, h.view_mut());
        gradients.with("head.weight", |dw| add_weight_gradient(c, dlogits.view(), h.view(), dw.view_mut()));
        let mut dh = h;
        input_gradient(c, dlogits.view(), self.weight, Store::Set, dh.view_mut());
        let mut dstreams = ctx.matrix(streams.rows(), streams.cols());
        dstreams.data_mut().fill(0.0);
        let mut dshares = ctx.matrix(streams.rows(), self.config.hc_mult);
        gradients.with(&self.norm_name, |dnorm| {
            let (streams, dnorm) = (streams.view(), dnorm.data_mut());
            let (dh, out) = (dh.view_mut(), dstreams.view_mut());
            hc_collapse_backward(c, streams, &shares, self.norm, eps, dh, dnorm, &mut dshares, out);
        });
        with_hc(gradients, &self.hc_name, |gradients| {
            hc_head_backward(
                c,
                streams.view(),
                self.hc,
                self.config,
                &dshares,
                gradients,
                dstreams.view_mut(),
            );
        });
        dstreams
    }
}
