//! What can be wrong with what training leaves on the disk.

use std::io;
use std::path::{Path, PathBuf};

use cuvier_weights::WeightsError;

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A file of tensors or a config.
    #[error(transparent)]
    Weights(#[from] WeightsError),
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
    /// A text file is not the JSON it should be.
    #[error("{}: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A tensor is not what the config asks for.
    #[error("{}: tensor `{name}` {problem}", file.display())]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A checkpoint of another version of this program.
    #[error("{}: is of format {got}; this program reads format {want}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format.
        got: u64,
        /// The format of this program.
        want: u64,
    },
}

impl SaveError {
    pub(crate) fn io(file: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self + use<> {
        let file = file.to_owned();
        move |source| Self::Io { file, doing, source }
    }

    pub(super) fn tensor(file: &Path, name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { file: file.to_owned(), name: name.to_owned(), problem: problem.into() }
    }
}
