//! Whether a folder still holds what was downloaded into it, and if not, where it does not.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use cuvier_weights::Header;

use crate::content::hash_file;
use crate::folder::length;
use crate::manifest::{Manifest, Recorded};
use crate::{ContentId, FileName, HubError};

/// Tensors that a message names; it counts the rest.
const NAMES_SHOWN: usize = 8;

/// What [`check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// Where the files came from.
    pub repo: String,
    /// Of which commit.
    pub commit: String,
    /// Every file that was downloaded, with its hash at the hub.
    pub files: Vec<(String, ContentId)>,
    /// The files that are not as they came.
    pub broken: Vec<Broken>,
}

impl CheckReport {
    /// The SHA-256 of a file in hexadecimal, where the hub knows it by that.
    pub fn sha256_of(&self, file: &str) -> Option<String> {
        let (_, id) = self.files.iter().find(|(name, _)| name == file)?;
        matches!(id, ContentId::Sha256(_)).then(|| id.to_string())
    }
}

/// One file that is not as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its name.
    pub file: String,
    /// How it differs.
    pub damage: Damage,
}

/// How a file differs from what was downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is not there.
    Missing,
    /// It has another length.
    Length {
        /// Bytes that came.
        want: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// Some bytes are others.
    Bytes {
        /// Ranges of the file in which they are, as exactly as its chunks tell.
        ranges: Vec<Range<u64>>,
        /// The tensors with bytes in these ranges.
        tensors: Vec<String>,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, damage } = self;
        match damage {
            Damage::Missing => write!(f, "{file}: is not there"),
            Damage::Length { want, got } => write!(f, "{file}: has {got} bytes, but {want} were downloaded"),
            Damage::Bytes { ranges, tensors } => {
                let ranges: Vec<String> = ranges.iter().map(|range| format!("{range:?}")).collect();
                write!(f, "{file}: not as it was downloaded within bytes {}", ranges.join(", "))?;
                let shown: Vec<String> =
                    tensors.iter().take(NAMES_SHOWN).map(|name| format!("`{name}`")).collect();
                match (shown.is_empty(), tensors.len() - shown.len()) {
                    (true, _) => Ok(()),
                    (false, 0) => write!(f, ", which hold {}", shown.join(", ")),
                    (false, more) => write!(f, ", which hold {} and {more} more tensors", shown.join(", ")),
                }
            }
        }
    }
}

/// Reads every file that was downloaded into `folder` and compares its hashes with those of the download. `progress` is
/// told bytes done and in total, and says whether to go on. `None`: nothing was downloaded into this folder.
///
/// # Errors
/// If the record of the download or a file cannot be read; [`HubError::Interrupted`] if `progress` said to stop. Broken
/// files are findings, not errors.
pub fn check(
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Option<CheckReport>, HubError> {
    let Some(manifest) = Manifest::read(folder)? else { return Ok(None) };
    let total = manifest.files.values().map(|file| file.chunks.size).sum();
    let mut done = 0;
    let mut broken = Vec::new();
    for (name, recorded) in &manifest.files {
        let mut look = |bytes| {
            done += bytes;
            if progress(done, total) { Ok(()) } else { Err(HubError::Interrupted) }
        };
        look(0)?;
        if let Some(damage) = damage(folder, name, recorded, &mut look)? {
            broken.push(Broken { file: name.to_string(), damage });
        }
    }
    let files = manifest.files.iter().map(|(name, file)| (name.to_string(), file.content.id)).collect();
    Ok(Some(CheckReport { repo: manifest.repo, commit: manifest.commit, files, broken }))
}

fn damage(
    folder: &Path,
    name: &FileName,
    recorded: &Recorded,
    look: &mut dyn FnMut(u64) -> Result<(), HubError>,
) -> Result<Option<Damage>, HubError> {
    let path = name.within(folder);
    let want = recorded.chunks.size;
    match length(&path)? {
        None => return Ok(Some(Damage::Missing)),
        Some(got) if got != want => return Ok(Some(Damage::Length { want, got })),
        Some(_) => {}
    }
    let content = hash_file(&path, &recorded.content.id, recorded.chunks, look)?;
    if content == recorded.content {
        return Ok(None);
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (index, hash) in (0_u64..).zip(&recorded.content.chunks) {
        // A file that shrank while it was read has fewer chunks than were recorded.
        if content.chunks.get(index as usize) == Some(hash) {
            continue;
        }
        let range = recorded.chunks.range(index);
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    let tensors = tensors_within(&path, want, &ranges);
    Ok(Some(Damage::Bytes { ranges, tensors }))
}

/// The tensors of a safetensors file with bytes in `ranges`; none if its header cannot be read any more.
fn tensors_within(path: &Path, file_bytes: u64, ranges: &[Range<u64>]) -> Vec<String> {
    let header = head(path).and_then(|head| Header::parse_head(&head, file_bytes, "").ok());
    let entries = header.map_or_else(Vec::new, |header| header.entries);
    let touched = entries.into_iter().filter(|entry| {
        let (start, end) = (entry.range.start as u64, entry.range.end as u64);
        ranges.iter().any(|range| range.start < end && start < range.end)
    });
    touched.map(|entry| entry.name).collect()
}

fn head(path: &Path) -> Option<Vec<u8>> {
    let is_safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
    let mut file = File::open(path).ok().filter(|_| is_safetensors)?;
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).ok()?;
    let rest = Header::head_bytes(prefix, "").ok()? - 8;
    let mut head = prefix.to_vec();
    file.take(rest).read_to_end(&mut head).ok()?;
    Some(head)
}
