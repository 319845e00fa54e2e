//! Files as memory.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cuvier_tensor::Storage;

use crate::WeightsError;

/// A file's memory.
#[derive(Clone, Debug)]
pub(crate) struct Mapping(Arc<memmap2::Mmap>);

impl Mapping {
    pub(crate) fn storage(&self) -> Storage {
        Arc::clone(&self.0) as Storage
    }

    /// Gives the memory of `range` back to the system. Whoever reads there again gets it from the file.
    ///
    /// # Panics
    /// If the range lies outside the file.
    #[cfg_attr(not(unix), expect(unused_variables, reason = "only Unix takes such advice"))]
    #[cfg_attr(unix, expect(unsafe_code, reason = "advice to forget cannot be given safely"))]
    pub(crate) fn release(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.0.len(), "{range:?} of {}", self.0.len());
        // SAFETY: the map is private and never written, so that what is read again from the file is what was there;
        // that the file is left alone is the documented condition of `map`.
        #[cfg(unix)]
        let _ = unsafe {
            // It is advice: a system that refuses it keeps the memory, which is no fault.
            self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
        };
    }
}

/// Maps a regular file read-only. `None`: it is empty.
///
/// The file must not be changed or truncated by anyone while it is mapped: that is true of a downloaded
/// checkpoint, and nothing in the operating system would let us enforce it. Writers in this program write to a
/// temporary name and rename, so they never touch a file that may be mapped.
pub(crate) fn map(path: &Path) -> Result<Option<Mapping>, WeightsError> {
    // Asked before opening: opening a pipe would wait for a writer that may never come.
    let metadata = std::fs::metadata(path).map_err(WeightsError::io(path, "opening"))?;
    if !metadata.is_file() {
        let source = std::io::Error::other("not a regular file");
        return Err(WeightsError::io(path, "opening")(source));
    }
    let file = File::open(path).map_err(WeightsError::io(path, "opening"))?;
    if metadata.len() == 0 {
        return Ok(None);
    }
    let map = map_file(&file).map_err(WeightsError::io(path, "mapping into memory"))?;
    Ok(Some(Mapping(Arc::new(map))))
}

#[expect(unsafe_code, reason = "mapping a file cannot be expressed safely")]
fn map_file(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is private to this process and never written; that the file is left alone while it is
    // mapped is the documented condition of `map`.
    unsafe { memmap2::Mmap::map(file) }
}
