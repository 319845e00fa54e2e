//! The meaning of the products, in plain loops.

use cuvier_tensor::formats::{E2M1_VALUES, e8m0_to_f32};
use cuvier_tensor::{WeightFormat, WeightMatrix};

use crate::QuantisedRows;

/// `out[t, r]` as the module says.
pub(crate) fn product(x: &QuantisedRows, w: &WeightMatrix) -> Vec<f32> {
    let mut out = Vec::new();
    for t in 0..x.rows() {
        for row in 0..w.rows() {
            let mut acc = 0.0f32;
            for (block, (codes, &scale)) in x.codes(t).iter().zip(x.scales(t)).enumerate() {
                let (sum, unit) = block_sum(w, row, block, codes);
                acc = (sum as f32).mul_add(unit * scale, acc);
            }
            out.push(acc);
        }
    }
    out
}

/// `S` of one block, and what a unit of it is worth.
fn block_sum(w: &WeightMatrix, row: usize, block: usize, codes: &[i8; 128]) -> (i32, f32) {
    let WeightFormat::Fp4 { weight, scale } = w.format() else { panic!("not FP4") };
    let n = w.cols() / 32;
    let scales = &scale.bytes()[row * n..][4 * block..n.min(4 * block + 4)];
    let largest = *scales.iter().max().expect("a block has scales");
    let mut sum = 0;
    for (i, &byte) in scales.iter().enumerate() {
        let d = u32::from(largest - byte);
        let m = if d <= 13 { 1 << (13 - d) } else { 0 };
        for column in 32 * i..32 * i + 32 {
            let byte = weight.bytes()[row * w.cols() / 2 + 64 * block + column / 2];
            let code = byte >> (4 * (column % 2)) & 0xF;
            let weight = (2.0 * E2M1_VALUES[usize::from(code)]) as i32;
            sum += m * weight * i32::from(codes[column % 2 * 64 + column / 2]);
        }
    }
    (sum, e8m0_to_f32(largest) / 2.0 / 8192.0)
}
