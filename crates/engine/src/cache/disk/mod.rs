//! States on disk: they survive restarts and crashes, and whoever reads one gets what was written or nothing.
//!
//! Two threads do the work, so that no stream waits for a disk: one writes, one reads and puts states together. The
//! engine's thread only asks the index, which is in memory.

mod folder;
mod format;
mod index;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use cuvier_types::{SequenceId, TokenId};

use self::folder::{Folder, ReadError};
#[cfg(fuzzing)]
pub use self::format::fuzz_disk_header;
use self::format::{Body, FIXED_LEN, FileId, Header, name};
use self::index::{Found, Index, Known};
use super::DiskCache;
use super::plan::BLOCK;
use super::stats::Counters;
use super::trie::{Root, n_common};
use crate::checksum::checksum;
use crate::{CacheError, Model};

/// Segments of one file of rows; more become several files, so that writing takes little memory.
const SEGMENTS_MAX: usize = 64;
/// States that may wait to be written; each holds on to its memory meanwhile. Few ever do where a step takes long.
const WAITING_MAX: usize = 32;
/// Texts with fewer tokens are computed again sooner than they are read.
const TOKENS_MIN: usize = BLOCK;

/// The disk tier, as the engine's thread sees it. Dropping it waits until all that was given to it is written.
pub(crate) struct Disk<M: Model> {
    shared: Arc<Shared>,
    // `None` once they are to end.
    writes: Option<SyncSender<Write<M::State>>>,
    reads: Option<Sender<Read<M::State>>>,
    restored: Receiver<Restored<M::State>>,
    restored_sender: Sender<Restored<M::State>>,
    ping: Ping,
    threads: Vec<JoinHandle<()>>,
}

/// A state that was asked for.
pub(crate) struct Restored<S> {
    /// Whose prompt it is for.
    pub(crate) sequence: SequenceId,
    /// `None` if what was there cannot be used.
    pub(crate) state: Option<S>,
}

/// A folder that was looked through.
pub(crate) struct Opened(Shared);

struct Shared {
    folder: Folder,
    index: Mutex<Index>,
    counters: Arc<Counters>,
}

struct Write<S> {
    root: Root,
    tokens: Vec<TokenId>,
    state: S,
    is_mark: bool,
}

struct Read<S> {
    root: Root,
    prompt: Vec<TokenId>,
    /// Nothing shorter is worth it.
    more_than: usize,
    /// A state without tokens, like which the one that is read has to be.
    empty: S,
    answer: Answer<S>,
}

/// Answers even if its thread dies, so that no request waits for ever.
struct Answer<S> {
    restored: Restored<S>,
    to: Sender<Restored<S>>,
    ping: Ping,
}

/// Tells the engine's thread that a state may be taken.
pub(crate) type Ping = Arc<dyn Fn() + Send + Sync>;

impl<S> Drop for Answer<S> {
    fn drop(&mut self) {
        let Restored { sequence, state } = &mut self.restored;
        // An engine that is gone asks for nothing any more.
        let _ = self.to.send(Restored { sequence: *sequence, state: state.take() });
        (self.ping)();
    }
}

impl<M: Model> Disk<M> {
    /// Opens the folder and reads the headers of what is there.
    pub(crate) fn open(config: &DiskCache, counters: Arc<Counters>) -> Result<Opened, CacheError> {
        let folder = Folder::open(&config.dir)?;
        let refused = |source| CacheError::Folder { path: config.dir.clone(), source };
        let found = folder.scan().map_err(refused)?;
        counters.disk_broken.add(found.n_broken);
        counters.disk_foreign.add(found.n_foreign);
        let shared = Shared { folder, index: Mutex::new(Index::new(config.bytes_max)), counters };
        for (id, header) in found.files {
            if !shared.index().insert(id, &header) {
                shared.folder.remove(id);
            }
        }
        let unused = shared.index().remove_unused_rows();
        shared.delete(unused);
        // The bound may have been lowered since.
        let over = shared.index().make_room(None, 0).unwrap_or_default();
        shared.delete(over);
        shared.count();
        Ok(Opened(shared))
    }

