use super::streams::Collapse;
use cuvier_tensor::Matrix;

use super::*;
use crate::testing::{Fixture, U, assert_within, everywhere, scalar, uniform};

mod expand_gradient;
mod mix;
mod mix_gradient;
mod square;
mod square_gradient;
mod streams;

/// The constants of the released models, for `hc_mult` streams.
fn config(hc_mult: usize) -> HcConfig {
    HcConfig { hc_mult, sinkhorn_iters: 20, hc_eps: 1e-6, norm_eps: 1e-6 }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}

/// The same sums with magnitudes for terms: what errors are measured against.
fn magnitudes(numbers: &[f64]) -> Vec<f64> {
    numbers.iter().map(|x| x.abs()).collect()
}

/// The streams summed, before the norm.
fn collapse(c: &Compute, streams: &Matrix, pre: &Matrix) -> Vec<f32> {
    let mut out = Matrix::zeros(streams.rows(), streams.cols() / pre.cols());
    for row in 0..streams.rows() {
        let (streams, pre) = (streams.row(row), pre.row(row));
        c.isa().dispatch(Collapse { streams, pre, out: out.row_mut(row) });
    }
    out.into_vec()
}

/// How far a computed square may be from the exact one, relatively, when every logit is off by at most `logit`.
///
/// Seen in logarithms, the entries before the loop are off by `first`: the logit and the largest one, and ten
/// roundings, four of them the exponential's. Each half step divides by sums of n entries and eps; it does not enlarge the spread of the errors
/// that the divisors have, but adds that of the entries and n + 2 roundings of its own, on both sides.
fn square_bound(n: usize, iters: usize, logit: f64) -> f64 {
    let first = 2.0 * logit + 10.0 * U;
    (2 * iters) as f64 * 2.0 * (first + (n + 2) as f64 * U)
}
