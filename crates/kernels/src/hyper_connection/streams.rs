//! Streams to one vector, and a sublayer's output back to streams.

use cuvier_tensor::{MatMut, MatRef, Matrix};

use super::{HC_MULT_MAX, HcMix};
use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

/// Fewer numbers than this are not worth a second thread.
const NUMBERS_PER_TASK_MIN: usize = 1 << 16;

/// The input of a sublayer: `out = sum over j of pre[j] * stream j`.
///
/// | argument  | shape                        | dtype | unit |
/// |-----------|------------------------------|-------|------|
/// | `streams` | `[tokens, hc_mult * hidden]` | f32   | activation, stream by stream |
/// | `pre`     | `[tokens, hc_mult]`          | f32   | share of each stream |
/// | `out`     | `[tokens, hidden]`           | f32   | activation |
///
/// Summed in f32 in ascending stream: a product, then fused multiply-adds.
///
/// Source: DeepSeek-V4 `inference/model.py`, end of `Block.hc_pre`.
///
/// # Panics
/// If the shapes disagree.
pub fn hc_collapse(c: &Compute, streams: MatRef<'_>, pre: &Matrix, out: MatMut<'_>) {
    let (tokens, hidden) = (out.rows(), out.cols());
    assert_eq!((streams.rows(), pre.rows()), (tokens, tokens), "one row per token everywhere");
    assert!(tokens == 0 || streams.cols() == pre.cols() * hidden, "{} streams of {hidden}", pre.cols());
    let out = DisjointRows::new(out.into_data(), hidden);
    c.for_each_range(tokens, NUMBERS_PER_TASK_MIN.div_ceil(streams.cols().max(1)), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let out = unsafe { out.part(row, 0..hidden) };
            c.isa().dispatch(Collapse { streams: streams.row(row), pre: pre.row(row), out });
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

/// The streams of one token, weighted and summed.
struct Collapse<'a> {
    streams: &'a [f32],
    pre: &'a [f32],
    out: &'a mut [f32],
}

impl Vectorized for Collapse<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let hidden = self.out.len();
        for (chunk, out) in self.out.chunks_mut(LANES).enumerate() {
            let mut sum = None;
            for (j, &share) in self.pre.iter().enumerate() {
                let x = s.load_partial(&self.streams[j * hidden + chunk * LANES..][..out.len()], 0.0);
                sum = Some(match sum {
                    None => s.mul(s.splat(share), x),
                    Some(sum) => s.fma(s.splat(share), x, sum),
                });
            }
            s.store_partial(sum.unwrap_or(s.splat(0.0)), out);
        }
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
            // The released models have four streams: with the number known, they stay in registers.
            4 => self.run_streams::<S, 4>(s),
            _ => self.run_streams::<S, HC_MULT_MAX>(s),
        }
    }
}

impl Expand<'_> {
    /// For at most `N` streams.
    #[inline(always)]
    fn run_streams<S: Simd, const N: usize>(self, s: S) {
        let (n, hidden) = (self.post.len().min(N), self.o.len());
        for (chunk, o) in self.o.chunks(LANES).enumerate() {
            let at =
                |stream: usize| stream * hidden + chunk * LANES..stream * hidden + chunk * LANES + o.len();
            let mut old = [s.splat(0.0); N];
            for (j, old) in old[..n].iter_mut().enumerate() {
                *old = s.load_partial(&self.streams[at(j)], 0.0);
            }
            let o = s.load_partial(o, 0.0);
            for k in 0..n {
                let mut new = s.mul(s.splat(self.post[k]), o);
                for (j, &old) in old[..n].iter().enumerate() {
                    new = s.fma(s.splat(self.comb[j * n + k]), old, new);
                }
                s.store_partial(new, &mut self.streams[at(k)]);
            }
        }
    }
}
