//! The gradients of hyper-connections.

use std::ops::Range;

use cuvier_tensor::{MatMut, MatRef, Matrix};

use super::project::{Rows, project};
use super::sinkhorn_backward::{Square, sinkhorn_backward};
use super::streams::Collapse;
use super::{HC_MULT_MAX, HcConfig, HcHead, HcMix, HyperConnection};
use crate::isa::Vectorized;
use crate::rms_norm::{inverse_rms, rms_norm_backward};
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows, Lent, Store, matmul, matmul_transposed};

/// Tokens that one task takes, at least.
const TOKENS_PER_TASK_MIN: usize = 32;

/// The gradients of a [`HyperConnection`]'s or an [`HcHead`]'s weights, shaped as those; added to.
#[derive(Debug)]
pub struct HcGradients<'a> {
    /// `[mixes, hc_mult * hidden]`.
    pub r#fn: MatMut<'a>,
    /// `[mixes]`.
    pub base: &'a mut [f32],
    /// `[3]`, of a head `[1]`.
    pub scale: &'a mut [f32],
}

/// Gradient of [`hc_expand`](crate::hc_expand()).
///
/// | argument   | shape                        | dtype | unit |
/// |------------|------------------------------|-------|------|
/// | `streams`  | `[tokens, hc_mult * hidden]` | f32   | streams before the sublayer |
/// | `o`        | `[tokens, hidden]`           | f32   | the sublayer's output |
/// | `mix`      | see [`HcMix`]                | f32   | |
/// | `dstreams` | `[tokens, hc_mult * hidden]` | f32   | gradient of the streams after it; becomes that of those before, as far as they came by this way |
/// | `d_o`      | `[tokens, hidden]`           | f32   | gradient of `o`, written |
/// | result     | see [`HcMix`]                | f32   | gradients of `post` and `comb`; that of `pre` is zero |
///
/// Source: derivative of DeepSeek-V4 `inference/model.py`, `Block.hc_post`.
///
/// # Panics
/// If the shapes disagree.
pub fn hc_expand_backward(
    c: &Compute,
    streams: MatRef<'_>,
    o: MatRef<'_>,
    mix: &HcMix,
    dstreams: MatMut<'_>,
    d_o: MatMut<'_>,
) -> HcMix {
    let (tokens, hidden, n) = (o.rows(), o.cols(), mix.post.cols());
    assert_eq!((streams.rows(), dstreams.rows(), d_o.rows()), (tokens, tokens, tokens), "tokens");
    assert!(tokens == 0 || (streams.cols(), dstreams.cols()) == (n * hidden, n * hidden), "streams");
    let mut dmix =
        HcMix { pre: c.matrix(tokens, n), post: c.matrix(tokens, n), comb: c.matrix(tokens, n * n) };
    dmix.pre.data_mut().fill(0.0);
    let dpost = DisjointRows::new(dmix.post.data_mut(), n);
    let dcomb = DisjointRows::new(dmix.comb.data_mut(), n * n);
    let (dstreams, d_o) =
        (DisjointRows::new(dstreams.into_data(), n * hidden), DisjointRows::new(d_o.into_data(), hidden));
    c.for_each_range(tokens, TOKENS_PER_TASK_MIN, |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let (dpost, dcomb, dstreams, d_o) = unsafe {
                (
                    dpost.part(row, 0..n),
                    dcomb.part(row, 0..n * n),
                    dstreams.part(row, 0..n * hidden),
                    d_o.part(row, 0..hidden),
                )
            };
            let (streams, o) = (streams.row(row), o.row(row));
            let (post, comb) = (mix.post.row(row), mix.comb.row(row));
            c.isa().dispatch(Unexpand { streams, o, post, comb, dstreams, d_o, dpost, dcomb });
        }
    });
    dmix
}

/// [`hc_expand_backward`] of one token.
struct Unexpand<'a> {
    streams: &'a [f32],
    o: &'a [f32],
    post: &'a [f32],
    comb: &'a [f32],
    dstreams: &'a mut [f32],
    d_o: &'a mut [f32],
    dpost: &'a mut [f32],
    dcomb: &'a mut [f32],
}

