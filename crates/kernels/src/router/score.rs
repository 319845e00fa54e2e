//! The score of a logit.

use crate::simd::Simd;

/// `sqrt(ln(1 + e^z))`, within three units in the last place; below -87, where it is 1e-19 and less, it falls to 0
/// until -88. NaN stays NaN.
///
/// `ln(1 + e^z) = max(z, 0) + ln(1 + t)` with `t = e^-|z|`, and `ln(1 + t) = 2 atanh(u)` with `u = t / (2 + t)`, at
/// most 1/3: the series `2 u (1 + u²/3 + u⁴/5 + ...)` to the eighth term, whose remainder is below 2^-29.
#[inline(always)]
pub(super) fn score<S: Simd>(s: S, z: S::V) -> S::V {
    const COEFFICIENTS: [f32; 8] =
        [1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
    let (zero, two) = (s.splat(0.0), s.splat(2.0));
    let t = s.exp(s.min(z, s.sub(zero, z)));
    let u = s.div(t, s.add(two, t));
    let square = s.mul(u, u);
    let mut p = s.splat(COEFFICIENTS[0]);
    for &c in &COEFFICIENTS[1..] {
        p = s.fma(p, square, s.splat(c));
    }
    let root = s.sqrt(s.fma(s.mul(two, u), p, s.max(zero, z)));
    // One above -87, where the exponential stops falling.
    let kept = s.min(s.splat(1.0), s.max(zero, s.add(z, s.splat(88.0))));
    s.mul(root, kept)
}
