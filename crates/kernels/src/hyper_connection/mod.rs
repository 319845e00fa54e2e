//! Hyper-connections: how the residual streams feed a sublayer and take its output back (mHC).

use cuvier_tensor::{MatMut, MatRef, Matrix, TensorError, WeightFormat, WeightMatrix};

use crate::rms_norm::inverse_rms;
use crate::simd::LANES;
#[cfg(doc)]
use crate::simd::Simd;
use crate::{Compute, DisjointRows, Lent};

mod backward;
mod gates;
mod project;
#[cfg(test)]
mod reference;
mod sinkhorn;
mod sinkhorn_backward;
mod streams;
#[cfg(test)]
mod tests;

pub use backward::{
    HcGradients, hc_collapse_backward, hc_expand_backward, hc_head_backward, hc_head_shares, hc_mix_backward,
};
use gates::{Block, Gates, HeadToken};
use project::{Rows, project};
pub use streams::{hc_collapse, hc_expand};

/// The most residual streams that the operations take.
pub const HC_MULT_MAX: usize = 8;

/// Blocks of sixteen tokens whose mixing numbers one task computes, at least: each takes about three microseconds.
const BLOCKS_PER_TASK_MIN: usize = 2;

/// The constants of all hyper-connections of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HcConfig {
    /// How many residual streams there are.
    pub hc_mult: usize,
    /// How many times columns are normalised, and rows before all but the first of them.
    pub sinkhorn_iters: usize,
    /// Added to weights and to the sums that they are divided by.
    pub hc_eps: f32,
    /// Added to the mean square of the streams.
    pub norm_eps: f32,
}

/// The weights of one hyper-connection; a layer has two.
///
/// | field   | shape                                           | dtype |
/// |---------|-------------------------------------------------|-------|
/// | `fn`    | `[(2 + hc_mult) * hc_mult, hc_mult * hidden]`   | f32   |
/// | `base`  | `[(2 + hc_mult) * hc_mult]`                     | f32   |
/// | `scale` | `[3]`: of pre, post and comb                    | f32   |
#[derive(Clone, Debug, PartialEq)]
pub struct HyperConnection {
    r#fn: Rows,
    base: Vec<f32>,
    scale: [f32; 3],
}