impl Vectorized for Unexpand<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (n, hidden) = (self.post.len(), self.o.len());
        for k in 0..n {
            let dnew = &self.dstreams[k * hidden..][..hidden];
            self.dpost[k] = s.dot(dnew, self.o);
            for j in 0..n {
                self.dcomb[j * n + k] = s.dot(dnew, &self.streams[j * hidden..][..hidden]);
            }
        }
        for start in (0..hidden).step_by(LANES) {
            let columns = start..hidden.min(start + LANES);
            let mut dnew = [s.splat(0.0); HC_MULT_MAX];
            let mut d_o = s.splat(0.0);
            for (k, dnew) in dnew[..n].iter_mut().enumerate() {
                *dnew = s.load_partial(&self.dstreams[k * hidden..][columns.clone()], 0.0);
                d_o = s.fma(s.splat(self.post[k]), *dnew, d_o);
            }
            s.store_partial(d_o, &mut self.d_o[columns.clone()]);
            for j in 0..n {
                let mut dold = s.splat(0.0);
                for (k, &dnew) in dnew[..n].iter().enumerate() {
                    dold = s.fma(s.splat(self.comb[j * n + k]), dnew, dold);
                }
                s.store_partial(dold, &mut self.dstreams[j * hidden..][columns.clone()]);
            }
        }
    }
}

/// Gradient of [`hc_collapse`](crate::hc_collapse()).
///
/// | argument   | shape                        | dtype | unit |
/// |------------|------------------------------|-------|------|
/// | `streams`  | `[tokens, hc_mult * hidden]` | f32   | activation, stream by stream |
/// | `pre`      | `[tokens, hc_mult]`          | f32   | share of each stream |
/// | `norm`     | `[hidden]`                   | f32   | gain |
/// | `dout`     | `[tokens, hidden]`           | f32   | gradient of the output; overwritten |
/// | `dnorm`    | `[hidden]`                   | f32   | gradient of the gain, added to |
/// | `dpre`     | `[tokens, hc_mult]`          | f32   | gradient of the shares, written |
/// | `dstreams` | `[tokens, hc_mult * hidden]` | f32   | gradient of the streams, added to |
///
/// Source: derivative of DeepSeek-V4 `inference/model.py`, end of `Block.hc_pre`, and of the norm that follows it.
///
/// # Panics
/// If the shapes disagree.
#[expect(
    clippy::too_many_arguments,
    reason = "a forward operation and the gradients of each of its arguments"
)]
pub fn hc_collapse_backward(
    c: &Compute,
    streams: MatRef<'_>,
    pre: &Matrix,
    norm: &[f32],
    norm_eps: f32,
    mut dout: MatMut<'_>,
    dnorm: &mut [f32],
    dpre: &mut Matrix,
    dstreams: MatMut<'_>,
) {
    let (tokens, hidden, n) = (dout.rows(), dout.cols(), pre.cols());
    assert_eq!((streams.rows(), pre.rows(), dpre.rows()), (tokens, tokens, tokens), "tokens");
    assert!(tokens == 0 || (streams.cols(), dstreams.cols()) == (n * hidden, n * hidden), "streams");
    let mut x = c.matrix(tokens, hidden);
    let rows_of_x = DisjointRows::new(x.data_mut(), hidden);
    c.for_each_range(tokens, TOKENS_PER_TASK_MIN, |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let out = unsafe { rows_of_x.part(row, 0..hidden) };
            c.isa().dispatch(Collapse { streams: streams.row(row), pre: pre.row(row), out });
        }
    });
    rms_norm_backward(c, x.view(), Some(norm), norm_eps, dout.reborrow(), dnorm);
    let dx = MatRef::new(dout.into_data(), tokens, hidden);
    let (dpre, dstreams) =
        (DisjointRows::new(dpre.data_mut(), n), DisjointRows::new(dstreams.into_data(), n * hidden));
    c.for_each_range(tokens, TOKENS_PER_TASK_MIN, |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let (dpre, dstreams) = unsafe { (dpre.part(row, 0..n), dstreams.part(row, 0..n * hidden)) };
            let (streams, pre) = (streams.row(row), pre.row(row));
            c.isa().dispatch(Uncollapse { streams, pre, dx: dx.row(row), dpre, dstreams });
        }
    });
}

