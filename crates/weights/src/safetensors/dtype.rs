//! The dtypes that safetensors files may hold, of which a V4 checkpoint uses six.

use cuvier_tensor::Dtype;

/// A dtype of the format: one that the model reads, or one that a file may hold beside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredDtype {
    name: &'static str,
    bits: u64,
}

/// Every dtype of the format, with its bits per element.
const DTYPES: [StoredDtype; 20] = [
    stored("F32", 32),
    stored("BF16", 16),
    stored("F8_E4M3", 8),
    stored("F8_E8M0", 8),
    stored("I8", 8),
    stored("I64", 64),
    stored("BOOL", 8),
    stored("F4", 4),
    stored("F6_E2M3", 6),
    stored("F6_E3M2", 6),
    stored("U8", 8),
    stored("F8_E5M2", 8),
    stored("I16", 16),
    stored("U16", 16),
    stored("F16", 16),
    stored("I32", 32),
    stored("U32", 32),
    stored("F64", 64),
    stored("U64", 64),
    stored("C64", 64),
];

const fn stored(name: &'static str, bits: u64) -> StoredDtype {
    StoredDtype { name, bits }
}

impl StoredDtype {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        DTYPES.into_iter().find(|dtype| dtype.name == name)
    }

    pub(crate) fn name(self) -> &'static str {
        self.name
    }

    pub(crate) fn bits(self) -> u64 {
        self.bits
    }
}

/// The dtype as the model knows it, if it does.
pub(crate) fn known(dtype: StoredDtype) -> Option<Dtype> {
    [Dtype::F32, Dtype::BF16, Dtype::F8E4M3, Dtype::F8E8M0, Dtype::I8, Dtype::I64]
        .into_iter()
        .find(|known| known.name() == dtype.name)
}
