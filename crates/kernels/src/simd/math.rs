//! Functions of vectors that are the same sequence of [`Simd`] operations everywhere.

use super::{LANES, Simd};

/// See [`Simd::exp`]: `e^a = 2^n * e^r` with `n = round(a / ln 2)`, `|r| <= ln 2 / 2`, and a polynomial for `e^r`
/// (the Taylor series to degree 7, whose remainder there is below 2^-27).
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, a: S::V) -> S::V {
    const LN2_HIGH: f32 = 0.693_359_4; // exact in few bits, so that n * LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 8] =
        [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    // `max` and `min` hand back their second argument for NaN; keep NaN by clamping `a` last.
    let x = s.min(s.splat(88.0), s.max(s.splat(-87.0), a));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(COEFFICIENTS[0]);
    for &c in &COEFFICIENTS[1..] {
        p = s.fma(p, r, s.splat(c));
    }
    s.mul(p, s.exp2_integral(n))
}

/// See [`Simd::dot`].
#[inline(always)]
pub(super) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    let mut sum = s.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = s.fma(s.load(a), s.load(b), sum);
    }
    if !a_tail.is_empty() {
        sum = s.fma(s.load_partial(a_tail, 0.0), s.load_partial(b_tail, 0.0), sum);
    }
    s.sum(sum)
}
