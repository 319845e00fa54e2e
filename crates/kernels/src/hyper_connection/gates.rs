//! From projections to the numbers that mix the streams.

use super::sinkhorn::{self, Lanes};
use super::{HcConfig, HyperConnection, parts};
use crate::isa::{Isa, Vectorized};
use crate::rms_norm::inverse_rms;
use crate::simd::{LANES, Simd};

/// How many streams the released models have: with the number known, sixteen tokens go together.
const FOUR: usize = 4;

/// Numbers that mix four streams.
const MIXES: usize = (2 + FOUR) * FOUR;

/// What all tokens share.
#[derive(Clone, Copy)]
pub(super) struct Gates<'a> {
    pub params: &'a HyperConnection,
    pub cfg: &'a HcConfig,
}

/// At most sixteen tokens: their projections, each with its square sum behind, and where their mix goes; row by row.
pub(super) struct Block<'a> {
    pub gates: Gates<'a>,
    pub projections: &'a [f32],
    pub pre: &'a mut [f32],
    pub post: &'a mut [f32],
    pub comb: &'a mut [f32],
}

impl Block<'_> {
    /// Computes the mix.
    pub(super) fn mix(self, isa: Isa) {
        let Self { gates, projections, pre, post, comb } = self;
        let n = gates.cfg.hc_mult;
        if n == FOUR
            && let Some(pre) = pre.as_chunks_mut().0.as_mut_array()
            && let Some(post) = post.as_chunks_mut().0.as_mut_array()
            && let Some(comb) = comb.as_chunks_mut().0.as_mut_array()
        {
            return isa.dispatch(SixteenTokens { gates, projections, pre, post, comb });
        }
        let rows = projections.chunks_exact(gates.params.base.len() + 1);
        let outputs = pre.chunks_exact_mut(n).zip(post.chunks_exact_mut(n)).zip(comb.chunks_exact_mut(n * n));
        for (projections, ((pre, post), comb)) in rows.zip(outputs) {
            isa.dispatch(Token { gates, projections, pre, post, comb });
        }
    }
}

/// One token.
struct Token<'a> {
    gates: Gates<'a>,
    projections: &'a [f32],
    pre: &'a mut [f32],
    post: &'a mut [f32],
    comb: &'a mut [f32],
}

impl Vectorized for Token<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Gates { params, cfg } = self.gates;
        let n = cfg.hc_mult;
        let (projections, square_sum) = self.projections.split_at(params.base.len());
        let factor = s.splat(inverse_rms(square_sum[0], params.r#fn.cols(), cfg.norm_eps));
        let [m_pre, m_post, m_comb] = parts(projections, n);
        let [base_pre, base_post, base_comb] = parts(&params.base, n);
        let [scale_pre, scale_post, scale_comb] = params.scale;

        let eps = s.splat(cfg.hc_eps);
        s.store_partial(s.add(sigmoid(s, logits(s, m_pre, factor, scale_pre, base_pre)), eps), self.pre);
        let post = sigmoid(s, logits(s, m_post, factor, scale_post, base_post));
        s.store_partial(s.mul(s.splat(2.0), post), self.post);

        let chunks = m_comb.chunks(LANES).zip(base_comb.chunks(LANES)).zip(self.comb.chunks_mut(LANES));
        for ((m, base), out) in chunks {
            s.store_partial(logits(s, m, factor, scale_comb, base), out);
        }
        Square { square: self.comb, n, iters: cfg.sinkhorn_iters, eps: cfg.hc_eps }.run(s);
    }
}

/// The logits of one token's square, `n` by `n`, to the square itself.
pub(super) struct Square<'a> {
    pub square: &'a mut [f32],
    pub n: usize,
    pub iters: usize,
    pub eps: f32,
}

impl Vectorized for Square<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.square.chunks_exact_mut(self.n) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x -= max);
        }
        for chunk in self.square.chunks_mut(LANES) {
            s.store_partial(s.exp(s.load_partial(chunk, 0.0)), chunk);
        }
        sinkhorn::normalise_slice(self.square, self.n, self.iters, self.eps);
    }
}

