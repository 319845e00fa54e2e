//! Numbers for others to read: a safetensors file of f32 tensors.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::WeightsError;
use crate::safetensors::{HEADER_ALIGN, PREFIX};

/// Writes tensors (name, shape, numbers) as F32, in this order, under a temporary name that is renamed when the
/// file is whole.
///
/// # Errors
/// If numbers and shape of a tensor disagree, a name is there twice, or the disk refuses.
pub fn write_f32_tensors(
    path: &Path,
    tensors: &[(String, Vec<usize>, Vec<f32>)],
) -> Result<(), WeightsError> {
    let header = header(path, tensors)?;
    let part = path.with_extension("part");
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&part)?);
        out.write_all(&header)?;
        for (_, _, values) in tensors {
            for value in values {
                out.write_all(&value.to_le_bytes())?;
            }
        }
        out.flush()?;
        fs::rename(&part, path)
    };
    write().map_err(WeightsError::io(path, "writing"))
}

fn header(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Result<Vec<u8>, WeightsError> {
    let wrong = |name: &str, problem: String| WeightsError::Entry {
        file: path.display().to_string(),
        name: name.to_owned(),
        problem,
    };
    let mut entries = Map::new();
    let mut start = 0;
    for (name, shape, values) in tensors {
        if shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim)) != Some(values.len()) {
            return Err(wrong(name, format!("of shape {shape:?} has {} numbers", values.len())));
        }
        let end = start + 4 * values.len();
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
        if name == "__metadata__" || entries.insert(name.clone(), entry).is_some() {
            return Err(wrong(name, "is there twice, or has a name of the format itself".to_owned()));
        }
        start = end;
    }
    let mut json = Value::Object(entries).to_string();
    let padded = (PREFIX + json.len()).next_multiple_of(HEADER_ALIGN) - PREFIX;
    json.extend(std::iter::repeat_n(' ', padded - json.len()));
    let mut bytes = (padded as u64).to_le_bytes().to_vec();
    bytes.extend(json.into_bytes());
    Ok(bytes)
}
