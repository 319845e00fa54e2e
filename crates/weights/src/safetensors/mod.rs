//! The header of a safetensors file: which tensor lies where.
//!
//! Parsed here rather than by the `safetensors` crate, which keeps the last of two entries of one name, and
//! whose errors do not say which tensor is at fault.

mod dtype;
mod writer;

#[cfg(test)]
mod tests;

use std::ops::Range;

use serde::Deserialize;

use crate::WeightsError;
use crate::unique_map::UniqueMap;

pub(crate) use dtype::{StoredDtype, known};
pub(crate) use writer::{HEADER_ALIGN, header_bytes};

/// The length limit of the format itself. It bounds what a header can make us allocate.
pub(crate) const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Bytes before the header: its length.
pub(crate) const PREFIX: usize = 8;
/// More axes than any tensor of any checkpoint.
const AXES_MAX: usize = 8;

/// A parsed header: entries in the order of their bytes, which they tile without gap or overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// One per tensor.
    pub entries: Vec<HeaderEntry>,
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderEntry {
    /// The name as stored.
    pub name: String,
    pub(crate) dtype: StoredDtype,
    /// Elements per axis.
    pub shape: Vec<usize>,
    /// Its bytes, from the start of the file.
    pub range: Range<usize>,
}

impl HeaderEntry {
    /// The name of its dtype, as stored.
    pub fn dtype_name(&self) -> &'static str {
        self.dtype.name()
    }
}

impl Header {
    /// Reads the header of a whole file in memory. `file` is what errors call it.
    ///
    /// # Errors
    /// If the header is not one, or its tensors do not tile the rest of the file.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, WeightsError> {
        Self::parse_head(bytes, bytes.len() as u64, file)
    }

    /// Bytes of a file that [`parse_head`](Self::parse_head) needs, told from its first eight: so a reader knows how much
    /// to fetch, and that it is bounded.
    ///
    /// # Errors
    /// If they announce a longer header than the format allows.
    pub fn head_bytes(prefix: [u8; PREFIX], file: &str) -> Result<u64, WeightsError> {
        let length = u64::from_le_bytes(prefix);
        if length > HEADER_BYTES_MAX {
            let problem = format!("header of {length} bytes exceeds the limit of {HEADER_BYTES_MAX}");
            return Err(WeightsError::Header { file: file.to_owned(), problem });
        }
        Ok(PREFIX as u64 + length)
    }

    /// Reads the header of a file of `file_bytes` from its first bytes alone, be they [`head_bytes`](Self::head_bytes) or
    /// more.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_head(head: &[u8], file_bytes: u64, file: &str) -> Result<Self, WeightsError> {
        let broken = |problem: String| WeightsError::Header { file: file.to_owned(), problem };
        let Some((prefix, rest)) = head.split_first_chunk::<PREFIX>() else {
            return Err(broken(format!("is {} bytes long, too short for a safetensors file", head.len())));
        };
        let json_end = Self::head_bytes(*prefix, file)?;
        // Both below the limit of a header, so the casts are exact.
        let length = (json_end as usize) - PREFIX;
        let (Some(json), Some(data_len)) = (rest.get(..length), file_bytes.checked_sub(json_end)) else {
            return Err(broken(format!("header of {length} bytes, but only {} follow", rest.len())));
        };
        let data_len =
            usize::try_from(data_len).map_err(|_| broken("is too long for this machine".into()))?;
        let raw: UniqueMap<RawEntry> = serde_json::from_slice(json)
            .map_err(|source| WeightsError::Json { file: format!("{file}: header"), source })?;
        let mut entries = Vec::with_capacity(raw.0.len());
        for (name, entry) in raw.0 {
            entries.push(entry.place(name, PREFIX + length, data_len, file)?);
        }
        entries.sort_by_key(|entry| (entry.range.start, entry.range.end));
        tile(&entries, PREFIX + length..PREFIX + length + data_len, file)?;
        Ok(Self { entries })
    }
}

/// Tensors follow each other without hole or overlap, to the end of the file: so says the format, and so no
/// byte escapes the checks or serves two tensors.
fn tile(entries: &[HeaderEntry], data: Range<usize>, file: &str) -> Result<(), WeightsError> {
    let mut end = data.start;
    for entry in entries {
        let problem = match entry.range.start {
            start if start < end => format!("overlaps the {} bytes before it", end - start),
            start if start > end => format!("follows a hole of {} bytes", start - end),
            _ => {
                end = entry.range.end;
                continue;
            }
        };
        return Err(WeightsError::Entry { file: file.to_owned(), name: entry.name.clone(), problem });
    }
    if end != data.end {
        let problem = format!("{} bytes after the last tensor belong to none", data.end - end);
        return Err(WeightsError::Header { file: file.to_owned(), problem });
    }
    Ok(())
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl RawEntry {
    fn place(
        self,
        name: String,
        data_start: usize,
        data_len: usize,
        file: &str,
    ) -> Result<HeaderEntry, WeightsError> {
        let wrong = |name: &str, problem: String| WeightsError::Entry {
            file: file.to_owned(),
            name: name.to_owned(),
            problem,
        };
        let Some(dtype) = StoredDtype::from_name(&self.dtype) else {
            return Err(wrong(&name, format!("has dtype {:?}, which safetensors does not know", self.dtype)));
        };
        if self.shape.len() > AXES_MAX {
            return Err(wrong(&name, format!("has {} axes", self.shape.len())));
        }
        let [start, end] = self.data_offsets;
        if start > end || end > data_len as u64 {
            let problem = format!("lies at bytes {start}..{end} of {data_len} that the file has");
            return Err(wrong(&name, problem));
        }
        let shape: Option<Vec<usize>> = self.shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let bits = self.shape.iter().try_fold(dtype.bits(), |product, &dim| product.checked_mul(dim));
        match (shape, bits) {
            (Some(shape), Some(bits)) if bits.is_multiple_of(8) && bits / 8 == end - start => {
                // Both ends are at most `data_len`, so the casts are exact.
                let range = data_start + start as usize..data_start + end as usize;
                Ok(HeaderEntry { name, dtype, shape, range })
            }
            _ => {
                let (shape, bytes) = (&self.shape, end - start);
                Err(wrong(&name, format!("of shape {shape:?} and dtype {} has {bytes} bytes", dtype.name())))
            }
        }
    }
}