/// `dpre_j = dx . stream j` and `dstream j += pre_j dx` of one token.
struct Uncollapse<'a> {
    streams: &'a [f32],
    pre: &'a [f32],
    dx: &'a [f32],
    dpre: &'a mut [f32],
    dstreams: &'a mut [f32],
}

impl Vectorized for Uncollapse<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let hidden = self.dx.len();
        let streams = self.streams.chunks_exact(hidden).zip(self.dstreams.chunks_exact_mut(hidden));
        for (((stream, dstream), &share), dshare) in streams.zip(self.pre).zip(self.dpre) {
            *dshare = s.dot(self.dx, stream);
            for (dstream, dx) in dstream.chunks_mut(LANES).zip(self.dx.chunks(LANES)) {
                let sum = s.fma(s.splat(share), s.load_partial(dx, 0.0), s.load_partial(dstream, 0.0));
                s.store_partial(sum, dstream);
            }
        }
    }
}

/// Gradient of [`hc_mix`](crate::hc_mix()), through every step of the normalisation.
///
/// | argument    | shape                        | dtype | unit |
/// |-------------|------------------------------|-------|------|
/// | `streams`   | `[tokens, hc_mult * hidden]` | f32   | activation, stream by stream |
/// | `dmix`      | see [`HcMix`]                | f32   | gradients of the mix |
/// | `gradients` | see [`HcGradients`]          | f32   | of the weights, added to |
/// | `dstreams`  | `[tokens, hc_mult * hidden]` | f32   | of the streams, added to |
///
/// Source: derivative of DeepSeek-V4 `inference/model.py`, `Block.hc_pre` and `hc_split_sinkhorn`.
///
/// # Panics
/// If the shapes disagree.
pub fn hc_mix_backward(
    c: &Compute,
    streams: MatRef<'_>,
    params: &HyperConnection,
    cfg: &HcConfig,
    dmix: &HcMix,
    gradients: &mut HcGradients<'_>,
    dstreams: MatMut<'_>,
) {
    let n = cfg.hc_mult;
    let projections = project(c, streams, &params.r#fn);
    let tokens = streams.rows();
    let mut parts = Parts::new(c, tokens, params.base.len());
    let [logits, dlogits] =
        [&mut parts.m, &mut parts.dlogits].map(|m| DisjointRows::new(m.data_mut(), (2 + n) * n));
    c.for_each_range(tokens.div_ceil(LANES), TOKENS_PER_TASK_MIN / LANES, |blocks| {
        let rows = blocks.start * LANES..tokens.min(blocks.end * LANES);
        // SAFETY: each block of tokens belongs to exactly one range.
        let (m, dlogits) = unsafe { (logits.rows(rows.clone()), dlogits.rows(rows.clone())) };
        let work = Unmix { rows, projections: projections.view(), params, cfg, dmix, m, dlogits };
        match n {
            1 => c.isa().dispatch(OfStreams::<1>(work)),
            2 => c.isa().dispatch(OfStreams::<2>(work)),
            3 => c.isa().dispatch(OfStreams::<3>(work)),
            4 => c.isa().dispatch(OfStreams::<4>(work)),
            5 => c.isa().dispatch(OfStreams::<5>(work)),
            6 => c.isa().dispatch(OfStreams::<6>(work)),
            7 => c.isa().dispatch(OfStreams::<7>(work)),
            8 => c.isa().dispatch(OfStreams::<8>(work)),
            _ => unreachable!("weights of more streams do not exist"),
        }
    });
    let scale_of = |i: usize| (i / n).min(2);
    parts.finish(c, streams, &projections, &params.r#fn, (&params.scale, scale_of), cfg, gradients, dstreams);
}

/// Gradient of the shares of [`hc_head`](crate::hc_head()): `dpre` is what [`hc_collapse_backward`] found for them.
/// Arguments as in [`hc_mix_backward`].
///
/// # Panics
/// If the shapes disagree.
pub fn hc_head_backward(
    c: &Compute,
    streams: MatRef<'_>,
    params: &HcHead,
    cfg: &HcConfig,
    dpre: &Matrix,
    gradients: &mut HcGradients<'_>,
    dstreams: MatMut<'_>,
) {
    let projections = project(c, streams, &params.r#fn);
    let n = cfg.hc_mult;
    let mut parts = Parts::new(c, streams.rows(), n);
    for row in 0..streams.rows() {
        let (projections, square_sum) = projections.row(row).split_at(n);
        let factor = inverse_rms(square_sum[0], streams.cols(), cfg.norm_eps);
        let m = parts.m.row_mut(row);
        m.iter_mut().zip(projections).for_each(|(m, projection)| *m = projection * factor);
        let HcHead { scale, ref base, .. } = *params;
        let dlogits = parts.dlogits.row_mut(row);
        c.isa().dispatch(HeadLogits { m, scale, base, dpre: dpre.row(row), dlogits });
    }
    parts.finish(c, streams, &projections, &params.r#fn, (&[params.scale], |_| 0), cfg, gradients, dstreams);
}

/// `dlogits = dpre * share * (1 - share)` with `share = sigmoid(m * scale + base)`, of one token.
struct HeadLogits<'a> {
    m: &'a [f32],
    scale: f32,
    base: &'a [f32],
    dpre: &'a [f32],
    dlogits: &'a mut [f32],
}

impl Vectorized for HeadLogits<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // A number per stream, of which there are fewer than lanes.
        let m = s.mul(s.load_partial(self.m, 0.0), s.splat(self.scale));
        let share = sigmoid(s, s.add(m, s.load_partial(self.base, 0.0)));
        let slope = s.mul(share, s.sub(s.splat(1.0), share));
        s.store_partial(s.mul(s.load_partial(self.dpre, 0.0), slope), self.dlogits);
    }
}

/// The shares that [`hc_head`](crate::hc_head()) gives the streams, `[tokens, hc_mult]`.
///
/// # Panics
/// As [`hc_head`](crate::hc_head()).
pub fn hc_head_shares(c: &Compute, streams: MatRef<'_>, params: &HcHead, cfg: &HcConfig) -> Lent {
    super::head_shares(c, streams, params, cfg)
}

/// What all tokens' mixing numbers came from, before the sums over tokens.
struct Parts {
    /// `[tokens, mixes]`: normalised projections.
    m: Lent,
    /// `[tokens, mixes]`: gradients of `m * scale + base`.
    dlogits: Lent,
}

impl Parts {
    fn new(c: &Compute, tokens: usize, mixes: usize) -> Self {
        Self { m: c.matrix(tokens, mixes), dlogits: c.matrix(tokens, mixes) }
    }

    /// From the gradients of the logits to those of the weights and the streams.
    #[expect(clippy::too_many_arguments, reason = "one use for each of two operations")]
    fn finish(
        mut self,
        c: &Compute,
        streams: MatRef<'_>,
        projections: &Matrix,
        weights: &Rows,
        (scale, scale_of): (&[f32], impl Fn(usize) -> usize + Sync),
        cfg: &HcConfig,
        gradients: &mut HcGradients<'_>,
        mut dstreams: MatMut<'_>,
    ) {
        let (tokens, mixes) = (streams.rows(), self.m.cols());
        let (m, dlogits) = (&self.m, &mut self.dlogits);
        c.add_over_rows(tokens, gradients.base, |rows, sums| {
            for row in rows {
                sums.iter_mut().zip(dlogits.row(row)).for_each(|(sum, d)| *sum += d);
            }
        });
        c.add_over_rows(tokens, gradients.scale, |rows, sums| {
            for row in rows {
                for (i, (m, d)) in m.row(row).iter().zip(dlogits.row(row)).enumerate() {
                    sums[scale_of(i)] += m * d;
                }
            }
        });
        // The gradients of the projections take the place of those of the logits.
        let mut along = c.matrix(tokens, 1);
        for row in 0..tokens {
            let (of_row, square_sum) = projections.row(row).split_at(mixes);
            let factor = inverse_rms(square_sum[0], streams.cols(), cfg.norm_eps);
            let mut dfactor = 0.0;
            for (i, (d, projection)) in dlogits.row_mut(row).iter_mut().zip(of_row).enumerate() {
                let dm = *d * scale[scale_of(i)];
                dfactor += dm * projection;
                *d = dm * factor;
            }
            along.data_mut()[row] = -dfactor * factor * factor * factor / streams.cols() as f32;
        }
        let dprojections = dlogits.view();
        matmul_transposed(c, dprojections, streams, Store::Add, gradients.r#fn.reborrow());
        matmul(c, dprojections, weights.unpack().view(), Store::Add, dstreams.reborrow());
        let cols = streams.cols();
        let dstreams = DisjointRows::new(dstreams.into_data(), cols);
        c.for_each_range(tokens, TOKENS_PER_TASK_MIN, |rows| {
            for row in rows {
                // SAFETY: each row belongs to exactly one range.
                let dstreams = unsafe { dstreams.part(row, 0..cols) };
                c.isa().dispatch(AddScaled { x: streams.row(row), by: along.data()[row], out: dstreams });
            }
        });
    }
}

/// `out += by * x`.
struct AddScaled<'a> {
    x: &'a [f32],
    by: f32,
    out: &'a mut [f32],
}

impl Vectorized for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (out, x) in self.out.chunks_mut(LANES).zip(self.x.chunks(LANES)) {
            s.store_partial(s.fma(s.splat(self.by), s.load_partial(x, 0.0), s.load_partial(out, 0.0)), out);
        }
    }
}

