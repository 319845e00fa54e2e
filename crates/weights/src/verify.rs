//! Looking at every number of a checkpoint, and at every byte if asked to.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use cuvier_tensor::Dtype;
use sha2::{Digest, Sha256};

use crate::checkpoint::{Place, values};
use crate::safetensors::known;
use crate::{Checkpoint, WeightsError};

/// Bytes between two reports of progress.
const PIECE: usize = 16 << 20;

/// What [`Checkpoint::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Tensors looked at.
    pub tensors: usize,
    /// One per file, in order.
    pub files: Vec<FileReport>,
    /// What is broken, in the order of the files.
    pub findings: Vec<Finding>,
}

/// One file that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Its name.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// In hexadecimal, if asked for.
    pub sha256: Option<String>,
}

/// One tensor that is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its file.
    pub file: String,
    /// Its name there.
    pub tensor: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: tensor `{}` {}", self.file, self.tensor, self.problem)
    }
}

impl Checkpoint {
    /// Looks at every number: are all finite, do tables name existing experts? Names, dtypes, shapes and scales
    /// were checked when the checkpoint was opened. `hash` also takes the SHA-256 of every file. `progress` is
    /// told bytes done and in total, and says whether to go on.
    ///
    /// # Errors
    /// [`WeightsError::Interrupted`] if `progress` said to stop. Broken numbers are findings, not errors.
    pub fn verify(
        &self,
        hash: bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<VerifyReport, WeightsError> {
        let places = self.places();
        let file_bytes: Vec<u64> = self.files().iter().map(|f| (*f.storage).as_ref().len() as u64).collect();
        let total = self.tensor_bytes() + if hash { file_bytes.iter().sum() } else { 0 };
        let mut jobs: Vec<Job<'_>> = places.iter().map(|&(name, place)| Job::Tensor(name, place)).collect();
        if hash {
            // Hashes first: each is one long job, and the short ones fill the gaps.
            jobs.splice(0..0, (0..self.files().len()).map(Job::Hash));
        }
        let mut hashes = vec![None; self.files().len()];
        let mut findings = Vec::new();
        let whole = self.run(&jobs, |message, done| {
            match message {
                Message::Bytes(bytes) => *done += bytes,
                Message::Hash(file, sha256) => hashes[file] = Some(sha256),
                Message::Finding(order, finding) => findings.push((order, finding)),
            }
            progress(*done, total)
        });
        if !whole {
            return Err(WeightsError::Interrupted);
        }
        findings.sort_by_key(|(order, _)| *order);
        let files = self.files().iter().zip(file_bytes).zip(hashes);
        Ok(VerifyReport {
            tensors: places.len(),
            files: files
                .map(|((file, bytes), sha256)| FileReport { file: file.name.clone(), bytes, sha256 })
                .collect(),
            findings: findings.into_iter().map(|(_, finding)| finding).collect(),
        })
    }

    /// Does all jobs on all cores; false if `receive` said to stop.
    fn run(&self, jobs: &[Job<'_>], mut receive: impl FnMut(Message, &mut u64) -> bool) -> bool {
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(jobs.len());
        let next = AtomicUsize::new(0);
        let (send, messages) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..threads {
                let (send, next) = (send.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let order = next.fetch_add(1, Ordering::Relaxed);
                        let Some(job) = jobs.get(order) else { return };
                        // The receiver is gone: nobody wants the rest.
                        if self.work(job, order, &send).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            let mut done = 0;
            // Ending the loop drops the receiver, which stops the threads at their next message.
            messages.into_iter().all(|message| receive(message, &mut done))
        })
    }

    fn work(&self, job: &Job<'_>, order: usize, send: &mpsc::Sender<Message>) -> Result<(), Stopped> {
        match job {
            Job::Tensor(name, place) => {
                if let Some(problem) = self.problem(name, place) {
                    let file = self.files()[place.file].name.clone();
                    let finding = Finding { file, tensor: place.stored.clone(), problem };
                    send.send(Message::Finding(order, finding))?;
                }
                Ok(send.send(Message::Bytes(place.range.len() as u64))?)
            }
            Job::Hash(file) => {
                let mut hasher = Sha256::new();
                for piece in (*self.files()[*file].storage).as_ref().chunks(PIECE) {
                    hasher.update(piece);
                    send.send(Message::Bytes(piece.len() as u64))?;
                }
                let hex = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                Ok(send.send(Message::Hash(*file, hex))?)
            }
        }
    }

    fn problem(&self, name: &str, place: &Place) -> Option<String> {
        let bytes = &(*self.files()[place.file].storage).as_ref()[place.range.clone()];
        // What the model does not know it does not read.
        let dtype = known(place.dtype)?;
        if dtype == Dtype::I64 && name.ends_with(".gate.tid2eid") {
            let (row, problem) = values::expert_table(bytes, self.config()).err()?;
            return Some(format!("row {row}: {problem}"));
        }
        let element = values::not_finite(bytes, dtype)?;
        Some(format!("holds a value that is not a finite number, at element {element}"))
    }
}

enum Job<'a> {
    Hash(usize),
    Tensor(&'a str, &'a Place),
}

enum Message {
    Bytes(u64),
    Hash(usize, String),
    Finding(usize, Finding),
}

/// The receiver is gone.
struct Stopped;

impl From<mpsc::SendError<Message>> for Stopped {
    fn from(_: mpsc::SendError<Message>) -> Self {
        Self
    }
}
