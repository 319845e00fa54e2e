//! Numbers in safetensors files of our own: written whole or not at all, and read back.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use cuvier_tensor::{Dtype, Storage, Tensor};
use serde_json::{Map, Value, json};

use crate::safetensors::{HEADER_ALIGN, Header, PREFIX, known};
use crate::{StoredTensor, WeightsError};

/// Writes tensors in this order, under a temporary name that is renamed when the file is whole and on the disk.
/// `bytes_of` is asked once for the bytes of each, by its index.
///
/// # Errors
/// If bytes and shape of a tensor disagree, a name is there twice, or the disk refuses.
pub fn write_tensors<'a>(
    path: &Path,
    tensors: &[StoredTensor],
    bytes_of: impl Fn(usize) -> Cow<'a, [u8]>,
) -> Result<(), WeightsError> {
    let header = header(path, tensors)?;
    let part = path.with_extension("part");
    let result = write_part(&part, &header, tensors, bytes_of)
        .and_then(|()| fs::rename(&part, path).map_err(WeightsError::io(path, "renaming into place")));
    if result.is_err() {
        // The error already under way says more than a failure to clean up would.
        let _ = fs::remove_file(&part);
    }
    result
}

/// [`write_tensors`] of F32: name, shape and numbers.
///
/// # Errors
/// As [`write_tensors`].
pub fn write_f32_tensors(
    path: &Path,
    tensors: &[(String, Vec<usize>, Vec<f32>)],
) -> Result<(), WeightsError> {
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, shape, values) in tensors {
        if shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim)) != Some(values.len()) {
            return Err(wrong(path, name, format!("of shape {shape:?} has {} numbers", values.len())));
        }
        stored.push(StoredTensor { name: name.clone(), dtype: Dtype::F32, shape: shape.clone() });
    }
    write_tensors(path, &stored, |index| {
        let (_, _, values) = &tensors[index];
        Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    })
}

/// All tensors of a file, in the order of their bytes.
///
/// # Errors
/// If the file cannot be read, is not a safetensors file, or holds numbers of a dtype that no checkpoint has.
pub fn read_tensors(path: &Path) -> Result<Vec<(String, Tensor)>, WeightsError> {
    let file = path.display().to_string();
    let bytes = fs::read(path).map_err(WeightsError::io(path, "reading"))?;
    let header = Header::parse(&bytes, &file)?;
    let storage: Storage = Arc::new(bytes);
    let tensor = |entry: crate::HeaderEntry| {
        let Some(dtype) = known(entry.dtype) else {
            let (name, got) = (entry.name, entry.dtype.name().to_owned());
            return Err(WeightsError::Dtype {
                file: file.clone(),
                name,
                got,
                want: "a dtype of DeepSeek-V4",
            });
        };
        let tensor = Tensor::new(Arc::clone(&storage), entry.range, dtype, entry.shape)
            .map_err(|source| wrong(path, &entry.name, source.to_string()))?;
        Ok((entry.name, tensor))
    };
    header.entries.into_iter().map(tensor).collect()
}

fn write_part<'a>(
    part: &Path,
    header: &[u8],
    tensors: &[StoredTensor],
    bytes_of: impl Fn(usize) -> Cow<'a, [u8]>,
) -> Result<(), WeightsError> {
    let io = || WeightsError::io(part, "writing");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(part).map_err(io())?);
    out.write_all(header).map_err(io())?;
    for (index, tensor) in tensors.iter().enumerate() {
        let bytes = bytes_of(index);
        if bytes.len() != tensor.bytes() {
            let problem = format!("of shape {:?} has {} bytes", tensor.shape, bytes.len());
            return Err(wrong(part, &tensor.name, problem));
        }
        out.write_all(&bytes).map_err(io())?;
    }
    let file = out.into_inner().map_err(|error| io()(error.into_error()))?;
    file.sync_all().map_err(io())
}

fn header(path: &Path, tensors: &[StoredTensor]) -> Result<Vec<u8>, WeightsError> {
    let mut entries = Map::new();
    let mut start = 0;
    for tensor in tensors {
        let StoredTensor { name, dtype, shape } = tensor;
        let end = start + tensor.bytes();
        let entry = json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [start, end] });
        if name == "__metadata__" || entries.insert(name.clone(), entry).is_some() {
            let problem = "is there twice, or has a name of the format itself".to_owned();
            return Err(wrong(path, name, problem));
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

fn wrong(path: &Path, name: &str, problem: String) -> WeightsError {
    WeightsError::Entry { file: path.display().to_string(), name: name.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_with_the_same_bits_and_leave_no_other_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.safetensors");
        let values = vec![1.5, -0.0, f32::MIN_POSITIVE / 2.0, 3e38, f32::NAN, 7.0];
        let tensors = vec![
            ("w".to_owned(), vec![2, 3], values.clone()),
            ("empty \"name\"".to_owned(), vec![0, 4], vec![]),
        ];
        write_f32_tensors(&path, &tensors).expect("the disk takes it");
        let mut read = read_tensors(&path).expect("what was written");
        read.sort_by(|a, b| b.0.cmp(&a.0));
        assert_eq!(read[0].0, "w");
        assert_eq!(read[0].1.shape(), [2, 3]);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read[0].1.to_f32().expect("F32")), bits(&values));
        assert_eq!((read[1].0.as_str(), read[1].1.shape()), ("empty \"name\"", &[0_usize, 4][..]));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn bytes_that_are_not_those_of_the_shape_are_refused_and_nothing_is_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.safetensors");
        let tensors = [StoredTensor { name: "w".to_owned(), dtype: Dtype::BF16, shape: vec![3] }];
        let error = write_tensors(&path, &tensors, |_| Cow::Owned(vec![0; 5])).expect_err("five bytes");
        assert!(error.to_string().ends_with("tensor `w` of shape [3] has 5 bytes"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}
