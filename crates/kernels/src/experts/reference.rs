//! The meaning of a mixture of experts: one token, one expert after the other, in f64.

use cuvier_tensor::{MatRef, Matrix, WeightMatrix};

use super::ExpertWeights;
use crate::gemm::reference::{eight_bit_error, weight};
use crate::gemm::tests::bound as gemm_bound;
use crate::swiglu::{reference as activation, tests::bound as swiglu_bound};
use crate::testing::U;

/// A number and how far a computation in f32 may be from it.
type Near = (f64, f64);

/// The exact outputs, and the error that the operation's contract allows.
pub(super) fn experts(
    x: MatRef<'_>,
    ids: &Matrix<u16>,
    weights: &Matrix<f32>,
    experts: &[ExpertWeights],
    limit: f32,
) -> Vec<Near> {
    let mut out = Vec::new();
    for t in 0..x.rows() {
        let x: Vec<Near> = x.row(t).iter().map(|&x| (f64::from(x), 0.0)).collect();
        let mut sum = vec![(0.0, 0.0); x.len()];
        for (&id, &weight) in ids.row(t).iter().zip(weights.row(t)) {
            let expert = &experts[usize::from(id)];
            let (gate, up) = (multiply(&expert.w1, &x), multiply(&expert.w3, &x));
            let hidden: Vec<Near> =
                gate.iter().zip(&up).map(|(&g, &u)| activate(g, u, limit, weight)).collect();
            for (sum, y) in sum.iter_mut().zip(multiply(&expert.w2, &hidden)) {
                // Each addition rounds a partial sum; they are bounded by the sum of magnitudes so far.
                sum.0 += y.0;
                sum.1 += y.1 + 2.0 * ids.cols() as f64 * U * (y.0.abs() + y.1);
            }
        }
        out.extend(sum);
    }
    out
}

/// `w x`; errors of `x` come on top of those of the product.
fn multiply(w: &WeightMatrix, x: &[Near]) -> Vec<Near> {
    let row = |row| {
        let (mut sum, mut magnitudes, mut inherited) = (0.0, 0.0, 0.0);
        for (i, &(x, error)) in x.iter().enumerate() {
            let w = f64::from(weight(w, row, i));
            sum += w * x;
            magnitudes += (w * x).abs() + (w * error).abs();
            inherited += (w * error).abs();
        }
        let largest: Vec<f64> = x.iter().map(|&(x, error)| x.abs() + error).collect();
        (sum, inherited + gemm_bound(x.len(), 1.02 * magnitudes) + eight_bit_error(w, row, &largest))
    };
    (0..w.rows()).map(row).collect()
}

/// `weight * swiglu(gate, up)`; the slope of `silu` is at most 1.1 and that of a clamp 1.
fn activate(gate: Near, up: Near, limit: f32, weight: f32) -> Near {
    let (limit, weight) = (f64::from(limit), f64::from(weight));
    let exact = activation::swiglu(gate.0, up.0, limit);
    let silu = activation::swiglu(gate.0, limit, limit).abs() / limit;
    let inherited = 1.1 * gate.1 * (up.0.abs().min(limit) + up.1) + silu * up.1;
    let error = inherited + swiglu_bound(exact.abs() + inherited, gate.0, limit);
    (weight * exact, weight.abs() * error + U * weight.abs() * (exact.abs() + error))
}