    /// Starts the threads. `ping` is called after every answer to [`Disk::read`].
    pub(crate) fn start(opened: Opened, ping: Ping) -> Result<Self, CacheError> {
        let shared = Arc::new(opened.0);
        let (writes, to_write) = sync_channel::<Write<M::State>>(WAITING_MAX);
        let (reads, to_read) = channel::<Read<M::State>>();
        let (restored_sender, restored) = channel();
        let (writer, reader) = (shared.clone(), shared.clone());
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(CacheError::Thread)
        };
        let threads = vec![
            spawn(
                "cuvier-cache-write",
                Box::new(move || to_write.iter().for_each(|job| writer.obey::<M>(&job))),
            )?,
            spawn(
                "cuvier-cache-read",
                Box::new(move || to_read.iter().for_each(|job| reader.read::<M>(job))),
            )?,
        ];
        Ok(Self {
            shared,
            writes: Some(writes),
            reads: Some(reads),
            restored,
            restored_sender,
            ping,
            threads,
        })
    }

    /// Has a state written that holds exactly `tokens`, unless it is there or too short to be worth it.
    pub(crate) fn write(
        &self,
        root: Root,
        tokens: &[TokenId],
        is_mark: bool,
        state: impl FnOnce() -> Option<M::State>,
    ) {
        if tokens.len() < TOKENS_MIN || self.shared.index().refresh(root, tokens) {
            return;
        }
        let (Some(state), Some(writes)) = (state(), &self.writes) else { return };
        let Counters { disk_waiting, disk_skipped_busy, .. } = &*self.shared.counters;
        disk_waiting.add(1);
        if writes.try_send(Write { root, tokens: tokens.to_vec(), state, is_mark }).is_err() {
            disk_waiting.subtract(1);
            disk_skipped_busy.add(1);
        }
    }

    /// How many tokens of the beginning of `prompt` a state holds here.
    pub(crate) fn reach(&self, root: Root, prompt: &[TokenId]) -> usize {
        self.shared.index().reach(root, prompt)
    }

    /// How many tokens of the beginning of `prompt` some text here begins with too.
    pub(crate) fn known_tokens(&self, root: Root, prompt: &[TokenId]) -> usize {
        self.shared.index().known_tokens(root, prompt)
    }

    /// Has a state read that holds more than `more_than` tokens of the beginning of `prompt`; [`Disk::restored`] gives
    /// it after the next ping.
    pub(crate) fn read(
        &self,
        sequence: SequenceId,
        root: Root,
        prompt: &[TokenId],
        more_than: usize,
        empty: M::State,
    ) {
        let (to, ping) = (self.restored_sender.clone(), self.ping.clone());
        let answer = Answer { restored: Restored { sequence, state: None }, to, ping };
        let read = Read { root, prompt: prompt.to_vec(), more_than, empty, answer };
        if let Some(reads) = &self.reads {
            // A read that cannot be sent is answered by being dropped.
            let _ = reads.send(read);
        }
    }

    /// The next answer, if one has come.
    pub(crate) fn restored(&self) -> Option<Restored<M::State>> {
        self.restored.try_recv().ok()
    }
}

impl<M: Model> Drop for Disk<M> {
    fn drop(&mut self) {
        (self.writes, self.reads) = (None, None);
        for thread in self.threads.drain(..) {
            // One that died has left nothing half done: files appear whole or not at all.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("a thread died while it changed the index")
    }

    /// Deletes files that the index has forgotten.
    fn delete(&self, gone: Vec<FileId>) {
        gone.into_iter().for_each(|id| self.folder.remove(id));
    }

    fn count(&self) {
        let index = self.index();
        self.counters.disk_entries.set(index.n_tails() as u64);
        self.counters.disk_bytes.set(index.bytes());
    }

    fn obey<M: Model>(&self, job: &Write<M::State>) {
        self.write::<M>(job);
        self.counters.disk_waiting.subtract(1);
    }

    fn write<M: Model>(&self, job: &Write<M::State>) {
        if self.index().refresh(job.root, &job.tokens) {
            return;
        }
        let known = self.index().known(job.root, &job.tokens);
        let plan = Plan::new::<M>(job, known);
        let mut index = self.index();
        let n_tails = index.n_tails();
        let Some(gone) = index.make_room(known.parent, plan.bytes) else {
            self.counters.disk_skipped_large.add(1);
            return;
        };
        self.counters.disk_evictions.add(n_tails - index.n_tails());
        drop(index);
        self.delete(gone);
        if self.write_files::<M>(job, &plan) {
            self.counters.disk_writes.add(1);
        } else {
            let unused = self.index().remove_unused_rows();
            self.delete(unused);
        }
        self.count();
    }
}

/// The files of one state that are not there yet.
struct Plan {
    /// Where each begins and ends, in segments.
    rows: Vec<Range<usize>>,
    parent: Option<FileId>,
    tail: Vec<u8>,
    /// Of all of them together.
    bytes: u64,
}

impl Plan {
    fn new<M: Model>(job: &Write<M::State>, known: Known) -> Self {
        let n_segments = job.tokens.len() / BLOCK;
        let starts = (known.n_segments..n_segments).step_by(SEGMENTS_MAX);
        let rows: Vec<Range<usize>> =
            starts.map(|start| start..(start + SEGMENTS_MAX).min(n_segments)).collect();
        let tail = M::tail(&job.state);
        let segment_bytes =
            rows.first().map_or(0, |rows| M::segments(&job.state, rows.start..rows.start + 1).len());
        let per_segment = 4 * BLOCK + 8 + segment_bytes;
        let rows_bytes: usize = rows.iter().map(|rows| (FIXED_LEN + 8) + rows.len() * per_segment).sum();
        let tail_bytes = (FIXED_LEN + 8) + 8 + 4 * (job.tokens.len() % BLOCK) + tail.len();
        Self { rows, parent: known.parent, tail, bytes: (rows_bytes + tail_bytes) as u64 }
    }
}

impl Shared {
    /// Rows first: a tail that is there stands on what is there. False: something was refused.
    fn write_files<M: Model>(&self, job: &Write<M::State>, plan: &Plan) -> bool {
        let mut parent = plan.parent;
        for range in &plan.rows {
            let body = M::segments(&job.state, range.clone());
            let segments = body.chunks_exact(body.len() / range.len());
            let header = Header {
                root: job.root,
                parent,
                first_segment: range.start,
                tokens: job.tokens[range.start * BLOCK..range.end * BLOCK].to_vec(),
                body: Body::Rows {
                    segment_bytes: body.len() / range.len(),
                    checksums: segments.map(checksum).collect(),
                },
            };
            let id = name(job.root, range.start, false, &job.tokens[..range.end * BLOCK]);
            if !self.write_file(id, &header, &body) {
                return false;
            }
            parent = Some(id);
        }
        let n_segments = job.tokens.len() / BLOCK;
        let (bytes, checksum) = (plan.tail.len(), checksum(&plan.tail));
        let header = Header {
            root: job.root,
            parent,
            first_segment: n_segments,
            tokens: job.tokens[n_segments * BLOCK..].to_vec(),
            body: Body::Tail { bytes, checksum, is_mark: job.is_mark },
        };
        self.write_file(name(job.root, 0, true, &job.tokens), &header, &plan.tail)
    }

