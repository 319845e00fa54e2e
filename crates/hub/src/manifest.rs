//! The folder's record of what was downloaded: each file's hash, and the hash of each of its chunks, so that a later check
//! can say not only that a file is broken but where.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::chunks::Chunks;
use crate::content::Content;
use crate::digest::ChunkHash;
use crate::folder::{length, write_whole};
use crate::{ContentId, FileName, HubError, RemoteFile};

const MANIFEST: &str = ".cuvier-manifest.json";
const VERSION: u32 = 1;
/// Records of many terabytes are smaller.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// The record of one folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) repo: String,
    pub(crate) commit: String,
    pub(crate) files: BTreeMap<FileName, Recorded>,
}

/// What is known of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) chunks: Chunks,
    pub(crate) content: Content,
    /// When the file was last written, in nanoseconds since 1970, as the file system has it: a file of the same size and
    /// time is taken for the same.
    pub(crate) modified: u64,
}

#[derive(Serialize, Deserialize)]
struct RawManifest {
    version: u32,
    repo: String,
    commit: String,
    files: BTreeMap<String, RawRecorded>,
}

#[derive(Serialize, Deserialize)]
struct RawRecorded {
    size: u64,
    hash: String,
    modified_ns: u64,
    chunk_bytes: u64,
    chunks: Vec<String>,
}

impl Manifest {
    /// The record of `folder`; `None` if it has none.
    ///
    /// # Errors
    /// [`HubError::Manifest`] if it is broken.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, HubError> {
        let path = path(folder);
        let Some(bytes) = length(&path)? else { return Ok(None) };
        let broken = |problem: String| HubError::Manifest { file: path.clone(), problem };
        if bytes > MANIFEST_BYTES_MAX {
            return Err(broken(format!("{bytes} bytes are more than a record of files has")));
        }
        let text = fs::read(&path).map_err(HubError::io(&path, "reading"))?;
        Self::parse(&text).map(Some).map_err(broken)
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let raw: RawManifest = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if raw.version != VERSION {
            return Err(format!("is of version {}, this program writes {VERSION}", raw.version));
        }
        let mut files = BTreeMap::new();
        for (name, file) in raw.files {
            let recorded = file.check().ok_or_else(|| format!("contradicts itself about {name:?}"))?;
            files.insert(
                FileName::parse(&name).map_err(|_| format!("{name:?} is not a safe name"))?,
                recorded,
            );
        }
        Ok(Self { repo: raw.repo, commit: raw.commit, files })
    }

    /// Writes the record, whole or not at all.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), HubError> {
        let files = self.files.iter().map(|(name, file)| (name.to_string(), RawRecorded::from(file)));
        let raw = RawManifest {
            version: VERSION,
            repo: self.repo.clone(),
            commit: self.commit.clone(),
            files: files.collect(),
        };
        let path = path(folder);
        let text = serde_json::to_vec_pretty(&raw)
            .map_err(|error| HubError::Manifest { file: path.clone(), problem: error.to_string() })?;
        write_whole(&path, &text)
    }

    /// Whether the record knows `file` as the hub has it, and the file at `path` was not touched since.
    pub(crate) fn vouches_for(&self, file: &RemoteFile, path: &Path) -> bool {
        self.files.get(&file.name).is_some_and(|recorded| {
            recorded.chunks.size == file.size
                && recorded.content.id == file.id
                && recorded.modified != 0
                && modified(path) == recorded.modified
        })
    }
}

impl Recorded {
    /// The record of a file that was just found whole.
    pub(crate) fn new(path: &Path, chunks: Chunks, content: Content) -> Self {
        Self { chunks, content, modified: modified(path) }
    }
}

impl RawRecorded {
    fn check(self) -> Option<Recorded> {
        let chunks = Chunks { size: self.size, chunk_bytes: self.chunk_bytes };
        let hashes: Option<Vec<ChunkHash>> = self.chunks.iter().map(|hex| ChunkHash::parse(hex)).collect();
        let content = Content { id: ContentId::parse_hex(&self.hash)?, chunks: hashes? };
        let whole = self.chunk_bytes > 0 && chunks.count() == content.chunks.len() as u64;
        whole.then_some(Recorded { chunks, content, modified: self.modified_ns })
    }
}

impl From<&Recorded> for RawRecorded {
    fn from(file: &Recorded) -> Self {
        Self {
            size: file.chunks.size,
            hash: file.content.id.to_string(),
            modified_ns: file.modified,
            chunk_bytes: file.chunks.chunk_bytes,
            chunks: file.content.chunks.iter().map(ChunkHash::to_string).collect(),
        }
    }
}

pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join(MANIFEST)
}

/// 0 where the file system does not say.
fn modified(path: &Path) -> u64 {
    let time = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn manifest() -> Manifest {
        let chunks = Chunks { size: 20, chunk_bytes: 16 };
        let content = Content {
            id: ContentId::GitBlob([3; 20]),
            chunks: vec![ChunkHash::of(b"a"), ChunkHash::of(b"b")],
        };
        let name = FileName::parse("encoding/a.json").unwrap();
        let files = BTreeMap::from([(name, Recorded { chunks, content, modified: 5 })]);
        Manifest { repo: "o/r".to_owned(), commit: "c".to_owned(), files }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), None);
        manifest().write(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), Some(manifest()));
    }

    #[test]
    fn a_record_that_contradicts_itself_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        manifest().write(folder.path()).unwrap();
        let text = fs::read_to_string(path(folder.path())).unwrap();
        for (from, to) in [(": 20", ": 40"), ("encoding/a", "../a"), (": 16", ": 0"), (": 1,", ": 2,")] {
            assert_ne!(text.replace(from, to), text);
            fs::write(path(folder.path()), text.replace(from, to)).unwrap();
            assert!(matches!(Manifest::read(folder.path()), Err(HubError::Manifest { .. })), "{from}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = Manifest::parse(text.as_bytes());
        }
    }
}
