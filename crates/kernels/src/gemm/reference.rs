//! The meaning of the products: plain loops over decoded weights, in f64.

use cuvier_tensor::formats::{bf16_to_f32, e2m1_to_f32, e4m3_to_f32, e8m0_to_f32};
use cuvier_tensor::{Dtype, MatRef, Tensor, WeightFormat, WeightMatrix};

/// `out[t, g * rank + r] = sum over i of w[g * rank + r, i] * x[t * groups + g, i]`, and the same sum over magnitudes.
pub(crate) fn gemm_grouped(x: MatRef<'_>, w: &WeightMatrix, groups: usize) -> Vec<(f64, f64)> {
    let rank = w.rows() / groups;
    let mut out = Vec::new();
    for t in 0..x.rows() / groups {
        for row in 0..w.rows() {
            let x = x.row(t * groups + row / rank);
            let products = || (0..w.cols()).map(|i| f64::from(weight(w, row, i)) * f64::from(x[i]));
            out.push((products().sum(), products().map(f64::abs).sum()));
        }
    }
    out
}

/// The number that a stored weight stands for.
pub(crate) fn weight(w: &WeightMatrix, row: usize, col: usize) -> f32 {
    let at = row * w.cols() + col;
    match w.format() {
        WeightFormat::F32(weight) => f32_at(weight, at),
        WeightFormat::Bf16(weight) => {
            bf16_to_f32(u16::from_le_bytes([weight.bytes()[2 * at], weight.bytes()[2 * at + 1]]))
        }
        WeightFormat::Fp8 { weight, scale } => {
            let block = row / 128 * w.cols().div_ceil(128) + col / 128;
            let scale = match scale.dtype() {
                Dtype::F32 => f32_at(scale, block),
                _ => e8m0_to_f32(scale.bytes()[block]),
            };
            e4m3_to_f32(weight.bytes()[at]) * scale
        }
        WeightFormat::Fp4 { weight, scale } => {
            let code = weight.bytes()[at / 2] >> (4 * (at % 2));
            e2m1_to_f32(code) * e8m0_to_f32(scale.bytes()[at / 32])
        }
    }
}

fn f32_at(tensor: &Tensor, at: usize) -> f32 {
    f32::from_le_bytes(tensor.bytes()[4 * at..][..4].try_into().expect("four bytes"))
}