impl HyperConnection {
    /// Widens `fn` to f32 and checks that the shapes belong to `hc_mult` streams.
    ///
    /// # Errors
    /// [`TensorError::Format`] names the part that does not fit; `fn` may be F32 or BF16.
    ///
    /// # Panics
    /// If `hc_mult` is not in `1..=HC_MULT_MAX`.
    pub fn new(
        r#fn: &WeightMatrix,
        base: Vec<f32>,
        scale: Vec<f32>,
        hc_mult: usize,
    ) -> Result<Self, TensorError> {
        let n_mixes = (2 + hc_mult) * hc_mult;
        let r#fn = widen(r#fn, n_mixes, hc_mult)?;
        let base = expect_len(base, n_mixes, "hc base")?;
        let scale = <[f32; 3]>::try_from(scale).map_err(|got| mismatch("hc scale", got.len(), 3))?;
        Ok(Self { r#fn, base, scale })
    }

    /// `fn`, `base` and `scale`, for a trainer: rows as they were given to [`HyperConnection::new`].
    pub fn weights(&self) -> (Matrix, &[f32], &[f32]) {
        (self.r#fn.unpack(), &self.base, &self.scale)
    }

    /// Takes other weights of the same shapes.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn set_weights(&mut self, r#fn: &Matrix, base: &[f32], scale: &[f32]) {
        assert_eq!((r#fn.rows(), r#fn.cols()), (self.base.len(), self.r#fn.cols()), "fn");
        self.r#fn = Rows::pack(r#fn.data(), r#fn.cols());
        self.base.copy_from_slice(base);
        self.scale.copy_from_slice(scale);
    }
}

/// The weights that collapse the streams before the final norm.
///
/// | field   | shape                         | dtype |
/// |---------|-------------------------------|-------|
/// | `fn`    | `[hc_mult, hc_mult * hidden]` | f32   |
/// | `base`  | `[hc_mult]`                   | f32   |
/// | `scale` | `[1]`                         | f32   |
#[derive(Clone, Debug, PartialEq)]
pub struct HcHead {
    r#fn: Rows,
    base: Vec<f32>,
    scale: f32,
}

impl HcHead {
    /// Widens `fn` to f32 and checks that the shapes belong to `hc_mult` streams.
    ///
    /// # Errors
    /// [`TensorError::Format`] names the part that does not fit; `fn` may be F32 or BF16.
    ///
    /// # Panics
    /// If `hc_mult` is not in `1..=HC_MULT_MAX`.
    pub fn new(
        r#fn: &WeightMatrix,
        base: Vec<f32>,
        scale: Vec<f32>,
        hc_mult: usize,
    ) -> Result<Self, TensorError> {
        let r#fn = widen(r#fn, hc_mult, hc_mult)?;
        let base = expect_len(base, hc_mult, "hc head base")?;
        match *scale {
            [scale] => Ok(Self { r#fn, base, scale }),
            _ => Err(mismatch("hc head scale", scale.len(), 1)),
        }
    }

    /// `fn`, `base` and `scale`, for a trainer: rows as they were given to [`HcHead::new`].
    pub fn weights(&self) -> (Matrix, &[f32], f32) {
        (self.r#fn.unpack(), &self.base, self.scale)
    }

    /// Takes other weights of the same shapes.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn set_weights(&mut self, r#fn: &Matrix, base: &[f32], scale: f32) {
        assert_eq!((r#fn.rows(), r#fn.cols()), (self.base.len(), self.r#fn.cols()), "fn");
        self.r#fn = Rows::pack(r#fn.data(), r#fn.cols());
        self.base.copy_from_slice(base);
        self.scale = scale;
    }
}

/// How the streams of each token are mixed around one sublayer.
///
/// | field  | shape                        | dtype | unit |
/// |--------|------------------------------|-------|------|
/// | `pre`  | `[tokens, hc_mult]`          | f32   | share of each stream in the sublayer's input |
/// | `post` | `[tokens, hc_mult]`          | f32   | factor of the sublayer's output for each stream |
/// | `comb` | `[tokens, hc_mult * hc_mult]`| f32   | entry `hc_mult * j + k`: what stream `j` gives to stream `k` |
#[derive(Clone, Debug, PartialEq, Default)]
pub struct HcMix {
    /// Shares in the sublayer's input.
    pub pre: Lent,
    /// Factors of the sublayer's output.
    pub post: Lent,
    /// Old streams to new ones: row `j` of each token's square belongs to old stream `j`.
    pub comb: Lent,
}

/// Computes how to mix the streams `v` of each token around a sublayer.
///
/// ```text
/// m    = (fn * v) / sqrt(mean(v²) + norm_eps)
/// pre  = sigmoid(m_pre * scale[0] + base_pre) + hc_eps
/// post = 2 sigmoid(m_post * scale[1] + base_post)
/// comb = softmax over k of (m_comb * scale[2] + base_comb) + hc_eps, a square with rows j and columns k
/// comb = comb / (sum over j + hc_eps)
/// then, sinkhorn_iters - 1 times: comb = comb / (sum over k + hc_eps); comb = comb / (sum over j + hc_eps)
/// ```
///
/// | argument  | shape                        | dtype | unit |
/// |-----------|------------------------------|-------|------|
/// | `streams` | `[tokens, hc_mult * hidden]` | f32   | activation, stream by stream |
/// | result    | see [`HcMix`]                | f32   | |
///
/// Projections and `v²` are summed in f32 in the order of [`Simd::dot`]. Mean, root and reciprocal are f64, rounded
/// to f32 once; everything else is f32, sums in ascending index, `sigmoid(x) = 1 / (1 + e^-x)` and exponentials as
/// in [`Simd::exp`].
///
/// Source: DeepSeek-V4 `inference/model.py`, `Block.hc_pre` and `hc_split_sinkhorn`.
///
/// # Panics
/// If `params` are not of `cfg.hc_mult` streams as long as these.
pub fn hc_mix(c: &Compute, streams: MatRef<'_>, params: &HyperConnection, cfg: &HcConfig) -> HcMix {
    let n = cfg.hc_mult;
    assert_eq!(params.base.len(), (2 + n) * n, "weights of {n} streams");
    assert_eq!(streams.cols(), params.r#fn.cols(), "weights for these streams");
    let tokens = streams.rows();
    let projections = project(c, streams, &params.r#fn);
    let mut mix =
        HcMix { pre: c.matrix(tokens, n), post: c.matrix(tokens, n), comb: c.matrix(tokens, n * n) };
    let pre = DisjointRows::new(mix.pre.data_mut(), n);
    let post = DisjointRows::new(mix.post.data_mut(), n);
    let comb = DisjointRows::new(mix.comb.data_mut(), n * n);
    let gates = Gates { params, cfg };
    c.for_each_range(tokens.div_ceil(LANES), BLOCKS_PER_TASK_MIN, |blocks| {
        for block in blocks {
            let rows = block * LANES..tokens.min((block + 1) * LANES);
            // SAFETY: each block belongs to exactly one range.
            let (pre, post, comb) =
                unsafe { (pre.rows(rows.clone()), post.rows(rows.clone()), comb.rows(rows.clone())) };
            let projections =
                &projections.data()[rows.start * projections.cols()..][..rows.len() * projections.cols()];
            let block = Block { gates, projections, pre, post, comb };
            block.mix(c.isa());
        }
    });
    mix
}

/// Collapses the streams `v` of each token and norms them for the LM head.
///
/// ```text
/// w   = sigmoid((fn * v) / sqrt(mean(v²) + norm_eps) * scale + base) + hc_eps
/// out = rms_norm(sum over j of w[j] * stream j)
/// ```
///
/// | argument  | shape                        | dtype | unit |
/// |-----------|------------------------------|-------|------|
/// | `streams` | `[tokens, hc_mult * hidden]` | f32   | activation, stream by stream |
/// | `norm`    | `[hidden]`                   | f32   | gain |
/// | `out`     | `[tokens, hidden]`           | f32   | activation |
///
/// Arithmetic as in [`hc_mix`] and [`hc_collapse`].
///
/// Source: DeepSeek-V4 `inference/model.py`, `ParallelHead.hc_head` and the norm that follows it.
///
/// # Panics
/// If the shapes disagree.
pub fn hc_head(
    c: &Compute,
    streams: MatRef<'_>,
    params: &HcHead,
    cfg: &HcConfig,
    norm: &[f32],
    out: MatMut<'_>,
) {
    let pre = head_shares(c, streams, params, cfg);
    hc_collapse(c, streams, &pre, norm, cfg.norm_eps, out);
}

/// `[tokens, hc_mult]`: the shares of the streams before the final norm.
fn head_shares(c: &Compute, streams: MatRef<'_>, params: &HcHead, cfg: &HcConfig) -> Lent {
    let n = cfg.hc_mult;
    assert_eq!(params.base.len(), n, "weights of {n} streams");
    assert_eq!(streams.cols(), params.r#fn.cols(), "weights for these streams");
    let projections = project(c, streams, &params.r#fn);
    let mut pre = c.matrix(streams.rows(), n);
    for row in 0..streams.rows() {
        let (projections, square_sum) = projections.row(row).split_at(n);
        let factor = inverse_rms(square_sum[0], streams.cols(), cfg.norm_eps);
        let HcHead { scale, ref base, .. } = *params;
        let pre = pre.row_mut(row);
        c.isa().dispatch(HeadToken { projections, factor, scale, base, eps: cfg.hc_eps, pre });
    }
    pre
}

/// The numbers of pre, post and comb among the `(2 + n) * n` of a token.
fn parts(numbers: &[f32], n: usize) -> [&[f32]; 3] {
    [&numbers[..n], &numbers[n..2 * n], &numbers[2 * n..(2 + n) * n]]
}

/// `weight` as f32, if it is `rows` rows over `hc_mult` equally long streams.
fn widen(weight: &WeightMatrix, rows: usize, hc_mult: usize) -> Result<Rows, TensorError> {
    assert!((1..=HC_MULT_MAX).contains(&hc_mult), "{hc_mult} streams, not 1 to {HC_MULT_MAX}");
    let cols = weight.cols();
    let numbers = match weight.format() {
        WeightFormat::F32(tensor) | WeightFormat::Bf16(tensor) => tensor.to_f32(),
        WeightFormat::Fp8 { .. } | WeightFormat::Fp4 { .. } | WeightFormat::Int8(_) => None,
    };
    match numbers {
        Some(numbers) if weight.rows() == rows && cols > 0 && cols.is_multiple_of(hc_mult) => {
            Ok(Rows::pack(&numbers, cols))
        }
        _ => Err(TensorError::Format {
            part: "hc fn",
            got: vec![weight.rows(), cols],
            want: vec![rows, cols.next_multiple_of(hc_mult)],
        }),
    }
}

fn expect_len(numbers: Vec<f32>, want: usize, part: &'static str) -> Result<Vec<f32>, TensorError> {
    if numbers.len() == want { Ok(numbers) } else { Err(mismatch(part, numbers.len(), want)) }
}

fn mismatch(part: &'static str, got: usize, want: usize) -> TensorError {
    TensorError::Format { part, got: vec![got], want: vec![want] }
}
