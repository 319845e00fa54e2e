//! Truths recorded by `fixtures/modules/make.py`.

use cuvier_tensor::Matrix;
use serde_json::Value;

/// The tensors of one file of `fixtures/modules`.
pub(crate) struct Fixture {
    header: Value,
    data: Vec<u8>,
}

impl Fixture {
    /// Reads `fixtures/modules/{name}.safetensors`.
    pub(crate) fn read(name: &str) -> Self {
        let path = format!("{}/../../fixtures/modules/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (len, rest) = bytes.split_first_chunk::<8>().expect("a length comes first");
        let len = usize::try_from(u64::from_le_bytes(*len)).expect("a header fits into memory");
        let header = serde_json::from_slice(&rest[..len]).expect("the header is JSON");
        Self { header, data: rest[len..].to_vec() }
    }

    /// The numbers of an F32 tensor.
    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name, "F32");
        bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    /// An F32 tensor as rows of its last axis.
    pub(crate) fn matrix(&self, name: &str) -> Matrix {
        let cols = self.shape(name).last().copied().expect("a tensor with an axis");
        Matrix::from_vec(self.f32(name), cols)
    }

    /// The numbers of an I32 tensor.
    pub(crate) fn i32(&self, name: &str) -> Vec<i32> {
        let bytes = self.bytes(name, "I32");
        bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect()
    }

    /// The numbers of an I64 tensor.
    pub(crate) fn i64(&self, name: &str) -> Vec<i64> {
        let bytes = self.bytes(name, "I64");
        bytes.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect()
    }

    /// The length of each axis.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        numbers(&self.header[name]["shape"])
    }

    /// The bytes of a tensor of `dtype`.
    pub(crate) fn bytes(&self, name: &str, dtype: &str) -> &[u8] {
        assert_eq!(self.header[name]["dtype"], dtype, "{name}");
        let range = numbers(&self.header[name]["data_offsets"]);
        &self.data[range[0]..range[1]]
    }
}

fn numbers(list: &Value) -> Vec<usize> {
    let list = list.as_array().expect("a list");
    list.iter().map(|n| usize::try_from(n.as_u64().expect("a count")).expect("a count")).collect()
}
