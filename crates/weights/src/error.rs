//! What can be wrong with a checkpoint, as fields.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a checkpoint, a config or a synthetic checkpoint was refused.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
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
    /// The folder is not there, or it is no checkpoint.
    #[error("{}: not there; a checkpoint is a folder that has it beside its safetensors files", file.display())]
    NoCheckpoint {
        /// The `config.json` that was looked for.
        file: PathBuf,
    },
    /// A field of `config.json` is missing, out of bounds, or contradicts another.
    #[error("{file}: `{field}` {problem}")]
    Config {
        /// The file.
        file: String,
        /// The key.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The config describes another architecture.
    #[error("{file}: {found}, which is another architecture; this program runs DeepSeek-V4 (Flash and Pro)")]
    Architecture {
        /// The file.
        file: String,
        /// What gives it away.
        found: String,
    },
    /// A text file is not the JSON it should be.
    #[error("{file}: {source}")]
    Json {
        /// The file.
        file: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A safetensors file is broken as a whole.
    #[error("{file}: {problem}")]
    Header {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The header entry of one tensor is broken.
    #[error("{file}: tensor `{name}` {problem}")]
    Entry {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The same tensor is there twice.
    #[error("{file}: tensor `{name}` is also in {other}")]
    Duplicate {
        /// The file in which it was met again.
        file: String,
        /// The tensor.
        name: String,
        /// Where it was met first.
        other: String,
    },
    /// The index of a sharded checkpoint is wrong.
    #[error("{file}: {problem}")]
    Index {
        /// The index.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor that the config implies is not there.
    #[error("{file}: tensor `{name}` is missing; config.json implies shape {want:?}")]
    Missing {
        /// The file or index that should have it.
        file: String,
        /// The tensor.
        name: String,
        /// Its implied shape.
        want: Vec<usize>,
    },
    /// A tensor has another shape than the config implies.
    #[error("{file}: tensor `{name}` has shape {got:?}, config.json implies {want:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// The implied shape.
        want: Vec<usize>,
    },
    /// A tensor is stored in a way that its place does not allow.
    #[error("{file}: tensor `{name}` is stored as {got}, expected {want}")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its dtype.
        got: String,
        /// What its place allows.
        want: &'static str,
    },
    /// A number is NaN or infinite.
    #[error("{file}: tensor `{name}` holds a value that is not a finite number, at element {element}")]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The first such element, row major.
        element: usize,
    },
    /// A table names an expert that does not exist, or one twice for the same token.
    #[error("{file}: tensor `{name}`, row {row}: {problem}")]
    Table {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The token id.
        row: usize,
        /// What is wrong.
        problem: String,
    },
    /// Asked for a tensor that the checkpoint does not have.
    #[error("{file}: there is no tensor `{name}`")]
    NoSuchTensor {
        /// The checkpoint.
        file: String,
        /// The name asked for.
        name: String,
    },
    /// The same one thing that several callers waited for.
    #[error(transparent)]
    Shared(Arc<WeightsError>),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A synthetic checkpoint was asked for that cannot be made.
    #[error("{option}: {problem}")]
    Synth {
        /// The option at fault.
        option: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl WeightsError {
    pub(crate) fn io(file: impl Into<PathBuf>, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io { file, doing, source }
    }

    /// Of an error in reading `config.json`: that there is none, if that was it.
    pub(crate) fn of_config(self) -> Self {
        match self {
            Self::Io { file, source, .. }
                if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                Self::NoCheckpoint { file }
            }
            other => other,
        }
    }
}
