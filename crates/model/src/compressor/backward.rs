//! The way back through the compressor.

use cuvier_kernels::{
    Activations, CompressorShape, Compute, Lent, RopeAngles, Rotation, Store, compress, compress_backward,
    compressor_rows_backward, norm_and_rope, rms_norm_backward, rope,
};
use cuvier_tensor::{MatMut, MatRef, Matrix, PagedRows};

use super::Compressor;
use crate::Ctx;
use crate::gradients::{Gradients, add_weight_gradient, input_gradient};
use crate::step::Step;
use cuvier_kernels::RopeTable;

/// A forward pass of the compressor over whole sequences, with what its backward pass needs.
pub(crate) struct CompressorPass {
    /// `[tokens, row_len]`: K and S of each token.
    rows: Lent,
    /// `[entries, dim]`, before their norm.
    pooled: Lent,
    /// `[entries, dim]`: as [`Compressor::forward`] gives them.
    pub(crate) entries: Lent,
    angles: RopeAngles,
}

impl Compressor {
    /// [`Compressor::forward`] once more, for segments that begin at position 0.
    pub(crate) fn again(
        &self,
        x: &Activations<'_>,
        step: &Step<'_>,
        table: &RopeTable,
        ctx: &mut Ctx<'_>,
    ) -> CompressorPass {
        let c = ctx.compute;
        let rows = self.rows(x, step, ctx);
        let CompressorShape { ratio, dim, .. } = self.shape;
        let groups: Vec<_> = step.segments.iter().map(|segment| self.groups(segment)).collect();
        let mut pooled = ctx.matrix(groups.iter().map(ExactSizeIterator::len).sum(), dim);
        let mut rest = pooled.data_mut();
        for (segment, groups) in step.segments.iter().zip(&groups) {
            let mut pending = PagedRows::new(self.row_len(), 0);
            pending.extend(&rows.data()[segment.rows.start * rows.cols()..segment.rows.end * rows.cols()]);
            let (own, others) = rest.split_at_mut(groups.len() * dim);
            compress(c, &pending, self.shape, groups.clone(), MatMut::new(own, dim));
            rest = others;
        }
        let starts = groups.into_iter().flatten().map(|group| (group * ratio) as u32);
        let starts = ctx.column(pooled.rows(), starts);
        let angles = table.angles(c, starts.data());
        let mut entries = copy(c, pooled.view());
        norm_and_rope(c, entries.view_mut(), Some(&self.norm), self.rms_norm_eps, 1, &angles);
        CompressorPass { rows, pooled, entries, angles }
    }

    /// Adds the gradients of the weights; `dentries` are those of the entries. Where `dx` is given, adds the gradient of
    /// the inputs to it.
    #[expect(clippy::too_many_arguments, reason = "a forward pass, and where gradients go")]
    pub(crate) fn backward(
        &self,
        pass: &CompressorPass,
        x: MatRef<'_>,
        step: &Step<'_>,
        mut dentries: Lent,
        dx: Option<&mut Matrix>,
        gradients: &mut Gradients<'_>,
        ctx: &mut Ctx<'_>,
    ) {
        let c = ctx.compute;
        rope(c, dentries.view_mut(), 1, &pass.angles, Rotation::Inverse);
        gradients.with("norm.weight", |dnorm| {
            let norm = Some(&self.norm[..]);
            rms_norm_backward(
                c,
                pass.pooled.view(),
                norm,
                self.rms_norm_eps,
                dentries.view_mut(),
                dnorm.data_mut(),
            );
        });
        let drows = self.unpool(pass, step, &dentries, ctx);
        gradients.with("ape", |dape| {
            compressor_rows_backward(c, drows.view(), self.shape.ratio, step.positions, dape.data_mut());
        });
        let features = self.shape.features();
        let (dk, ds) = (drows.view().columns(0, features), drows.view().columns(features, features));
        gradients.with("wkv.weight", |dw| add_weight_gradient(c, dk, x, dw.view_mut()));
        gradients.with("wgate.weight", |dw| add_weight_gradient(c, ds, x, dw.view_mut()));
        if let Some(dx) = dx {
            input_gradient(c, dk, &self.wkv, Store::Add, dx.view_mut());
            input_gradient(c, ds, &self.wgate, Store::Add, dx.view_mut());
        }
    }

    /// From the gradient of the pooled entries to that of K and S.
    fn unpool(&self, pass: &CompressorPass, step: &Step<'_>, dpooled: &Matrix, ctx: &Ctx<'_>) -> Lent {
        let (rows, dim) = (&pass.rows, self.shape.dim);
        let mut drows = ctx.matrix(rows.rows(), rows.cols());
        drows.data_mut().fill(0.0);
        let mut entry = 0;
        for segment in step.segments {
            let n_entries = self.groups(segment).len();
            let numbers = segment.rows.start * rows.cols()..segment.rows.end * rows.cols();
            let own = MatRef::new(&rows.data()[numbers.clone()], segment.rows.len(), rows.cols());
            let dout = MatRef::new(&dpooled.data()[entry * dim..(entry + n_entries) * dim], n_entries, dim);
            let out = MatMut::new(&mut drows.data_mut()[numbers], rows.cols());
            compress_backward(ctx.compute, own, self.shape, dout, out);
            entry += n_entries;
        }
        drows
    }
}

/// A copy of the rows of `x`.
pub(crate) fn copy(c: &Compute, x: MatRef<'_>) -> Lent {
    let mut out = c.matrix(x.rows(), x.cols());
    for row in 0..x.rows() {
        out.row_mut(row).copy_from_slice(x.row(row));
    }
    out
}
