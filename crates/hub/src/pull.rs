//! A checkpoint from a hub into a folder.

use std::path::Path;

use crate::chunks::Chunks;
use crate::content::hash_file;
use crate::fetch::{Missing, fetch};
use crate::folder::{Folder, Place, length};
use crate::journal::Journal;
use crate::manifest::{Manifest, Recorded};
use crate::part::{claimed, reopen};
use crate::remote::Remote;
use crate::watch::{Event, Watch, watched};
use crate::{Client, HubError, Listing, RemoteFile, RepoId, Revision};

/// How to fill a folder.
#[derive(Clone, Copy, Debug)]
pub struct PullOptions {
    /// Bytes asked for at once and remembered as done; what a kill costs per connection. Not 0.
    pub chunk_bytes: u64,
    /// Whether files that are there are hashed anew, though size and time are those of the record.
    pub recheck: bool,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { chunk_bytes: 16 << 20, recheck: false }
    }
}

/// What a download did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullReport {
    /// The commit whose files are in the folder.
    pub commit: String,
    /// Every file, by name.
    pub files: Vec<RemoteFile>,
    /// Those of them that were not there, or not whole.
    pub fetched: Vec<String>,
}

/// Fills `folder` with the files of `revision` that a checkpoint needs. What is there and right stays; what came of a
/// download that was cut is used; a file that differs is replaced when the new one is whole. Every file is checked against
/// the hash that the hub listed before it gets its name.
///
/// `observe` is told what happens and says whether to go on; it is also called with nothing, several times a second. A
/// client whose download was stopped or failed is of no more use.
///
/// # Errors
/// If the hub, the disk or the caller says no. Whole files and parts stay, and the same call goes on from them.
pub fn pull(
    client: &Client,
    repo: &RepoId,
    revision: &Revision,
    folder: &Path,
    options: &PullOptions,
    observe: &mut dyn FnMut(Option<Event>) -> bool,
) -> Result<PullReport, HubError> {
    assert!(options.chunk_bytes > 0, "a chunk has bytes");
    watched(client, observe, |watch| {
        let listing = client.list(repo, revision, watch)?;
        let bytes = listing.files.iter().map(|file| file.size).sum();
        watch.tell(Event::Listed { commit: listing.commit.clone(), files: listing.files.len(), bytes });
        let folder = Folder::open(folder)?;
        // A broken record only costs reading the files once more.
        let before = Manifest::read(folder.path()).ok().flatten().unwrap_or_default();
        let mut manifest =
            Manifest { repo: repo.to_string(), commit: listing.commit.clone(), ..Manifest::default() };
        let missing =
            Plan { folder: &folder, options, before: &before, watch }.make(&listing, &mut manifest)?;
        manifest.write(folder.path())?;
        let remote = Remote { client, repo, commit: &listing.commit, watch };
        fetch(&remote, &folder, &missing, &mut manifest)?;
        let fetched = missing.iter().map(|missing| missing.file.name.to_string()).collect();
        Ok(PullReport { commit: listing.commit, files: listing.files, fetched })
    })
}

/// Finds out what is to come.
struct Plan<'a> {
    folder: &'a Folder,
    options: &'a PullOptions,
    before: &'a Manifest,
    watch: &'a Watch,
}

impl Plan<'_> {
    /// The files that are missing; those that are whole are put into `manifest`. Refuses what the disk has no room for.
    fn make(&self, listing: &Listing, manifest: &mut Manifest) -> Result<Vec<Missing>, HubError> {
        let mut missing = Vec::new();
        let (mut here, mut to_come) = (0, 0);
        for file in &listing.files {
            let place = self.folder.place(&file.name)?;
            if let Some(recorded) = self.whole(file, &place)? {
                // Left behind by a download that was killed after its file had its name.
                place.discard()?;
                manifest.files.insert(file.name.clone(), recorded);
                here += file.size;
                continue;
            }
            let chunks = Chunks { size: file.size, chunk_bytes: self.options.chunk_bytes };
            let done = claimed(&place, file, chunks)?.done_bytes();
            here += done;
            to_come += file.size - done;
            missing.push(Missing { file: file.clone(), place, chunks });
        }
        self.watch.tell(Event::Planned { here, missing: to_come });
        self.folder.check_space(to_come)?;
        Ok(missing)
    }

    /// What to record of a file that is there and right. One that was right once and is broken now becomes a partial file,
    /// so that only its broken chunks come again.
    fn whole(&self, file: &RemoteFile, place: &Place) -> Result<Option<Recorded>, HubError> {
        if length(&place.file)? != Some(file.size) {
            return Ok(None);
        }
        let recorded = self.before.files.get(&file.name).filter(|recorded| recorded.content.id == file.id);
        if !self.options.recheck && self.before.vouches_for(file, &place.file) {
            return Ok(recorded.cloned());
        }
        self.watch.tell(Event::Checking { file: file.name.to_string() });
        let chunks = Chunks { size: file.size, chunk_bytes: self.options.chunk_bytes };
        let content = hash_file(&place.file, &file.id, chunks, &mut |_| self.watch.check())?;
        if content.id == file.id {
            return Ok(Some(Recorded::new(&place.file, chunks, content)));
        }
        if let Some(recorded) = recorded.filter(|recorded| recorded.chunks == chunks) {
            let mut journal = Journal::new(file.id, chunks);
            let pairs = content.chunks.iter().zip(&recorded.content.chunks);
            let good = pairs.enumerate().filter(|(_, (is, was))| is == was);
            journal.done = good.map(|(index, (hash, _))| (index as u64, *hash)).collect();
            reopen(place, &journal)?;
        }
        Ok(None)
    }
}
