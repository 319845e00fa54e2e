use cuvier_tensor::Matrix;

use super::*;
use crate::testing::{U, assert_within, awkward_lengths, everywhere, uniform};

/// `exp` is off by four times `U` at most, each of the sum, the quotient and the product by one more; one for terms
/// of second order. Below -87 `exp(-g)` stops growing, so that `silu` is up to `|g| / exp(87)` instead of less.
pub(crate) fn bound(exact: f64, gate: f64, limit: f64) -> f64 {
    8.0 * U * exact.abs() + gate.abs() * limit * (-87f64).exp()
}

fn run(c: &Compute, gate: &Matrix, up: &Matrix, limit: f32) -> Vec<f32> {
    let mut out = Matrix::from_vec(vec![f32::NAN; gate.data().len()], gate.cols());
    swiglu(c, gate.view(), up.view(), limit, out.view_mut());
    out.into_vec()
}

fn check(gate: Matrix, up: Matrix, limit: f32, what: &str) {
    let got = everywhere(|c| run(c, &gate, &up, limit));
    let exact = gate.data().iter().zip(up.data()).map(|(&g, &u)| {
        let (g, u, limit) = (f64::from(g), f64::from(u), f64::from(limit));
        let exact = reference::swiglu(g, u, limit);
        (exact, bound(exact, g, limit))
    });
    assert_within(&got, exact, what);
}

#[test]
fn swiglu_stays_within_its_bound_with_clamps_active_at_every_length() {
    for cols in awkward_lengths() {
        let drawn = |seed| uniform(3 * cols, seed).into_iter().map(|x| x * 20.0).collect();
        let (gate, up) = (Matrix::from_vec(drawn(1), cols), Matrix::from_vec(drawn(2), cols));
        check(gate, up, 10.0, &format!("{cols} columns"));
    }
}

#[test]
fn a_gate_is_clamped_from_above_only_and_an_up_on_both_sides() {
    let gate = vec![50.0, -50.0, 10.0, 0.0, -0.0, -1e30, 1e30, -200.0];
    let up = vec![50.0, -50.0, 10.0, 3.0, 3.0, 1e30, -1e30, 1.0];
    check(Matrix::from_vec(gate, 8), Matrix::from_vec(up, 8), 10.0, "extremes");
}

#[test]
fn nan_is_not_hidden_by_a_clamp() {
    for (gate, up) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
        let (gate, up) = (Matrix::from_vec(vec![gate; 17], 17), Matrix::from_vec(vec![up; 17], 17));
        let c = Compute::new(crate::Isa::best(), std::num::NonZeroUsize::MIN).expect("one thread");
        assert!(run(&c, &gate, &up, 10.0).iter().all(|x| x.is_nan()));
    }
}
