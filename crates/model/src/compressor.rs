//! The compressor: every `ratio` tokens become one entry, a learned weighted sum per channel.

use cuvier_kernels::{
    Activations, CompressorShape, RopeTable, compress, compressor_rows, gemm, norm_and_rope,
};
use cuvier_tensor::{Matrix, PagedRows, WeightMatrix};

use crate::Ctx;
use crate::step::Segment;

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
    /// entries that became complete, `[entries, dim]`, normed and rotated to the first position of their group,
    /// with how many belong to each segment.
    ///
    /// Source: DeepSeek-V4 `inference/model.py`, `Compressor.forward`.
    pub fn forward(
        &self,
        x: &Activations<'_>,
        segments: &[Segment],
        pending: &mut [&mut PagedRows<f32>],
        table: &RopeTable,
        ctx: &mut Ctx<'_>,
    ) -> (Matrix, Vec<usize>) {
        let c = ctx.compute;
        let tokens = x.exact().rows();
        let mut k = ctx.matrix(tokens, self.wkv.rows());
        let mut s = ctx.matrix(tokens, self.wgate.rows());
        gemm(c, x, &self.wkv, k.view_mut());
        gemm(c, x, &self.wgate, s.view_mut());
        let positions: Vec<u32> = segments.iter().flat_map(Segment::positions).collect();
        let mut rows = ctx.matrix(tokens, self.row_len());
        compressor_rows(c, k.view(), s.view(), &self.ape, self.shape.ratio, &positions, rows.view_mut());

        let (ratio, dim) = (self.shape.ratio, self.shape.dim);
        let mut entries = Vec::new();
        let mut counts = Vec::with_capacity(segments.len());
        let mut starts = Vec::new();
        for (segment, pending) in segments.iter().zip(pending) {
            pending.extend(&rows.data()[segment.rows.start * rows.cols()..segment.rows.end * rows.cols()]);
            let blocks = segment.first_position / ratio..segment.end_position() / ratio;
            let mut done = ctx.matrix(blocks.len(), dim);
            compress(c, pending, self.shape, blocks.clone(), done.view_mut());
            entries.extend_from_slice(done.data());
            counts.push(blocks.len());
            starts.extend(blocks.map(|block| (block * ratio) as u32));
        }
        let mut entries = Matrix::from_vec(entries, dim);
        let angles = table.angles(&starts);
        norm_and_rope(c, entries.view_mut(), Some(&self.norm), self.rms_norm_eps, 1, &angles);
        (entries, counts)
    }
}
