//! Reading files past the page cache: what is read once in a while must not push out what is read always, and on many
//! machines it is several times faster.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::MmapMut;

use crate::WeightsError;

/// Direct reads begin and end at multiples of this, in the file and in memory: the largest block that disks in use have.
pub(crate) const ALIGN: usize = 4096;
/// Read at once where a range is copied out.
pub(crate) const COPIED_BYTES: usize = 8 << 20;

/// A file that is read at any place by any thread, without the page cache where the system can.
#[derive(Debug)]
pub(crate) struct DirectFile {
    path: PathBuf,
    file: File,
    /// What it was when it was opened.
    stamp: Stamp,
}

/// By what a change of a file is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl DirectFile {
    /// # Errors
    /// If the system refuses.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = open_direct(path).map_err(WeightsError::io(path, "opening"))?;
        let metadata = file.metadata().map_err(WeightsError::io(path, "opening"))?;
        Ok(Self { path: path.to_owned(), file, stamp: Stamp::of(&metadata) })
    }

    /// Reads the whole blocks `blocks` into `out`, which is as long; bytes behind the end of the file are left as they
    /// are. Says how many came.
    ///
    /// # Errors
    /// If the system refuses, or the file is no longer what it was when it was opened.
    ///
    /// # Panics
    /// If `blocks` is not made of whole blocks, or `out` has another length or does not begin at one.
    pub(crate) fn read_blocks(&self, blocks: Range<u64>, out: &mut [u8]) -> Result<usize, WeightsError> {
        let is_whole = |n: u64| n.is_multiple_of(ALIGN as u64);
        assert!(is_whole(blocks.start) && is_whole(blocks.end), "{blocks:?} are whole blocks");
        assert_eq!(out.len() as u64, blocks.end - blocks.start, "bytes of {blocks:?}");
        assert!(out.as_ptr().addr().is_multiple_of(ALIGN), "memory begins at a block");
        let mut done = 0;
        while done < out.len() {
            match read_at(&self.file, &mut out[done..], blocks.start + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(WeightsError::io(&self.path, "reading")(error)),
            }
            // A read that ended inside a block reached the end of the file: the next could not begin there.
            if !done.is_multiple_of(ALIGN) {
                break;
            }
        }
        self.check_unchanged()?;
        Ok(done)
    }

    /// A copy of the bytes `range`.
    ///
    /// # Errors
    /// As [`read_blocks`](Self::read_blocks), and if the file ends before.
    pub(crate) fn read(&self, range: Range<u64>) -> Result<Vec<u8>, WeightsError> {
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        let blocks = whole_blocks(&range);
        let mut buffer = self.buffer(COPIED_BYTES.min((blocks.end - blocks.start) as usize))?;
        let mut at = blocks.start;
        while at < blocks.end {
            let end = blocks.end.min(at + COPIED_BYTES as u64);
            let out = &mut buffer.bytes_mut()[..(end - at) as usize];
            let got = at + self.read_blocks(at..end, out)? as u64;
            let wanted = range.start.max(at)..range.end.min(end);
            if got < wanted.end {
                return Err(self.ends_before(range.end));
            }
            bytes.extend_from_slice(&out[(wanted.start - at) as usize..(wanted.end - at) as usize]);
            at = end;
        }
        Ok(bytes)
    }

    /// Memory for `len` bytes of the file.
    ///
    /// # Errors
    /// If there is none left.
    pub(crate) fn buffer(&self, len: usize) -> Result<AlignedBuffer, WeightsError> {
        AlignedBuffer::new(len).map_err(WeightsError::io(&self.path, "reading"))
    }

    /// The error of a file that is shorter than `end`.
    pub(crate) fn ends_before(&self, end: u64) -> WeightsError {
        let problem = format!("it ends before byte {end}, which its header promises");
        WeightsError::io(&self.path, "reading")(io::Error::new(io::ErrorKind::UnexpectedEof, problem))
    }

    fn check_unchanged(&self) -> Result<(), WeightsError> {
        let metadata = self.file.metadata().map_err(WeightsError::io(&self.path, "reading"))?;
        if Stamp::of(&metadata) == self.stamp {
            return Ok(());
        }
        let changed = "it was changed since it was opened; start again once nothing writes to it any more";
        Err(WeightsError::io(&self.path, "reading")(io::Error::other(changed)))
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// The smallest run of whole blocks that has all of `range`.
pub(crate) fn whole_blocks(range: &Range<u64>) -> Range<u64> {
    let align = ALIGN as u64;
    range.start / align * align..range.end.next_multiple_of(align)
}

/// Memory that begins at a block: whole pages from the system, in huge ones where it has them.
#[derive(Debug)]
pub(crate) struct AlignedBuffer(MmapMut);

impl AlignedBuffer {
    /// # Errors
    /// If the system has no memory left.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let memory = MmapMut::map_anon(len)?;
        // A wish: a system without huge pages refuses, and nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Self(memory))
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Opens past the page cache; through it, where the file system knows no other way.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    match File::options().read(true).custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(path),
        opened => opened,
    }
}

#[cfg(not(target_os = "linux"))]
fn open_direct(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, offset)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("written");
        file
    }

    #[test]
    fn any_range_is_read_as_it_was_written() {
        let bytes: Vec<u8> = (0..3 * ALIGN + 77).map(|i| (i * 7 % 251) as u8).collect();
        let file = file_of(&bytes);
        let direct = DirectFile::open(file.path()).expect("it opens");
        let end = bytes.len();
        for range in [0..0, 0..1, 5..ALIGN, ALIGN - 1..ALIGN + 1, 100..end, end - 1..end, ALIGN..2 * ALIGN] {
            let got = direct.read(range.start as u64..range.end as u64).expect("it is there");
            assert_eq!(got, bytes[range.clone()], "{range:?}");
        }
    }

    #[test]
    fn a_range_behind_the_end_is_an_error_that_names_file_and_place() {
        let file = file_of(&[1; 5000]);
        let direct = DirectFile::open(file.path()).expect("it opens");
        for range in [0..5001, 4999..9000, 8192..8193] {
            let error = direct.read(range.clone()).expect_err("too far").to_string();
            assert!(error.contains(&format!("byte {}", range.end)), "{error}");
            assert!(error.contains(&file.path().display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_file_that_changed_is_an_error() {
        let mut file = file_of(&[1; 5000]);
        let direct = DirectFile::open(file.path()).expect("it opens");
        file.write_all(&[2]).expect("written");
        let error = direct.read(0..10).expect_err("changed").to_string();
        assert!(error.contains("changed since it was opened"), "{error}");
    }
}
