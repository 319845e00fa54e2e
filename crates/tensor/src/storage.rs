//! A tensor as it lies in a file: bytes, a dtype and a shape.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// How the numbers of a tensor are stored. The names are those of safetensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision, little endian.
    F32,
    /// The upper half of a single, little endian.
    BF16,
    /// 8-bit float with 4 exponent and 3 mantissa bits, `fn` flavour: no infinity, largest value 448.
    F8E4M3,
    /// A power of two, `2^(byte - 127)`; 255 is not a number.
    F8E8M0,
    /// Two FP4 (E2M1) numbers per byte, the even one in the low nibble.
    I8,
    /// 64-bit signed integer, little endian.
    I64,
}

impl Dtype {
    /// Bytes per stored element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E8M0 | Self::I8 => 1,
            Self::I64 => 8,
        }
    }

    /// The name that safetensors headers use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E8M0 => "F8_E8M0",
            Self::I8 => "I8",
            Self::I64 => "I64",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Memory that lives as long as a tensor needs it: a mapped file, or a buffer.
pub type Storage = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Why bytes are not the tensor they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The byte range does not lie inside the storage.
    #[error("bytes {}..{} lie outside the {len} bytes that exist", range.start, range.end)]
    OutOfBounds {
        /// The range asked for.
        range: Range<usize>,
        /// Bytes that exist.
        len: usize,
    },
    /// The shape does not need exactly these bytes.
    #[error("shape {shape:?} of {dtype} does not take {bytes} bytes")]
    Size {
        /// The shape asked for.
        shape: Vec<usize>,
        /// The dtype asked for.
        dtype: Dtype,
        /// The bytes given.
        bytes: usize,
    },
    /// The parts of a weight matrix do not belong together.
    #[error("{part}: shape {got:?}, expected {want:?} (or another dtype)")]
    Format {
        /// Which part.
        part: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that would fit.
        want: Vec<usize>,
    },
}

/// Bytes with a dtype and a shape; cloning shares the bytes.
#[derive(Clone)]
pub struct Tensor {
    storage: Storage,
    range: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Tensor {
    /// A view of `range` in `storage`.
    ///
    /// # Errors
    /// If the range is out of bounds or does not hold exactly `shape` elements of `dtype`.
    pub fn new(
        storage: Storage,
        range: Range<usize>,
        dtype: Dtype,
        shape: Vec<usize>,
    ) -> Result<Self, TensorError> {
        let len = (*storage).as_ref().len();
        if range.start > range.end || range.end > len {
            return Err(TensorError::OutOfBounds { range, len });
        }
        let bytes = shape.iter().try_fold(dtype.size(), |product, &dim| product.checked_mul(dim));
        if bytes != Some(range.len()) {
            return Err(TensorError::Size { shape, dtype, bytes: range.len() });
        }
        Ok(Self { storage, range, dtype, shape })
    }

    /// A tensor that owns its bytes.
    ///
    /// # Errors
    /// If `bytes` does not hold exactly `shape` elements of `dtype`.
    pub fn from_bytes(bytes: Vec<u8>, dtype: Dtype, shape: Vec<usize>) -> Result<Self, TensorError> {
        let range = 0..bytes.len();
        Self::new(Arc::new(bytes), range, dtype, shape)
    }

    /// An f32 tensor that owns its numbers.
    ///
    /// # Panics
    /// If `values` does not hold exactly `shape` numbers.
    pub fn from_f32(values: &[f32], shape: Vec<usize>) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::from_bytes(bytes, Dtype::F32, shape).expect("the caller's shape fits the caller's numbers")
    }

    /// The stored bytes, row major.
    pub fn bytes(&self) -> &[u8] {
        &(*self.storage).as_ref()[self.range.clone()]
    }

    /// How the bytes are to be read.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Stored elements per axis. Packed FP4 counts bytes, not numbers, on its last axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The rows `rows` of the first axis, sharing the bytes.
    ///
    /// # Panics
    /// If the tensor has no first axis or the rows do not exist.
    pub fn slice_rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.shape[0], "rows {rows:?} of {:?}", self.shape);
        let row_bytes = self.shape[1..].iter().product::<usize>() * self.dtype.size();
        let start = self.range.start + rows.start * row_bytes;
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        Self {
            storage: Arc::clone(&self.storage),
            range: start..start + rows.len() * row_bytes,
            dtype: self.dtype,
            shape,
        }
    }

    /// All numbers as f32, exact, for the dtypes that are numbers by themselves (F32, BF16, F8_E4M3, F8_E8M0).
    /// Returns `None` for the others.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        use crate::formats::{bf16_to_f32, e4m3_to_f32, e8m0_to_f32};
        let bytes = self.bytes();
        Some(match self.dtype {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::BF16 => {
                bytes.as_chunks::<2>().0.iter().map(|&b| bf16_to_f32(u16::from_le_bytes(b))).collect()
            }
            Dtype::F8E4M3 => bytes.iter().map(|&b| e4m3_to_f32(b)).collect(),
            Dtype::F8E8M0 => bytes.iter().map(|&b| e8m0_to_f32(b)).collect(),
            Dtype::I8 | Dtype::I64 => return None,
        })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape)
    }
}
