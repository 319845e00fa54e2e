//! The compressor: every `ratio` tokens become one entry, a learned weighted sum per channel.

use std::ops::Range;

use cuvier_kernels::{
    Activations, CompressorShape, Lent, RopeTable, compress, compressor_rows, gemm, norm_and_rope,
};
use cuvier_tensor::{MatMut, PagedRows, WeightMatrix};

mod backward;

pub(crate) use backward::{CompressorPass, copy};

use crate::Ctx;
use crate::step::{Segment, Step};

/// A compressor of attention entries or of index keys.
pub struct Compressor {
    /// `[coff * dim, hidden_size]`; `coff` is 2 when groups overlap, else 1.
    pub(crate) wkv: WeightMatrix,
    /// `[coff * dim, hidden_size]`.
    pub(crate) wgate: WeightMatrix,
    /// `[ratio, coff * dim]`, added to the scores by position in the group.
    pub(crate) ape: Vec<f32>,
    /// `[dim]`.
    pub(crate) norm: Vec<f32>,
    pub(crate) shape: CompressorShape,
    pub(crate) rms_norm_eps: f32,
}

impl Compressor {
    /// Elements of one pending row: keys and scores.
    pub fn row_len(&self) -> usize {
        2 * self.wkv.rows()
    }

    /// Takes the normed `x` `[tokens, hidden_size]` into the pending rows of each segment, and returns the
    /// entries that became complete, `[entries, dim]`, normed and rotated to the first position of their group; those
    /// of a segment are its [`Compressor::groups`].
    ///
    /// Source: DeepSeek-V4 `inference/model.py`, `Compressor.forward`.
    pub fn forward<'s>(
        &self,
        x: &Activations<'_>,
        step: &Step<'_>,
        pending: impl Iterator<Item = &'s mut PagedRows<f32>>,
        table: &RopeTable,
        ctx: &mut Ctx<'_>,
    ) -> Lent {
        let c = ctx.compute;
        let rows = self.rows(x, step, ctx);
        let (ratio, dim) = (self.shape.ratio, self.shape.dim);

        let groups = step.segments.iter().map(|segment| self.groups(segment));
        let n_entries = groups.clone().map(|groups| groups.len()).sum();
        let mut entries = ctx.matrix(n_entries, dim);
        let mut rest = entries.data_mut();
        for ((segment, pending), groups) in step.segments.iter().zip(pending).zip(groups.clone()) {
            pending.extend(&rows.data()[segment.rows.start * rows.cols()..segment.rows.end * rows.cols()]);
            let (own, others) = rest.split_at_mut(groups.len() * dim);
            compress(c, pending, self.shape, groups, MatMut::new(own, dim));
            rest = others;
        }
        let starts = ctx.column(n_entries, groups.flatten().map(|group| (group * ratio) as u32));
        let angles = table.angles(c, starts.data());
        norm_and_rope(c, entries.view_mut(), Some(&self.norm), self.rms_norm_eps, 1, &angles);
        entries
    }

    /// K and S of each token, `[tokens, row_len]`.
    fn rows(&self, x: &Activations<'_>, step: &Step<'_>, ctx: &Ctx<'_>) -> Lent {
        let (c, tokens) = (ctx.compute, x.exact().rows());
        let mut k = ctx.matrix(tokens, self.wkv.rows());
        let mut s = ctx.matrix(tokens, self.wgate.rows());
        gemm(c, x, &self.wkv, k.view_mut());
        gemm(c, x, &self.wgate, s.view_mut());
        let mut rows = ctx.matrix(tokens, self.row_len());
        compressor_rows(c, k.view(), s.view(), &self.ape, self.shape.ratio, step.positions, rows.view_mut());
        rows
    }

    /// The groups that the tokens of `segment` complete.
    pub fn groups(&self, segment: &Segment) -> Range<usize> {
        segment.first_position / self.shape.ratio..segment.end_position() / self.shape.ratio
    }
}