/// Sixteen tokens with four streams: every number of all of them in one vector.
struct SixteenTokens<'a> {
    gates: Gates<'a>,
    projections: &'a [f32],
    pre: &'a mut [[f32; FOUR]; LANES],
    post: &'a mut [[f32; FOUR]; LANES],
    comb: &'a mut [[f32; FOUR * FOUR]; LANES],
}

impl Vectorized for SixteenTokens<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Gates { params, cfg } = self.gates;
        let mut factors = [0.0; LANES];
        let mut numbers = [[0.0; LANES]; MIXES];
        for (token, row) in self.projections.chunks_exact(MIXES + 1).enumerate() {
            factors[token] = inverse_rms(row[MIXES], params.r#fn.cols(), cfg.norm_eps);
            for (lanes, &number) in numbers.iter_mut().zip(row) {
                lanes[token] = number;
            }
        }
        let (factor, eps) = (s.load(&factors), s.splat(cfg.hc_eps));
        for ((i, lanes), &base) in numbers.iter_mut().enumerate().zip(&params.base) {
            let scale = s.splat(params.scale[(i / FOUR).min(2)]);
            let logit = logit(s, s.load(lanes), factor, scale, s.splat(base));
            let out = match i / FOUR {
                0 => s.add(sigmoid(s, logit), eps),
                1 => s.mul(s.splat(2.0), sigmoid(s, logit)),
                _ => logit,
            };
            s.store(out, lanes);
        }
        let (gates, comb) = numbers.split_at_mut(2 * FOUR);
        square_of_sixteen(s, comb.as_mut_array().expect("the numbers behind the gates are a square"), cfg);
        for (token, (pre, post)) in self.pre.iter_mut().zip(self.post).enumerate() {
            let (from_pre, from_post) = gates.split_at(FOUR);
            pre.iter_mut().zip(from_pre).for_each(|(out, lanes)| *out = lanes[token]);
            post.iter_mut().zip(from_post).for_each(|(out, lanes)| *out = lanes[token]);
        }
        for (token, square) in self.comb.iter_mut().enumerate() {
            square.iter_mut().zip(&*comb).for_each(|(out, lanes)| *out = lanes[token]);
        }
    }
}

/// The logits of sixteen tokens' squares to the squares themselves.
#[inline(always)]
fn square_of_sixteen<S: Simd>(s: S, numbers: &mut [[f32; LANES]; FOUR * FOUR], cfg: &HcConfig) {
    let eps = Lanes(s, s.splat(cfg.hc_eps));
    let mut square = [[eps; FOUR]; FOUR];
    for (logits, row) in numbers.as_chunks::<FOUR>().0.iter().zip(&mut square) {
        let mut max = s.splat(f32::NEG_INFINITY);
        for logit in logits {
            max = s.max(s.load(logit), max);
        }
        for (logit, x) in logits.iter().zip(row) {
            *x = Lanes(s, s.exp(s.sub(s.load(logit), max)));
        }
    }
    sinkhorn::normalise(&mut square, cfg.sinkhorn_iters, eps);
    for (x, lanes) in square.as_flattened().iter().zip(numbers) {
        s.store(x.1, lanes);
    }
}

/// The shares of the streams before the final norm: `sigmoid(m * factor * scale + base) + eps`.
pub(super) struct HeadToken<'a> {
    pub projections: &'a [f32],
    pub factor: f32,
    pub scale: f32,
    pub base: &'a [f32],
    pub eps: f32,
    pub pre: &'a mut [f32],
}

impl Vectorized for HeadToken<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let logits = logits(s, self.projections, s.splat(self.factor), self.scale, self.base);
        s.store_partial(s.add(sigmoid(s, logits), s.splat(self.eps)), self.pre);
    }
}

/// [`logit`] of some projections of one token, at most sixteen.
#[inline(always)]
fn logits<S: Simd>(s: S, m: &[f32], factor: S::V, scale: f32, base: &[f32]) -> S::V {
    logit(s, s.load_partial(m, 0.0), factor, s.splat(scale), s.load_partial(base, 0.0))
}

/// `(m * factor) * scale + base`.
#[inline(always)]
fn logit<S: Simd>(s: S, m: S::V, factor: S::V, scale: S::V, base: S::V) -> S::V {
    s.add(s.mul(s.mul(m, factor), scale), base)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, s.exp(s.sub(s.splat(0.0), x))))
}
