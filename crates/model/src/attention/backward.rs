//! The way back through attention.

use cuvier_kernels::{
    Activations, AttentionBackwardConfig, AttentionGradients, Compute, Entries, KvFormat, Lent, Rotation,
    Selection, Store, WholeSequence, attention_backward, decoded, encode_entries, gemm_grouped, matmul,
    norm_and_rope, rms_norm_backward, rms_norm_in_place, rope,
};
use cuvier_tensor::{MatMut, MatRef, Matrix};

use super::{Attention, Compressed};
use crate::Ctx;
use crate::compressor::{Compressor, CompressorPass, copy};
use crate::gradients::{Gradients, add_weight_gradient, input_gradient};
use crate::indexer::IndexerLoss;
use crate::step::Step;

/// What the tokens' own projections are before and after their norms.
struct Projections {
    /// `[tokens, q_lora_rank]`, before its norm.
    qr_raw: Lent,
    /// After it.
    qr: Lent,
    /// `[tokens * num_attention_heads, head_dim]`, before norm and rotation.
    q_raw: Lent,
    /// The same, after them.
    q: Lent,
    /// `[tokens, head_dim]`, before norm and rotation.
    kv_raw: Lent,
    /// The same, after them.
    kv: Lent,
}

impl Attention {
    /// `x`: the normed input of the forward pass, whose segments began at position 0 with exact keys; `dout`: the
    /// gradient of its output, both `[tokens, hidden_size]`. Returns the gradient of `x`.
    ///
    /// The parts of the forward pass are computed once more; `selection` is what the indexer chose then. With
    /// `indexer`, its loss is found too, and the gradients of its weights; see [`IndexerLoss`].
    #[expect(clippy::too_many_arguments, reason = "a forward pass, its losses, and where gradients go")]
    pub(crate) fn backward(
        &self,
        x: &Matrix,
        dout: &Matrix,
        step: &Step<'_>,
        selection: Option<&Selection>,
        indexer: Option<&mut IndexerLoss>,
        gradients: &mut Gradients<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Lent {
        let activations = Activations::new(x.view());
        let mut parts = self.projections(&activations, step, ctx);
        let mut pass =
            self.compressor().map(|compressor| compressor.again(&activations, step, &self.table, ctx));
        self.round(&mut parts.kv, step, ctx);
        if let Some(pass) = &mut pass {
            self.round(&mut pass.entries, step, ctx);
        }

        let (z_of, do_heads) = self.output_gradient(dout, step, ctx);
        let inner = self.inner_gradients(&parts, pass.as_ref(), selection, &do_heads, step, ctx);
        self.output_weights(&inner.out, &z_of, dout, step, gradients, ctx);
        gradients.with("attn_sink", |dsink| {
            dsink.data_mut().iter_mut().zip(&inner.attn_sink).for_each(|(sum, d)| *sum += d);
        });

        let AttentionGradients { q: dq, kv: dkv, entries: dentries, entry_mass, .. } = inner;
        let mut dx = self.projections_backward(x, &parts, dq, dkv, step, gradients, ctx);
        if let (Some(compressor), Some(pass)) = (self.compressor(), &pass) {
            let gradients = &mut gradients.below("compressor");
            compressor.backward(pass, x.view(), step, dentries, Some(&mut dx), gradients, ctx);
        }
        if let (Compressed::Csa { indexer, .. }, Some(loss), Some(selection)) =
            (&self.compressed, indexer, selection)
        {
            let gradients = &mut gradients.below("indexer");
            let qr = parts.qr.view();
            indexer.backward((x.view(), qr), step, &self.table, selection, &entry_mass, loss, gradients, ctx);
        }
        dx
    }

    fn compressor(&self) -> Option<&Compressor> {
        match &self.compressed {
            Compressed::Sliding => None,
            Compressed::Hca { compressor } | Compressed::Csa { compressor, .. } => Some(compressor),
        }
    }

    /// Keys as they are once they were stored.
    fn round(&self, keys: &mut Matrix, step: &Step<'_>, ctx: &Ctx<'_>) {
        if step.kv == KvFormat::F32 {
            return;
        }
        let codec = self.codec(step.kv);
        let mut bytes = ctx.matrix(keys.rows(), codec.row_bytes());
        encode_entries(ctx.compute, &codec, keys.view(), bytes.view_mut());
        for row in 0..keys.rows() {
            codec.decode_row(bytes.row(row), keys.row_mut(row));
        }
    }

    fn projections(&self, x: &Activations<'_>, step: &Step<'_>, ctx: &mut Ctx<'_>) -> Projections {
        let (c, heads, eps) = (ctx.compute, self.num_attention_heads, self.rms_norm_eps);
        let qr_raw = self.linear(x, &self.wq_a, ctx);
        let mut qr = copy(c, qr_raw.view());
        rms_norm_in_place(c, qr.view_mut(), Some(&self.q_norm), eps);
        let mut q_raw = self.linear(&Activations::new(qr.view()), &self.wq_b, ctx);
        q_raw.reshape(self.head_dim);
        let mut q = copy(c, q_raw.view());
        norm_and_rope(c, q.view_mut(), None, eps, heads, step.angles);
        q.reshape(heads * self.head_dim);
        let kv_raw = self.linear(x, &self.wkv, ctx);
        let mut kv = copy(c, kv_raw.view());
        norm_and_rope(c, kv.view_mut(), Some(&self.kv_norm), eps, 1, step.angles);
        Projections { qr_raw, qr, q_raw, q, kv_raw, kv }
    }

    /// From the gradient of the output back to that of the heads before their inverse rotation. Gives that of `z`, the
    /// output of `wo_a`, too.
    fn output_gradient(&self, dout: &Matrix, step: &Step<'_>, ctx: &Ctx<'_>) -> (Lent, Lent) {
        let c = ctx.compute;
        let mut dz = ctx.matrix(dout.rows(), self.wo_a.rows());
        input_gradient(c, dout.view(), &self.wo_b, Store::Set, dz.view_mut());
        let (rank, cols) = (self.wo_a.rows() / self.o_groups, self.wo_a.cols());
        let wo_a = decoded(c, &self.wo_a);
        let mut d_o = ctx.matrix(dout.rows(), self.num_attention_heads * self.head_dim);
        let mut of_group = ctx.matrix(dout.rows(), cols);
        for group in 0..self.o_groups {
            let dz = dz.view().columns(group * rank, rank);
            let weights = MatRef::new(&wo_a.data()[group * rank * cols..][..rank * cols], rank, cols);
            matmul(c, dz, weights, Store::Set, of_group.view_mut());
            for row in 0..dout.rows() {
                d_o.row_mut(row)[group * cols..][..cols].copy_from_slice(of_group.row(row));
            }
        }
        // The forward pass turned back by the position's angle; its gradient turns forward.
        d_o.reshape(self.head_dim);
        rope(c, d_o.view_mut(), self.num_attention_heads, step.angles, Rotation::Forward);
        d_o.reshape(self.num_attention_heads * self.head_dim);
        (dz, d_o)
    }

    fn inner_gradients(
        &self,
        parts: &Projections,
        pass: Option<&CompressorPass>,
        selection: Option<&Selection>,
        d_o: &Matrix,
        step: &Step<'_>,
        ctx: &Ctx<'_>,
    ) -> AttentionGradients {
        let ratio = self.compressor().map(|compressor| compressor.shape.ratio);
        let mut entry = 0;
        let sequences: Vec<_> = step
            .segments
            .iter()
            .map(|segment| {
                let n_entries = ratio.map_or(0, |ratio| segment.rows.len() / ratio);
                entry += n_entries;
                WholeSequence { tokens: segment.rows.clone(), entries: entry - n_entries..entry }
            })
            .collect();
        let choice = match (ratio, selection) {
            (None, _) => Entries::None,
            (Some(_), Some(selection)) => Entries::Selected(selection),
            (Some(ratio), None) => Entries::All { ratio },
        };
        let none = Matrix::zeros(0, self.head_dim);
        let entries = pass.map_or(none.view(), |pass| pass.entries.view());
        let config = AttentionBackwardConfig {
            attn_sink: &self.attn_sink,
            head_dim: self.head_dim,
            sliding_window: self.sliding_window,
            scale: (self.head_dim as f64).powf(-0.5) as f32,
        };
        let (q, kv) = (parts.q.view(), parts.kv.view());
        attention_backward(ctx.compute, q, kv, entries, &sequences, choice, &config, d_o.view())
    }

    /// Adds the gradients of `wo_a` and `wo_b`; `out` is what attention gave, `dz` the gradient of `wo_a`'s output.
    fn output_weights(
        &self,
        out: &Matrix,
        dz: &Matrix,
        dout: &Matrix,
        step: &Step<'_>,
        gradients: &mut Gradients<'_>,
        ctx: &Ctx<'_>,
    ) {
        let c = ctx.compute;
        let mut o = copy(c, out.view());
        o.reshape(self.head_dim);
        rope(c, o.view_mut(), self.num_attention_heads, step.angles, Rotation::Inverse);
        o.reshape(self.num_attention_heads * self.head_dim);
        let mut z = ctx.matrix(out.rows(), self.wo_a.rows());
        let split = Activations::new(o.view().split_rows(self.wo_a.cols()));
        gemm_grouped(c, &split, &self.wo_a, self.o_groups, z.view_mut());
        gradients.with("wo_b.weight", |dw| add_weight_gradient(c, dout.view(), z.view(), dw.view_mut()));
        gradients.with("wo_a.weight", |dw| {
            let (rank, cols) = (self.wo_a.rows() / self.o_groups, self.wo_a.cols());
            for (group, dw) in dw.data_mut().chunks_exact_mut(rank * cols).enumerate() {
                let (dz, o) = (dz.view().columns(group * rank, rank), o.view().columns(group * cols, cols));
                add_weight_gradient(c, dz, o, MatMut::new(dw, cols));
            }
        });
    }

    /// From the gradients of queries and keys to that of the input.
    #[expect(clippy::too_many_arguments, reason = "the second half of one derivative")]
    fn projections_backward(
        &self,
        x: &Matrix,
        parts: &Projections,
        mut dq: Lent,
        mut dkv: Lent,
        step: &Step<'_>,
        gradients: &mut Gradients<'_>,
        ctx: &Ctx<'_>,
    ) -> Lent {
        let (c, eps) = (ctx.compute, self.rms_norm_eps);
        dq.reshape(self.head_dim);
        unrotate(c, &mut dq, self.num_attention_heads, step);
        rms_norm_backward(c, parts.q_raw.view(), None, eps, dq.view_mut(), &mut []);
        dq.reshape(self.num_attention_heads * self.head_dim);
        gradients.with("wq_b.weight", |dw| add_weight_gradient(c, dq.view(), parts.qr.view(), dw.view_mut()));
        let mut dqr = ctx.matrix(x.rows(), self.wq_a.rows());
        input_gradient(c, dq.view(), &self.wq_b, Store::Set, dqr.view_mut());
        gradients.with("q_norm.weight", |dnorm| {
            let norm = Some(&self.q_norm[..]);
            rms_norm_backward(c, parts.qr_raw.view(), norm, eps, dqr.view_mut(), dnorm.data_mut());
        });
        gradients.with("wq_a.weight", |dw| add_weight_gradient(c, dqr.view(), x.view(), dw.view_mut()));
        let mut dx = ctx.matrix(x.rows(), x.cols());
        input_gradient(c, dqr.view(), &self.wq_a, Store::Set, dx.view_mut());

        unrotate(c, &mut dkv, 1, step);
        gradients.with("kv_norm.weight", |dnorm| {
            let norm = Some(&self.kv_norm[..]);
            rms_norm_backward(c, parts.kv_raw.view(), norm, eps, dkv.view_mut(), dnorm.data_mut());
        });
        gradients.with("wkv.weight", |dw| add_weight_gradient(c, dkv.view(), x.view(), dw.view_mut()));
        input_gradient(c, dkv.view(), &self.wkv, Store::Add, dx.view_mut());
        dx
    }
}

/// The gradient before the forward rotation of a token's rows.
fn unrotate(c: &Compute, d: &mut Matrix, heads: usize, step: &Step<'_>) {
    rope(c, d.view_mut(), heads, step.angles, Rotation::Inverse);
}
