//! A partial file and its journal on the disk.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::chunks::Chunks;
use crate::digest::ChunkHash;
use crate::folder::{Place, length};
use crate::journal::{Journal, line};
use crate::{HubError, RemoteFile};

/// More than the journal of the largest file.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;
/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// A partial file that chunks are written to.
pub(crate) struct Part {
    place: Place,
    chunks: Chunks,
    journal: Mutex<File>,
}

/// What the journal says has come, if there is one for this very content. It is not checked yet.
pub(crate) fn claimed(place: &Place, file: &RemoteFile, chunks: Chunks) -> Result<Journal, HubError> {
    let none = Journal::new(file.id, chunks);
    let (Some(bytes), Some(_)) = (length(&place.journal)?, length(&place.part)?) else { return Ok(none) };
    if bytes > JOURNAL_BYTES_MAX {
        return Ok(none);
    }
    let text = fs::read(&place.journal).map_err(HubError::io(&place.journal, "reading"))?;
    let journal = str::from_utf8(&text).ok().and_then(Journal::parse);
    Ok(journal.filter(|journal| journal.id == none.id && journal.chunks == none.chunks).unwrap_or(none))
}

impl Part {
    /// Opens the partial file, or begins one. Chunks that the journal claims are read and hashed; gives those that are
    /// there.
    pub(crate) fn open(
        place: &Place,
        file: &RemoteFile,
        chunks: Chunks,
        look: &dyn Fn() -> Result<(), HubError>,
    ) -> Result<(Self, BTreeSet<u64>), HubError> {
        let mut journal = claimed(place, file, chunks)?;
        let fresh = journal.done.is_empty();
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(fresh).open(&place.part);
        let mut part = opened.map_err(HubError::io(&place.part, "opening"))?;
        let claims = std::mem::take(&mut journal.done);
        for (index, hash) in claims {
            look()?;
            if hash_range(&mut part, &place.part, chunks, index)? == hash {
                journal.done.insert(index, hash);
            }
        }
        let longer = length(&place.part)?.is_some_and(|length| length > file.size);
        if longer {
            part.set_len(file.size).map_err(HubError::io(&place.part, "shortening"))?;
        }
        fs::write(&place.journal, journal.to_text()).map_err(HubError::io(&place.journal, "writing"))?;
        let appended = OpenOptions::new().append(true).open(&place.journal);
        let appended = appended.map_err(HubError::io(&place.journal, "opening"))?;
        let done = journal.done.into_keys().collect();
        Ok((Self { place: place.clone(), chunks, journal: Mutex::new(appended) }, done))
    }

    /// Begins to write at chunk `index`.
    pub(crate) fn writer(&self, index: u64) -> Result<ChunkWriter<'_>, HubError> {
        let file = OpenOptions::new().write(true).open(&self.place.part);
        let file = file.map_err(HubError::io(&self.place.part, "opening"))?;
        let mut writer = ChunkWriter { part: self, file, index, came: 0, hasher: Sha256::new() };
        writer.restart(index)?;
        Ok(writer)
    }

    fn note(&self, index: u64, hash: &ChunkHash) -> Result<(), HubError> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.write_all(line(index, hash).as_bytes()).map_err(HubError::io(&self.place.journal, "writing"))
    }
}

/// Makes a broken file a partial one that keeps the chunks named in `good`.
pub(crate) fn reopen(place: &Place, journal: &Journal) -> Result<(), HubError> {
    place.discard()?;
    fs::rename(&place.file, &place.part).map_err(HubError::io(&place.part, "renaming"))?;
    fs::write(&place.journal, journal.to_text()).map_err(HubError::io(&place.journal, "writing"))
}

/// Writes bytes in order, from the start of one chunk, over as many chunks as come.
pub(crate) struct ChunkWriter<'a> {
    part: &'a Part,
    file: File,
    /// The chunk at hand.
    index: u64,
    /// Bytes of it that came.
    came: u64,
    hasher: Sha256,
}

impl ChunkWriter<'_> {
    /// Goes to the start of another chunk; what came of the one at hand is void.
    pub(crate) fn restart(&mut self, index: u64) -> Result<(), HubError> {
        let start = SeekFrom::Start(self.part.chunks.range(index).start);
        self.file.seek(start).map_err(HubError::io(&self.part.place.part, "seeking"))?;
        (self.index, self.came, self.hasher) = (index, 0, Sha256::new());
        Ok(())
    }

    /// The chunk at hand, and bytes of it that came.
    pub(crate) fn at(&self) -> (u64, u64) {
        (self.index, self.came)
    }

    /// Writes bytes of the chunk at hand, as many as it lacks at most; says how many, and whether it is whole and noted.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(usize, bool), HubError> {
        let range = self.part.chunks.range(self.index);
        let lacks = range.end - range.start - self.came;
        // At most the length of a slice, so the cast is exact.
        let taken = lacks.min(bytes.len() as u64) as usize;
        self.file.write_all(&bytes[..taken]).map_err(HubError::io(&self.part.place.part, "writing"))?;
        self.hasher.update(&bytes[..taken]);
        self.came += taken as u64;
        let whole = taken as u64 == lacks;
        if whole {
            let hash = ChunkHash(std::mem::take(&mut self.hasher).finalize().into());
            self.part.note(self.index, &hash)?;
            (self.index, self.came) = (self.index + 1, 0);
        }
        Ok((taken, whole))
    }
}

fn hash_range(part: &mut File, path: &Path, chunks: Chunks, index: u64) -> Result<ChunkHash, HubError> {
    let range = chunks.range(index);
    part.seek(SeekFrom::Start(range.start)).map_err(HubError::io(path, "seeking"))?;
    let mut left = range.end - range.start;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    while left > 0 {
        // At most `PIECE`, so the cast is exact.
        let room = left.min(PIECE as u64) as usize;
        let came = part.read(&mut piece[..room]).map_err(HubError::io(path, "reading"))?;
        if came == 0 {
            break;
        }
        hasher.update(&piece[..came]);
        left -= came as u64;
    }
    Ok(ChunkHash(hasher.finalize().into()))
}