    fn write_file(&self, id: FileId, header: &Header, body: &[u8]) -> bool {
        if self.folder.write(id, header, body).is_err() {
            self.counters.disk_errors.add(1);
            return false;
        }
        self.counters.disk_write_bytes.add(header.len() + body.len());
        let is_in = self.index().insert(id, header);
        if !is_in {
            // What it stands on was found broken meanwhile.
            self.folder.remove(id);
        }
        is_in
    }

    /// Tries what is there, the longest first, until something is whole.
    fn read<M: Model>(&self, mut job: Read<M::State>) {
        loop {
            let mut index = self.index();
            if index.reach(job.root, &job.prompt) <= job.more_than {
                return;
            }
            let Some(found) = index.find(job.root, &job.prompt) else { return };
            drop(index);
            match self.read_state::<M>(&job, &found) {
                Ok(state) => {
                    self.counters.disk_reads.add(1);
                    self.folder.touch(found.tail);
                    job.answer.restored.state = Some(state);
                    return;
                }
                Err((id, ReadError::Broken)) => {
                    self.counters.disk_broken.add(1);
                    self.forget(id);
                }
                Err((id, ReadError::Io)) => {
                    self.counters.disk_errors.add(1);
                    self.forget(id);
                }
            }
            self.count();
        }
    }

    /// Reads a state; what is at fault otherwise. Names and the index led here; the tokens in the files decide.
    fn read_state<M: Model>(
        &self,
        job: &Read<M::State>,
        found: &Found,
    ) -> Result<M::State, (FileId, ReadError)> {
        let mut segments = Vec::with_capacity(found.n_tokens / BLOCK);
        for (id, range) in &found.rows {
            let read = self.folder.read_rows(*id, range.clone());
            let (header, own) = read.map_err(|error| (*id, error))?;
            let start = header.first_segment.saturating_mul(BLOCK);
            let same = job.prompt.get(start..).map_or(0, |rest| n_common(rest, &header.tokens));
            if header.root != job.root || header.first_segment != segments.len() || same < range.end * BLOCK {
                return Err((*id, ReadError::Broken));
            }
            segments.extend(own);
        }
        let (header, tail) = self.folder.read_tail(found.tail).map_err(|error| (found.tail, error))?;
        let rest = job.prompt[..found.n_tokens].get(header.first_segment.saturating_mul(BLOCK)..);
        if header.root != job.root
            || header.first_segment != segments.len()
            || rest != Some(header.tokens.as_slice())
        {
            return Err((found.tail, ReadError::Broken));
        }
        let bytes = segments.iter().map(Vec::len).sum::<usize>() + tail.len();
        self.counters.disk_read_bytes.add(bytes);
        let parts: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
        match M::assemble(&job.empty, &parts, &tail) {
            Ok(state) if M::position(&state) == found.n_tokens => Ok(state),
            _ => Err((found.tail, ReadError::Broken)),
        }
    }

    fn forget(&self, id: FileId) {
        let gone = self.index().remove(id);
        self.delete(gone);
    }
}
