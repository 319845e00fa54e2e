//! The numbers of a stored tensor, whatever the format.

use cuvier_tensor::formats::{FP4_BLOCK, FP8_WEIGHT_BLOCK, e2m1_to_f32, e4m3_to_f32, e8m0_to_f32};
use cuvier_tensor::{Dtype, WeightFormat};

use crate::{Checkpoint, WeightsError, encode};

impl Checkpoint {
    /// The numbers of that official name in F32, row major: codes times scales where the format has them, which is exact
    /// for scales that are powers of two.
    ///
    /// # Errors
    /// If there is no such tensor, it is a table of experts, or a number is not finite.
    pub fn numbers(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let scaled = self.matrix(name);
        match scaled.as_ref().map(|matrix| matrix.format()) {
            Ok(WeightFormat::Fp8 { weight, scale }) => {
                Ok(fp8(weight.bytes(), &scale.to_f32().unwrap_or_default(), weight.shape()[1]))
            }
            Ok(WeightFormat::Fp4 { weight, scale }) => {
                Ok(fp4(weight.bytes(), &scale.to_f32().unwrap_or_default()))
            }
            // Vectors are no matrices; what is wrong with anything else is said there.
            _ => self.vector_f32(name),
        }
    }
}

/// Numbers of E4M3 codes in rows of `cols`, and a scale for each block of 128 rows and columns.
fn fp8(codes: &[u8], scales: &[f32], cols: usize) -> Vec<f32> {
    let scales_per_row = cols.div_ceil(FP8_WEIGHT_BLOCK);
    let number = |(i, &code): (usize, &u8)| {
        let (row, col) = (i / cols / FP8_WEIGHT_BLOCK, i % cols / FP8_WEIGHT_BLOCK);
        e4m3_to_f32(code) * scales[row * scales_per_row + col]
    };
    codes.iter().enumerate().map(number).collect()
}

/// Numbers of E2M1 codes, two per byte, and a scale for each 32 of them.
fn fp4(codes: &[u8], scales: &[f32]) -> Vec<f32> {
    let pair = |(i, &byte): (usize, &u8)| {
        let scale = scales[2 * i / FP4_BLOCK];
        [e2m1_to_f32(byte & 15) * scale, e2m1_to_f32(byte >> 4) * scale]
    };
    codes.iter().enumerate().flat_map(pair).collect()
}

/// The numbers that a release gives back for a matrix with rows of `cols`, if it stores it as `dtype` with UE8M0 scales:
/// E2M1 (`I8`) or E4M3. Any other dtype gives them back as they are.
///
/// # Panics
/// If rows of FP4 are not whole blocks of 32 columns.
pub fn given_back(numbers: &[f32], cols: usize, dtype: Dtype) -> Vec<f32> {
    let scales = |bytes: &[u8]| bytes.iter().copied().map(e8m0_to_f32).collect::<Vec<_>>();
    match dtype {
        Dtype::I8 => {
            assert!(cols.is_multiple_of(FP4_BLOCK), "{cols} columns are whole blocks");
            let (codes, scale) = encode::fp4(numbers);
            fp4(&codes, &scales(&scale))
        }
        Dtype::F8E4M3 => {
            let (codes, scale) = encode::fp8(numbers, cols, Dtype::F8E8M0);
            fp8(&codes, &scales(&scale), cols)
        }
        _ => numbers.to_vec(),
    }
}
