//! The header of a file to be written.

use std::fmt::Write as _;

use crate::inventory::StoredTensor;
use crate::safetensors::PREFIX;

/// Tensors begin at a multiple of this in the file, and so in mapped memory.
pub(crate) const HEADER_ALIGN: usize = 64;

/// Length, JSON and padding for `tensors`, whose bytes follow in this order without gaps.
pub(crate) fn header_bytes(tensors: &[StoredTensor]) -> Vec<u8> {
    let mut json = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes();
        // Names are made of letters, digits, dots and underscores: nothing to escape. Writing to a string
        // cannot fail.
        let _ = write!(
            json,
            ",\"{}\":{{\"dtype\":\"{}\",\"shape\":{:?},\"data_offsets\":[{offset},{end}]}}",
            tensor.name, tensor.dtype, tensor.shape
        );
        offset = end;
    }
    json.push('}');
    let padded = (PREFIX + json.len()).next_multiple_of(HEADER_ALIGN) - PREFIX;
    json.extend(std::iter::repeat_n(' ', padded - json.len()));
    let mut bytes = (padded as u64).to_le_bytes().to_vec();
    bytes.extend(json.into_bytes());
    bytes
}
