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

/// How far eight-bit activations, and eight-bit codes of FP8 weights, may move the product of row `row` with numbers
/// of the magnitudes `x`: half a step each. 0 for other formats.
pub(crate) fn eight_bit_error(w: &WeightMatrix, row: usize, x: &[f64]) -> f64 {
    if matches!(w.format(), WeightFormat::F32(_) | WeightFormat::Bf16(_)) {
        return 0.0;
    }
    let is_fp8 = matches!(w.format(), WeightFormat::Fp8 { .. });
    let mut error = 0.0;
    for (block, x) in x.chunks(128).enumerate() {
        let w: Vec<f64> = (0..x.len()).map(|i| f64::from(weight(w, row, block * 128 + i)).abs()).collect();
        let largest = |numbers: &[f64]| numbers.iter().fold(0.0, |a: f64, &b| a.max(b));
        let x_step = largest(x) / 127.0;
        // The unit of codes is at most 2^-6 of the largest number.
        let w_step = if is_fp8 { largest(&w) / 64.0 } else { 0.0 };
        let (w_sum, x_sum) = (w.iter().sum::<f64>(), x.iter().sum::<f64>());
        error += 0.5001 * (x_step * w_sum + w_step * x_sum) + 0.2501 * x_step * w_step * x.len() as f64;
    }
    error
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
        WeightFormat::Int8(_) => panic!("no stored weight"),
    }
}

fn f32_at(tensor: &Tensor, at: usize) -> f32 {
    f32::from_le_bytes(tensor.bytes()[4 * at..][..4].try_into().expect("four bytes"))
}
