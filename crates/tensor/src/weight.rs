//! A weight matrix as the checkpoint stores it, bytes and the scales that give them meaning, or as products like it.

use std::sync::Arc;

use crate::formats::{FP4_BLOCK, FP8_WEIGHT_BLOCK};
use crate::{Dtype, Int8Panel, Tensor, TensorError, panels_of};

/// A matrix `[rows, cols]` = `[out, in]` in one of the formats of released checkpoints, or in panels made of one.
#[derive(Clone, Debug)]
pub struct WeightMatrix {
    rows: usize,
    cols: usize,
    format: WeightFormat,
}

/// The stored form of a [`WeightMatrix`].
#[derive(Clone, Debug)]
pub enum WeightFormat {
    /// F32 `[out, in]`.
    F32(Tensor),
    /// BF16 `[out, in]`.
    Bf16(Tensor),
    /// E4M3 with one scale per 128x128 block: value times scale.
    Fp8 {
        /// F8_E4M3 `[out, in]`.
        weight: Tensor,
        /// F8_E8M0 or F32 `[ceil(out / 128), ceil(in / 128)]`.
        scale: Tensor,
    },
    /// E2M1, two per byte with the even column in the low nibble, one scale per 32 columns: value times scale.
    Fp4 {
        /// I8 `[out, in / 2]`.
        weight: Tensor,
        /// F8_E8M0 `[out, in / 32]`.
        scale: Tensor,
    },
    /// Eight-bit integers, `[ceil(out / 16), ceil(in / 128)]` panels. No file has them.
    Int8(Arc<Vec<Int8Panel>>),
}

impl WeightMatrix {
    /// Checks that dtypes and shapes belong together.
    ///
    /// # Errors
    /// [`TensorError::Format`] names the part that does not fit.
    pub fn new(format: WeightFormat) -> Result<Self, TensorError> {
        let (rows, cols) = match &format {
            WeightFormat::F32(weight) => matrix_shape(weight, Dtype::F32)?,
            WeightFormat::Bf16(weight) => matrix_shape(weight, Dtype::BF16)?,
            WeightFormat::Fp8 { weight, scale } => {
                let (rows, cols) = matrix_shape(weight, Dtype::F8E4M3)?;
                let dtype = if scale.dtype() == Dtype::F32 { Dtype::F32 } else { Dtype::F8E8M0 };
                let want = [rows.div_ceil(FP8_WEIGHT_BLOCK), cols.div_ceil(FP8_WEIGHT_BLOCK)];
                expect(scale, dtype, &want, "FP8 scale")?;
                (rows, cols)
            }
            WeightFormat::Fp4 { weight, scale } => {
                let (rows, bytes) = matrix_shape(weight, Dtype::I8)?;
                let cols = bytes * 2;
                if !cols.is_multiple_of(FP4_BLOCK) {
                    return Err(TensorError::Format {
                        part: "FP4 weight",
                        got: weight.shape().to_vec(),
                        want: vec![rows, cols.next_multiple_of(FP4_BLOCK) / 2],
                    });
                }
                expect(scale, Dtype::F8E8M0, &[rows, cols / FP4_BLOCK], "FP4 scale")?;
                (rows, cols)
            }
            WeightFormat::Int8(panels) => {
                return Err(TensorError::Format { part: "panels", got: vec![panels.len()], want: vec![] });
            }
        };
        Ok(Self { rows, cols, format })
    }

    /// A matrix of f32 numbers in memory, `[rows, cols]`.
    ///
    /// # Panics
    /// If `values` does not hold `rows * cols` numbers.
    pub fn from_f32(values: &[f32], rows: usize, cols: usize) -> Self {
        Self { rows, cols, format: WeightFormat::F32(Tensor::from_f32(values, vec![rows, cols])) }
    }

    /// A matrix of eight-bit integers, `[rows, cols]`.
    ///
    /// # Panics
    /// If the panels are not those of that shape.
    pub fn from_panels(panels: Vec<Int8Panel>, rows: usize, cols: usize) -> Self {
        assert_eq!(panels.len(), panels_of(rows, cols), "panels of {rows} rows and {cols} columns");
        Self { rows, cols, format: WeightFormat::Int8(Arc::new(panels)) }
    }

    /// The shape of a matrix whose numbers are elsewhere. It stands for it until they are needed: no operation takes it.
    pub fn outline(rows: usize, cols: usize) -> Self {
        Self { rows, cols, format: WeightFormat::Int8(Arc::new(Vec::new())) }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The stored form.
    pub fn format(&self) -> &WeightFormat {
        &self.format
    }

    /// Bytes of weights and scales.
    pub fn bytes(&self) -> usize {
        match &self.format {
            WeightFormat::F32(weight) | WeightFormat::Bf16(weight) => weight.bytes().len(),
            WeightFormat::Fp8 { weight, scale } | WeightFormat::Fp4 { weight, scale } => {
                weight.bytes().len() + scale.bytes().len()
            }
            WeightFormat::Int8(panels) => size_of_val(&panels[..]),
        }
    }
}

fn matrix_shape(weight: &Tensor, dtype: Dtype) -> Result<(usize, usize), TensorError> {
    match *weight.shape() {
        [rows, cols] if weight.dtype() == dtype => Ok((rows, cols)),
        _ => Err(TensorError::Format { part: "weight", got: weight.shape().to_vec(), want: vec![] }),
    }
}

fn expect(tensor: &Tensor, dtype: Dtype, shape: &[usize], part: &'static str) -> Result<(), TensorError> {
    if tensor.dtype() != dtype || tensor.shape() != shape {
        return Err(TensorError::Format { part, got: tensor.shape().to_vec(), want: shape.to_vec() });
    }
    Ok(())
}
