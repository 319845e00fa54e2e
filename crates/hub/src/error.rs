//! What can go wrong between a hub and a folder, as fields. No field ever holds a token or a signed address.

use std::io;
use std::path::PathBuf;

use cuvier_weights::WeightsError;

/// Why a download or a check ended.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// An address, a repository or a revision is not one.
    #[error("{what} {text:?} {problem}")]
    Request {
        /// Which of them.
        what: &'static str,
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The hub names a file in a way that is not safe to use on this or another machine.
    #[error("the hub lists a file {name:?}, which {problem}: nothing was written")]
    Name {
        /// As the hub has it.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The hub's list of files is not one, or lacks what a download must know.
    #[error("the hub's list of {repo}: {problem}")]
    Listing {
        /// The repository.
        repo: String,
        /// What is wrong.
        problem: String,
    },
    /// The hub says no, and would say no again.
    #[error("{what}: the hub answers {status}: {hint}")]
    Refused {
        /// The file or list that was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it most likely means.
        hint: &'static str,
    },
    /// A server does not prove to be the one that was asked.
    #[error("{host}: no connection that can be trusted: {reason}")]
    Untrusted {
        /// The server.
        host: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// Every try failed in a way that may pass.
    #[error("{what}: gave up after {tries} tries in a row without a byte; the last: {reason}")]
    GaveUp {
        /// The file or list that was asked for.
        what: String,
        /// How many.
        tries: u32,
        /// What the last met.
        reason: String,
    },
    /// What the hub sends is not what it listed.
    #[error(
        "{file}: the hub listed {fact} {want}, but now answers with {got}; run the command again to start from its new list"
    )]
    Changed {
        /// The file.
        file: String,
        /// Which fact of it.
        fact: &'static str,
        /// As listed.
        want: String,
        /// As answered.
        got: String,
    },
    /// All bytes came twice, and twice they were not those that the hub listed.
    #[error("{file}: fetched twice, and both times its hash was not the listed {want}; the second was {got}")]
    Hash {
        /// The file.
        file: String,
        /// As listed.
        want: String,
        /// Of what came.
        got: String,
    },
    /// The disk is too small for what is missing.
    #[error("{}: {need} bytes are still to come, but the disk has only {free} free", folder.display())]
    Space {
        /// Where they should go.
        folder: PathBuf,
        /// Bytes to come.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// Another download fills the same folder.
    #[error("{}: another download is filling this folder", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// A link stands where a file should be written, and might lead out of the folder.
    #[error("{}: is not a plain {want}; move it away", path.display())]
    NotPlain {
        /// The path.
        path: PathBuf,
        /// `file` or `folder`.
        want: &'static str,
    },
    /// The folder's record of its files is absent or broken.
    #[error("{}: {problem}", file.display())]
    Manifest {
        /// The record.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The operating system refused.
    #[error("{}: {doing}: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A config, index or header that the hub sent is broken.
    #[error("at the hub: {0}")]
    Weights(#[from] WeightsError),
    /// The caller asked to stop. What came so far is kept.
    #[error("interrupted")]
    Interrupted,
}

impl HubError {
    pub(crate) fn io(file: impl Into<PathBuf>, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io { file, doing, source }
    }
}
