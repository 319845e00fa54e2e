//! Files as memory: the only `unsafe` of this crate.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use cuvier_tensor::Storage;

use crate::WeightsError;

/// Maps a regular file read-only. An empty file is empty memory.
///
/// The file must not be changed or truncated by anyone while it is mapped: that is true of a downloaded
/// checkpoint, and nothing in the operating system would let us enforce it. Writers in this program write to a
/// temporary name and rename, so they never touch a file that may be mapped.
pub(crate) fn map(path: &Path) -> Result<Storage, WeightsError> {
    // Asked before opening: opening a pipe would wait for a writer that may never come.
    let metadata = std::fs::metadata(path).map_err(WeightsError::io(path, "opening"))?;
    if !metadata.is_file() {
        let source = std::io::Error::other("not a regular file");
        return Err(WeightsError::io(path, "opening")(source));
    }
    let file = File::open(path).map_err(WeightsError::io(path, "opening"))?;
    if metadata.len() == 0 {
        return Ok(Arc::new(Vec::new()));
    }
    map_file(&file).map(|map| Arc::new(map) as Storage).map_err(WeightsError::io(path, "mapping into memory"))
}

#[expect(unsafe_code, reason = "mapping a file cannot be expressed safely")]
fn map_file(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is private to this process and never written; that the file is left alone while it is
    // mapped is the documented condition of `map`.
    unsafe { memmap2::Mmap::map(file) }
}
