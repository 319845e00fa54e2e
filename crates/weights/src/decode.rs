//! The numbers of a stored tensor, whatever the format.

use cuvier_tensor::formats::{FP4_BLOCK, FP8_WEIGHT_BLOCK, e2m1_to_f32, e4m3_to_f32};
use cuvier_tensor::{Tensor, WeightFormat};

use crate::{Checkpoint, WeightsError};

impl Checkpoint {
    /// The numbers of that official name in F32, row major: codes times scales where the format has them, which is exact
    /// for scales that are powers of two.
    ///
    /// # Errors
    /// If there is no such tensor, it is a table of experts, or a number is not finite.
    pub fn numbers(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let scaled = self.matrix(name);
        match scaled.as_ref().map(|matrix| matrix.format()) {
            Ok(WeightFormat::Fp8 { weight, scale }) => Ok(fp8(weight, scale)),
            Ok(WeightFormat::Fp4 { weight, scale }) => Ok(fp4(weight, scale)),
            // Vectors are no matrices; what is wrong with anything else is said there.
            _ => self.vector_f32(name),
        }
    }
}

fn fp8(weight: &Tensor, scale: &Tensor) -> Vec<f32> {
    let cols = weight.shape()[1];
    let scales = scale.to_f32().unwrap_or_default();
    let scales_per_row = scale.shape()[1];
    let number = |(i, &code): (usize, &u8)| {
        let (row, col) = (i / cols / FP8_WEIGHT_BLOCK, i % cols / FP8_WEIGHT_BLOCK);
        e4m3_to_f32(code) * scales[row * scales_per_row + col]
    };
    weight.bytes().iter().enumerate().map(number).collect()
}

fn fp4(weight: &Tensor, scale: &Tensor) -> Vec<f32> {
    let scales = scale.to_f32().unwrap_or_default();
    let pair = |(i, &byte): (usize, &u8)| {
        let scale = scales[2 * i / FP4_BLOCK];
        [e2m1_to_f32(byte & 15) * scale, e2m1_to_f32(byte >> 4) * scale]
    };
    weight.bytes().iter().enumerate().flat_map(pair).collect()
}
