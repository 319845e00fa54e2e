//! The indexer's own loss, and the way back from it: its inputs count as given, so that it learns from attention and
//! attention not from it.

use cuvier_kernels::{
    Activations, IndexGradients, KvFormat, RopeTable, Rotation, Selection, WholeSequence, encode_index_keys,
    hadamard, index_backward, rope, scale,
};
use cuvier_tensor::{MatRef, Matrix};

use super::{IndexInput, Indexer};
use crate::Ctx;
use crate::gradients::{Gradients, add_weight_gradient};
use crate::step::Step;

/// The loss of the indexers of a backward pass.
#[derive(Clone, Copy, Debug)]
pub struct IndexerLoss {
    /// Its factor in the objective, divided by the tokens of the optimiser's step.
    pub per_token: f32,
    /// The sum of the losses of all tokens and layers so far, in nats.
    pub sum: f64,
}

impl Indexer {
    /// Adds the gradients of the weights to `gradients`. `x` and `qr` are the inputs of the forward pass; `mass` is what
    /// attention made of the entries of `selection`.
    #[expect(clippy::too_many_arguments, reason = "a forward pass, its target, and where gradients go")]
    pub(crate) fn backward(
        &self,
        (x, qr): (MatRef<'_>, MatRef<'_>),
        step: &Step<'_>,
        table: &RopeTable,
        selection: &Selection,
        mass: &Matrix,
        loss: &mut IndexerLoss,
        gradients: &mut Gradients<'_>,
        ctx: &mut Ctx<'_>,
    ) {
        let c = ctx.compute;
        let activations = [x, qr].map(Activations::new);
        let [x_of, qr_of] = &activations;
        let input = IndexInput { x: x_of, qr: qr_of, step, table };
        let mut pass = self.compressor.again(x_of, step, table, ctx);
        hadamard(c, pass.entries.view_mut());
        if step.kv == KvFormat::Fp8 {
            self.round(&mut pass.entries, step, ctx);
        }
        let (mut q, w) = (self.queries(&input, ctx), self.weights(x_of, ctx));
        q.reshape(self.index_n_heads * self.index_head_dim);
        let mut end = 0;
        let sequences: Vec<_> = step
            .segments
            .iter()
            .map(|segment| {
                end += self.compressor.groups(segment).len();
                WholeSequence {
                    tokens: segment.rows.clone(),
                    entries: end - self.compressor.groups(segment).len()..end,
                }
            })
            .collect();
        let keys = pass.entries.view();
        let found =
            index_backward(c, q.view(), w.view(), keys, &sequences, selection, mass.view(), loss.per_token);
        let IndexGradients { losses, q: mut dq, w: mut dw, keys: mut dkeys } = found;
        loss.sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();

        hadamard(c, dkeys.view_mut());
        let below = &mut gradients.below("compressor");
        self.compressor.backward(&pass, x, step, dkeys, None, below, ctx);
        dq.reshape(self.index_head_dim);
        hadamard(c, dq.view_mut());
        rope(c, dq.view_mut(), self.index_n_heads, step.angles, Rotation::Inverse);
        dq.reshape(self.index_n_heads * self.index_head_dim);
        gradients.with("wq_b.weight", |sum| add_weight_gradient(c, dq.view(), qr, sum.view_mut()));
        scale(c, dw.view_mut(), self.weight_factor());
        gradients.with("weights_proj.weight", |sum| add_weight_gradient(c, dw.view(), x, sum.view_mut()));
    }

    /// Keys as they are once they were stored.
    fn round(&self, keys: &mut Matrix, step: &Step<'_>, ctx: &Ctx<'_>) {
        let codec = self.codec(step.kv);
        let mut bytes = ctx.matrix(keys.rows(), codec.row_bytes());
        encode_index_keys(ctx.compute, &codec, keys.view(), bytes.view_mut());
        for row in 0..keys.rows() {
            codec.decode_row(bytes.row(row), keys.row_mut(row));
        }
    }
}
