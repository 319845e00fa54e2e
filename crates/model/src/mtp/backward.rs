//! The way back through the MTP block's own entrance.

use cuvier_kernels::{
    Lent, Store, embed, embed_backward, replicate_backward, rms_norm_backward, rms_norm_in_place,
};
use cuvier_tensor::Matrix;

use super::Mtp;
use crate::compressor::copy;
use crate::gradients::{Gradients, add_weight_gradient, input_gradient};
use crate::hyper_connection::Streams;
use crate::{Ctx, Transformer};

impl Mtp {
    /// The way back through [`Mtp::combine`]: `dcombined` is the gradient of the block's first streams, `streams` are the
    /// backbone's. Returns the gradient of those.
    pub(crate) fn combine_backward(
        &self,
        model: &Transformer,
        streams: &Streams,
        tokens: &[u32],
        mut dcombined: Lent,
        gradients: &mut Gradients<'_>,
        ctx: &Ctx<'_>,
    ) -> Lent {
        let (c, hidden_size, eps) = (ctx.compute, self.e_proj.cols(), self.hc_config.norm_eps);
        let de_projected = replicate_backward(c, dcombined.view(), self.hc_config.hc_mult);
        let mut raw = ctx.matrix(tokens.len(), hidden_size);
        embed(c, tokens, model.embed.loaded(), raw.view_mut());
        let de = self.half_backward(&raw, de_projected, Half::E, gradients, eps, ctx);
        gradients.with("embed.weight", |sum| embed_backward(tokens, de.view(), sum.view_mut()));

        dcombined.reshape(self.h_proj.rows());
        let raw = Matrix::from_vec(streams.data().to_vec(), hidden_size);
        let mut dstreams = self.half_backward(&raw, dcombined, Half::H, gradients, eps, ctx);
        dstreams.reshape(streams.cols());
        dstreams
    }

    /// One of the two projections with its norm: from the gradient of its output to that of its input `raw`.
    fn half_backward(
        &self,
        raw: &Matrix,
        dout: Lent,
        half: Half,
        gradients: &mut Gradients<'_>,
        eps: f32,
        ctx: &Ctx<'_>,
    ) -> Lent {
        let c = ctx.compute;
        let (weight, norm, names) = match half {
            Half::E => (&self.e_proj, &self.enorm, ["mtp.0.e_proj.weight", "mtp.0.enorm.weight"]),
            Half::H => (&self.h_proj, &self.hnorm, ["mtp.0.h_proj.weight", "mtp.0.hnorm.weight"]),
        };
        let mut normed = copy(c, raw.view());
        rms_norm_in_place(c, normed.view_mut(), Some(norm), eps);
        gradients.with(names[0], |sum| add_weight_gradient(c, dout.view(), normed.view(), sum.view_mut()));
        let mut draw = normed;
        input_gradient(c, dout.view(), weight, Store::Set, draw.view_mut());
        gradients.with(names[1], |sum| {
            rms_norm_backward(c, raw.view(), Some(norm), eps, draw.view_mut(), sum.data_mut());
        });
        draw
    }
}

/// Which projection.
#[derive(Clone, Copy)]
enum Half {
    /// Of the next token's embedding.
    E,
    /// Of the streams.
    H,
}