/// The mixing numbers of the tokens `rows`: from their gradients to those of the logits.
struct Unmix<'a> {
    rows: Range<usize>,
    projections: MatRef<'a>,
    params: &'a HyperConnection,
    cfg: &'a HcConfig,
    dmix: &'a HcMix,
    m: &'a mut [f32],
    dlogits: &'a mut [f32],
}

/// [`Unmix`] of `N` streams.
struct OfStreams<'a, const N: usize>(Unmix<'a>);

impl<const N: usize> Vectorized for OfStreams<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Unmix { rows, projections, params, cfg, dmix, m, dlogits } = self.0;
        let mixes = (2 + N) * N;
        let mut steps = Vec::new();
        let (mut numbers, mut ds) = (vec![[0.0; LANES]; mixes], vec![[0.0; LANES]; mixes]);
        let outputs = m.chunks_mut(mixes * LANES).zip(dlogits.chunks_mut(mixes * LANES));
        for (start, (m, dlogits)) in rows.clone().step_by(LANES).zip(outputs) {
            let block = start..rows.end.min(start + LANES);
            // Lanes behind the last token keep what an earlier one left: they are never looked at.
            for (lane, row) in block.clone().enumerate() {
                let (projection, square_sum) = projections.row(row).split_at(mixes);
                let factor = inverse_rms(square_sum[0], params.r#fn.cols(), cfg.norm_eps);
                let d = [dmix.pre.row(row), dmix.post.row(row), dmix.comb.row(row)];
                for (i, (&x, &d)) in projection.iter().zip(d.into_iter().flatten()).enumerate() {
                    m[lane * mixes + i] = x * factor;
                    numbers[i][lane] = x * factor * params.scale[(i / N).min(2)] + params.base[i];
                    ds[i][lane] = d;
                }
            }
            for (i, (number, d)) in numbers.iter().zip(&mut ds).enumerate().take(2 * N) {
                let share = sigmoid(s, s.load(number));
                let slope = s.mul(share, s.sub(s.splat(1.0), share));
                let by = s.splat(if i < N { 1.0 } else { 2.0 });
                s.store(s.mul(s.mul(by, s.load(d)), slope), d);
            }
            let load = |lanes: &[[f32; LANES]]| {
                let mut square: Square<S::V, N> = [[s.splat(0.0); N]; N];
                square.as_flattened_mut().iter_mut().zip(lanes).for_each(|(x, lanes)| *x = s.load(lanes));
                square
            };
            let (logits, dout) = (load(&numbers[2 * N..]), load(&ds[2 * N..]));
            let dsquare = sinkhorn_backward(s, &logits, &dout, cfg.sinkhorn_iters, cfg.hc_eps, &mut steps);
            ds[2 * N..].iter_mut().zip(dsquare.as_flattened()).for_each(|(lanes, &x)| s.store(x, lanes));
            for lane in 0..block.len() {
                for (i, d) in ds.iter().enumerate() {
                    dlogits[lane * mixes + i] = d[lane];
                }
            }
        }
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, s.exp(s.sub(s.splat(0.0), x))))
}
