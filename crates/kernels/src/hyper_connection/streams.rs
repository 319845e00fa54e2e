//! Streams to one vector, and a sublayer's output back to streams.

use std::ops::Range;

use cuvier_tensor::{MatMut, MatRef, Matrix};

use super::{HC_MULT_MAX, HcMix};
use crate::isa::Vectorized;
use crate::rms_norm::Scale;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

/// Fewer numbers than this are not worth a second thread.
const NUMBERS_PER_TASK_MIN: usize = 1 << 16;

/// The input of a sublayer: `x = sum over j of pre[j] * stream j`, and `out = rms_norm(x)` with the gain `norm`.
///
/// | argument  | shape                        | dtype | unit |
/// |-----------|------------------------------|-------|------|
/// | `streams` | `[tokens, hc_mult * hidden]` | f32   | activation, stream by stream |
/// | `pre`     | `[tokens, hc_mult]`          | f32   | share of each stream |
/// | `norm`    | `[hidden]`                   | f32   | gain |
/// | `out`     | `[tokens, hidden]`           | f32   | activation |
///
/// Summed in f32 in ascending stream: a product, then fused multiply-adds. The norm as in
/// [`rms_norm_in_place`](crate::rms_norm_in_place): the streams are read once for both.
///
/// Source: DeepSeek-V4 `inference/model.py`, end of `Block.hc_pre`, and the norm that follows it in `Block.forward`.
///
/// # Panics
/// If the shapes disagree.
pub fn hc_collapse(
    c: &Compute,
    streams: MatRef<'_>,
    pre: &Matrix,
    norm: &[f32],
    norm_eps: f32,
    out: MatMut<'_>,
) {
    let (tokens, hidden) = (out.rows(), out.cols());
    assert_eq!((streams.rows(), pre.rows()), (tokens, tokens), "one row per token everywhere");
    assert!(tokens == 0 || streams.cols() == pre.cols() * hidden, "{} streams of {hidden}", pre.cols());
    assert!(tokens == 0 || norm.len() == hidden, "a gain for each of {hidden} columns");
    let out = DisjointRows::new(out.into_data(), hidden);
    c.for_each_range(tokens, NUMBERS_PER_TASK_MIN.div_ceil(streams.cols().max(1)), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let out = unsafe { out.part(row, 0..hidden) };
            let collapse = Collapse { streams: streams.row(row), pre: pre.row(row), out };
            c.isa().dispatch(CollapseAndNorm { collapse, norm, norm_eps });
        }
    });
}

/// The streams after a sublayer, in place: new stream `k = post[k] * o + sum over j of comb[j, k] * stream j`.
///
/// The sum runs over the first index of `comb`: its rows are the old streams.
///
/// | argument  | shape                        | dtype | unit |
/// |-----------|------------------------------|-------|------|
/// | `streams` | `[tokens, hc_mult * hidden]` | f32   | activation, stream by stream |
/// | `o`       | `[tokens, hidden]`           | f32   | the sublayer's output |
/// | `mix`     | see [`HcMix`]                | f32   | made by [`super::hc_mix`] before the sublayer |
///
/// Summed in f32: the product with `o`, then fused multiply-adds in ascending old stream.
///
/// Source: DeepSeek-V4 `inference/model.py`, `Block.hc_post`.
///
/// # Panics
/// If the shapes disagree.
pub fn hc_expand(c: &Compute, streams: MatMut<'_>, o: MatRef<'_>, mix: &HcMix) {
    let (tokens, hidden, n) = (o.rows(), o.cols(), mix.post.cols());
    let len = n * hidden;
    assert!(
        (1..=HC_MULT_MAX).contains(&n) && mix.comb.cols() == n * n,
        "a mix of 1 to {HC_MULT_MAX} streams"
    );
    assert!(streams.rows() == tokens && (tokens == 0 || streams.cols() == len), "{n} streams of {hidden}");
    assert_eq!((mix.post.rows(), mix.comb.rows()), (tokens, tokens), "a mix per token");
    let streams = DisjointRows::new(streams.into_data(), len);
    c.for_each_range(tokens, NUMBERS_PER_TASK_MIN.div_ceil(len.max(1)), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let streams = unsafe { streams.part(row, 0..len) };
            let (post, comb) = (mix.post.row(row), mix.comb.row(row));
            c.isa().dispatch(Expand { streams, o: o.row(row), post, comb });
        }
    });
}

