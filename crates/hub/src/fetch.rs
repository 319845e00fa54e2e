//! The workers: each takes the next piece of work and does it, until all files are whole or one failed.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::chunks::Chunks;
use crate::content::hash_file;
use crate::folder::{Folder, Place, length};
use crate::manifest::{Manifest, Recorded};
use crate::part::{ChunkWriter, Part, claimed};
use crate::remote::{Remote, Sink};
use crate::watch::Event;
use crate::work::{Job, Next, Work};
use crate::{HubError, RemoteFile};

/// How long a worker without work sleeps before it looks whether to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One file that is to come.
pub(crate) struct Missing {
    pub(crate) file: RemoteFile,
    pub(crate) place: Place,
    pub(crate) chunks: Chunks,
}

/// What the workers share.
struct Shared<'a> {
    remote: &'a Remote<'a>,
    folder: &'a Folder,
    files: &'a [Missing],
    parts: Vec<Mutex<Option<Arc<Part>>>>,
    work: Mutex<Work>,
    changed: Condvar,
    manifest: Mutex<&'a mut Manifest>,
    failure: Mutex<Option<HubError>>,
}

/// Fetches all files and records each in the manifest as it becomes whole.
pub(crate) fn fetch(
    remote: &Remote<'_>,
    folder: &Folder,
    files: &[Missing],
    manifest: &mut Manifest,
) -> Result<(), HubError> {
    let shared = Shared {
        remote,
        folder,
        files,
        parts: files.iter().map(|_| Mutex::new(None)).collect(),
        work: Mutex::new(Work::new(files.iter().map(|missing| missing.chunks.count()))),
        changed: Condvar::new(),
        manifest: Mutex::new(manifest),
        failure: Mutex::new(None),
    };
    thread::scope(|scope| {
        for _ in 0..remote.client.connections().get() {
            scope.spawn(|| shared.run());
        }
    });
    match shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => remote.watch.check(),
    }
}

impl Shared<'_> {
    fn run(&self) {
        while let Some(job) = self.next() {
            let done = self.act(&job);
            if let Err(error) = done {
                // The first failure is the reason; those after it may only be its echo.
                lock(&self.failure).get_or_insert(error);
                self.remote.watch.stop();
                self.remote.client.shut_down();
            }
            self.changed.notify_all();
        }
    }

    /// The next piece of work, waited for; `None` if there is no more, or the work is to stop.
    fn next(&self) -> Option<Job> {
        let mut work = lock(&self.work);
        loop {
            self.remote.watch.check().ok()?;
            match work.next() {
                Next::Job(job) => return Some(job),
                Next::End => return None,
                Next::Wait => {
                    let woken = self.changed.wait_timeout(work, LOOK_EVERY);
                    work = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn act(&self, job: &Job) -> Result<(), HubError> {
        match *job {
            Job::Prepare { file } => self.prepare(file),
            Job::Fetch { file, chunk } => {
                let fetched = self.fetch(file, chunk);
                lock(&self.work).ended(file);
                fetched
            }
            Job::Finish { file } => self.finish(file),
        }
    }

    fn prepare(&self, index: usize) -> Result<(), HubError> {
        let Missing { file, place, chunks } = &self.files[index];
        let claimed = claimed(place, file, *chunks)?.done_bytes();
        let (part, done) = Part::open(place, file, *chunks, &|| self.remote.watch.check())?;
        let kept: u64 =
            done.iter().map(|&chunk| chunks.range(chunk)).map(|range| range.end - range.start).sum();
        self.void(index, claimed - kept.min(claimed), "the partial file is not what its journal says");
        *lock(&self.parts[index]) = Some(Arc::new(part));
        lock(&self.work).prepared(index, &done);
        Ok(())
    }

    fn fetch(&self, index: usize, chunk: u64) -> Result<(), HubError> {
        let part =
            lock(&self.parts[index]).clone().expect("a file is prepared before its chunks are given out");
        let Missing { file, chunks, .. } = &self.files[index];
        let mut sink = ChunkSink { shared: self, index, writer: part.writer(chunk)?, is_stream: false };
        self.remote.read(file, chunks.range(chunk), &mut sink)
    }

    fn finish(&self, index: usize) -> Result<(), HubError> {
        let Missing { file, place, chunks } = &self.files[index];
        let content = hash_file(&place.part, &file.id, *chunks, &mut |_| self.remote.watch.check())?;
        if content.id == file.id && length(&place.part)? == Some(file.size) {
            // No handle may be open where a rename would mind.
            *lock(&self.parts[index]) = None;
            place.publish()?;
            let mut manifest = lock(&self.manifest);
            manifest.files.insert(file.name.clone(), Recorded::new(&place.file, *chunks, content));
            manifest.write(self.folder.path())?;
            self.remote.watch.tell(Event::Done { file: file.name.to_string(), bytes: file.size });
            lock(&self.work).finished(index);
            return Ok(());
        }
        *lock(&self.parts[index]) = None;
        place.discard()?;
        let mut work = lock(&self.work);
        if work.attempts(index) > 0 {
            let (want, got) = (file.id.to_string(), content.id.to_string());
            return Err(HubError::Hash { file: file.name.to_string(), want, got });
        }
        work.again(index);
        self.void(index, file.size, "its hash is wrong");
        Ok(())
    }

    fn void(&self, index: usize, bytes: u64, reason: &'static str) {
        if bytes > 0 {
            let file = self.files[index].file.name.to_string();
            self.remote.watch.tell(Event::Void { file, bytes, reason });
        }
    }
}

/// Writes what comes to the partial file, chunk by chunk.
struct ChunkSink<'a, 's> {
    shared: &'a Shared<'s>,
    index: usize,
    writer: ChunkWriter<'a>,
    is_stream: bool,
}

impl Sink for ChunkSink<'_, '_> {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), HubError> {
        while !bytes.is_empty() {
            let (chunk, _) = self.writer.at();
            let is_new = lock(&self.shared.work).is_missing(self.index, chunk);
            let (taken, whole) = self.writer.write(bytes)?;
            if is_new {
                self.shared.remote.watch.tell(Event::Came(taken as u64));
            }
            if whole {
                lock(&self.shared.work).came(self.index, chunk);
            }
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn widen(&mut self) -> Option<Range<u64>> {
        let chunks = lock(&self.shared.work).widen(self.index, self.is_stream);
        self.shared.void(self.index, self.writer.at().1, "the server sends whole files only");
        let chunks = chunks?;
        self.is_stream = true;
        // If it cannot seek it cannot write either, and then says so.
        self.writer.restart(chunks.start).ok()?;
        Some(self.shared.files[self.index].chunks.span(&chunks))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
