//! The folder of the cache: the only place that touches its files.
//!
//! A file is written beside its name, synced, renamed, and the folder synced: a name stands for a whole file, however
//! the process ends. Files are never changed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::format::{Body, FIXED_LEN, FileId, Header, Unusable};
use crate::CacheError;
use crate::checksum::checksum;

/// An open folder that no other process has open.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

/// What a look through the folder found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Files whose headers are whole and whose lengths fit them, least recently used first.
    pub(crate) files: Vec<(FileId, Header)>,
    /// Files that were removed because they are not what was written.
    pub(crate) n_broken: usize,
    /// Files of other versions, left alone.
    pub(crate) n_foreign: usize,
}

/// Why nothing could be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The file is not what was written.
    Broken,
    /// It is gone, or the system refused.
    Io,
}

impl Folder {
    /// Opens the folder, making it where it is not there; only its owner can enter it from then on.
    pub(crate) fn open(path: &Path) -> Result<Self, CacheError> {
        let refused = |source| CacheError::Folder { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(refused)?;
        owner_only(path, 0o700).map_err(refused)?;
        let lock = path.join("lock");
        let lock_file =
            OpenOptions::new().write(true).create(true).truncate(false).open(&lock).map_err(refused)?;
        owner_only(&lock, 0o600).map_err(refused)?;
        match lock_file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock_file }),
            Err(fs::TryLockError::WouldBlock) => Err(CacheError::InUse { path: path.to_owned() }),
            Err(fs::TryLockError::Error(source)) => Err(refused(source)),
        }
    }

    /// Looks through the folder: removes what was not written to its end or is broken, reads the headers of the rest.
    pub(crate) fn scan(&self) -> io::Result<Found> {
        let mut found = Found::default();
        let mut files: Vec<(SystemTime, FileId, Header)> = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str() else { continue };
            if file_name.ends_with(PART) {
                let _ = fs::remove_file(entry.path());
            }
            let Some(id) = file_name.strip_suffix(WHOLE).and_then(parse_name) else { continue };
            match self.read_header(id) {
                Ok((_, header)) => {
                    let used = entry.metadata().and_then(|metadata| metadata.modified());
                    files.push((used.unwrap_or(SystemTime::UNIX_EPOCH), id, header));
                }
                Err(Refused::Unusable(Unusable::Foreign)) => found.n_foreign += 1,
                Err(Refused::Unusable(Unusable::Broken)) => {
                    found.n_broken += 1;
                    self.remove(id);
                }
                // It may be readable another time.
                Err(Refused::Io) => {}
            }
        }
        // Rows come behind those that they stand on, tails behind all rows.
        files.sort_by_key(|(used, id, header)| (header.is_tail(), rows_first(header), *used, *id));
        found.files = files.into_iter().map(|(_, id, header)| (id, header)).collect();
        Ok(found)
    }

    /// Writes a file; it is there, whole, when this returns.
    pub(crate) fn write(&self, id: FileId, header: &Header, body: &[u8]) -> io::Result<()> {
        let part = self.path.join(file_name(id, PART));
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(&part)?;
            file.write_all(&header.write())?;
            file.write_all(body)?;
            file.sync_all()?;
            fs::rename(&part, self.file(id))?;
            self.sync()
        };
        let written = write();
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// The header of some rows, and `range` of their segments, each checked.
    pub(crate) fn read_rows(
        &self,
        id: FileId,
        range: Range<usize>,
    ) -> Result<(Header, Vec<Vec<u8>>), ReadError> {
        let (mut file, header) = self.read_header(id)?;
        let Body::Rows { segment_bytes, checksums } = &header.body else { return Err(ReadError::Broken) };
        let sums = checksums.get(range.clone()).ok_or(ReadError::Broken)?;
        let start = header.len() as u64 + (*segment_bytes * range.start) as u64;
        file.seek(SeekFrom::Start(start)).map_err(|_| ReadError::Io)?;
        let mut segments = Vec::with_capacity(sums.len());
        for sum in sums {
            let mut segment = vec![0; *segment_bytes];
            read_body(&mut file, &mut segment, *sum)?;
            segments.push(segment);
        }
        Ok((header, segments))
    }

    /// A tail with its header, checked.
    pub(crate) fn read_tail(&self, id: FileId) -> Result<(Header, Vec<u8>), ReadError> {
        let (mut file, header) = self.read_header(id)?;
        let Body::Tail { bytes, checksum, .. } = header.body else { return Err(ReadError::Broken) };
        let mut tail = vec![0; bytes];
        read_body(&mut file, &mut tail, checksum)?;
        Ok((header, tail))
    }

    /// Notes that a file was used, for the order after the next start.
    pub(crate) fn touch(&self, id: FileId) {
        // What cannot be noted is forgotten a little earlier.
        let _ = File::open(self.file(id)).and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Removes a file. One that cannot be removed is found again at the next start.
    pub(crate) fn remove(&self, id: FileId) {
        let _ = fs::remove_file(self.file(id));
    }

    fn read_header(&self, id: FileId) -> Result<(File, Header), Refused> {
        let mut file = File::open(self.file(id))?;
        let file_len = file.metadata()?.len();
        let mut bytes = vec![0; FIXED_LEN];
        read_whole(&mut file, &mut bytes)?;
        let len = Header::len_from(&bytes)?;
        if len as u64 > file_len {
            return Err(Unusable::Broken.into());
        }
        bytes.resize(len, 0);
        read_whole(&mut file, &mut bytes[FIXED_LEN..])?;
        let header = Header::read(&bytes)?;
        if header.file_bytes() == file_len { Ok((file, header)) } else { Err(Unusable::Broken.into()) }
    }

    fn file(&self, id: FileId) -> PathBuf {
        self.path.join(file_name(id, WHOLE))
    }

    fn sync(&self) -> io::Result<()> {
        // Only here can a folder be opened to be synced.
        if cfg!(unix) { File::open(&self.path)?.sync_all() } else { Ok(()) }
    }
}

const WHOLE: &str = ".state";
const PART: &str = ".part";

fn file_name(id: FileId, ending: &str) -> String {
    let hex: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    hex + ending
}

fn parse_name(hex: &str) -> Option<FileId> {
    let mut id = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (index, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(FileId(id))
}

fn rows_first(header: &Header) -> usize {
    if header.is_tail() { 0 } else { header.first_segment }
}

fn read_body(file: &mut File, body: &mut [u8], sum: u64) -> Result<(), ReadError> {
    read_whole(file, body)?;
    if checksum(body) == sum { Ok(()) } else { Err(ReadError::Broken) }
}

fn read_whole(file: &mut File, bytes: &mut [u8]) -> Result<(), Refused> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Unusable::Broken.into(),
        _ => error.into(),
    })
}

#[cfg(unix)]
fn owner_only(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(not(unix))]
fn owner_only(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

/// Why a header was not read.
enum Refused {
    Unusable(Unusable),
    Io,
}

impl From<Unusable> for Refused {
    fn from(unusable: Unusable) -> Self {
        Self::Unusable(unusable)
    }
}

impl From<io::Error> for Refused {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl From<Refused> for ReadError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unusable(_) => Self::Broken,
            Refused::Io => Self::Io,
        }
    }
}