/// The streams of one token, weighted and summed. Gives the sum of the squares, in the order of [`Simd::dot`].
pub(super) struct Collapse<'a> {
    pub streams: &'a [f32],
    pub pre: &'a [f32],
    pub out: &'a mut [f32],
}

impl Vectorized for Collapse<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        match self.pre.len() {
            // The released models have four streams: with the number known, each has a register to walk with.
            4 => self.run_streams::<S, 4>(s),
            _ => self.run_streams::<S, HC_MULT_MAX>(s),
        }
    }
}

impl Collapse<'_> {
    /// For at most `N` streams.
    #[inline(always)]
    fn run_streams<S: Simd, const N: usize>(self, s: S) -> f32 {
        let n = self.pre.len().min(N);
        let mut streams = [&[][..]; N];
        let parts = self.streams.chunks_exact(self.out.len());
        streams.iter_mut().zip(parts).for_each(|(stream, part)| *stream = part);
        let (out, out_tail) = self.out.as_chunks_mut::<LANES>();
        let tail = out.len() * LANES;
        let mut squares = s.splat(0.0);
        for (chunk, out) in out.iter_mut().enumerate() {
            let mut sum = s.splat(0.0);
            for (j, (stream, &share)) in streams[..n].iter().zip(self.pre).enumerate() {
                let x: &[f32; LANES] = stream[chunk * LANES..].first_chunk().expect("a whole vector");
                sum = add_share(s, j, share, s.load(x), sum);
            }
            squares = s.fma(sum, sum, squares);
            s.store(sum, out);
        }
        if !out_tail.is_empty() {
            let mut sum = s.splat(0.0);
            for (j, (stream, &share)) in streams[..n].iter().zip(self.pre).enumerate() {
                sum = add_share(s, j, share, s.load_partial(&stream[tail..], 0.0), sum);
            }
            squares = s.fma(sum, sum, squares);
            s.store_partial(sum, out_tail);
        }
        s.sum(squares)
    }
}

/// `sum + share * x`, where the first stream's share is the product alone.
#[inline(always)]
fn add_share<S: Simd>(s: S, j: usize, share: f32, x: S::V, sum: S::V) -> S::V {
    if j == 0 { s.mul(s.splat(share), x) } else { s.fma(s.splat(share), x, sum) }
}

/// [`Collapse`], then the norm.
struct CollapseAndNorm<'a> {
    collapse: Collapse<'a>,
    norm: &'a [f32],
    norm_eps: f32,
}

impl Vectorized for CollapseAndNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Collapse { streams, pre, out } = self.collapse;
        let square_sum = Collapse { streams, pre, out }.run(s);
        Scale { x: out, square_sum, weight: Some(self.norm), eps: self.norm_eps }.run(s);
    }
}

/// The streams of one token, remixed in place.
struct Expand<'a> {
    streams: &'a mut [f32],
    o: &'a [f32],
    post: &'a [f32],
    comb: &'a [f32],
}

impl Vectorized for Expand<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.post.len() {
            // As above: four streams stay in registers.
            4 => self.run_streams::<S, 4>(s),
            _ => self.run_streams::<S, HC_MULT_MAX>(s),
        }
    }
}

impl Expand<'_> {
    /// For at most `N` streams.
    #[inline(always)]
    fn run_streams<S: Simd, const N: usize>(mut self, s: S) {
        let hidden = self.o.len();
        let (chunks, tail) = self.o.as_chunks::<LANES>();
        for (chunk, o) in chunks.iter().enumerate() {
            self.remix::<S, N>(s, s.load(o), chunk * LANES..(chunk + 1) * LANES);
        }
        if !tail.is_empty() {
            self.remix::<S, N>(s, s.load_partial(tail, 0.0), hidden - tail.len()..hidden);
        }
    }

    /// At most sixteen columns, where the sublayer's output is `o`.
    #[inline(always)]
    fn remix<S: Simd, const N: usize>(&mut self, s: S, o: S::V, columns: Range<usize>) {
        let (n, hidden) = (self.post.len().min(N), self.o.len());
        let mut old = [s.splat(0.0); N];
        for (j, old) in old[..n].iter_mut().enumerate() {
            *old = s.load_partial(&self.streams[j * hidden..][columns.clone()], 0.0);
        }
        for k in 0..n {
            let mut new = s.mul(s.splat(self.post[k]), o);
            for (j, &old) in old[..n].iter().enumerate() {
                new = s.fma(s.splat(self.comb[j * n + k]), old, new);
            }
            s.store_partial(new, &mut self.streams[k * hidden..][columns.clone()]);
        }
    }
}
