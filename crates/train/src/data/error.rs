//! What can be wrong with data.

use std::io;
use std::path::PathBuf;

use cuvier_encoding::{ConversationError, MissingToken, TokenizerError};
use thiserror::Error;

use super::sample::Task;

/// Why data could not be made or read. What is behind it is its source, and not repeated in its own text.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The config is not TOML, or has a key or value that it should not have.
    #[error("{}", file.display())]
    Config {
        /// The config.
        file: PathBuf,
        /// Which key, in which line.
        source: Box<toml::de::Error>,
    },
    /// An option of a source is out of its bounds.
    #[error("{}, line {line}: a source of `{}`", file.display(), task.name())]
    Option {
        /// The config.
        file: PathBuf,
        /// Where the source begins, from 1.
        line: usize,
        /// Its task.
        task: Task,
        /// Which option.
        source: OptionError,
    },
    /// A source of text says nowhere where its text is.
    #[error("{}, line {line}: a source of `text` needs a `path`, here or on the command line", file.display())]
    NoPath {
        /// The config.
        file: PathBuf,
        /// Where the source begins, from 1.
        line: usize,
    },
    /// The options leave nothing for one half.
    #[error(
        "a source of `{}` finds nothing {} with these options; allow it more variety",
        task.name(), if *held_out { "to hold out" } else { "to train on" }
    )]
    Exhausted {
        /// The task.
        task: Task,
        /// Which half.
        held_out: bool,
    },
    /// A line of a file is not a sample.
    #[error("{}, line {line}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        source: SampleError,
    },
    /// A sample that was made here cannot be encoded.
    #[error("a sample of `{}`", task.name())]
    Sample {
        /// Its task.
        task: Task,
        /// What is wrong.
        source: SampleError,
    },
    /// A tokenizer that cannot be used.
    #[error("{}", path.display())]
    Tokenizer {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: TokenizerError,
    },
    /// A tokenizer cannot be trained.
    #[error("training a tokenizer: {message}")]
    Training {
        /// What the library said, or what is missing.
        message: String,
    },
    /// The folder to write is in use.
    #[error("{}: not empty; write to another folder, or allow it with --force", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
}

/// What is wrong with a sample.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SampleError {
    /// Not JSON, or not the JSON of a sample.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The messages are not a conversation.
    #[error(transparent)]
    Conversation(#[from] ConversationError),
    /// The vocabulary cannot say it.
    #[error(transparent)]
    MissingToken(#[from] MissingToken),
    /// Neither text nor messages, or both.
    #[error("a sample has either `text` or `messages`")]
    TextOrMessages,
    /// Only a conversation can have it.
    #[error("`{field}` belongs to a sample with `messages`")]
    OnlyChat {
        /// The key.
        field: &'static str,
    },
    /// The last message is not the assistant's, so there is nothing to train on.
    #[error("the last message must be the assistant's, or nothing is trained")]
    NoAnswer,
    /// The format writes what comes before the answer otherwise once the answer is there.
    #[error("message {message}: an answer here does not continue the prompt that asks for it")]
    NotContinued {
        /// The answer, counted from 0.
        message: usize,
    },
}

/// An option that is out of its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{option}` must be {want}, is {got}")]
pub struct OptionError {
    /// Its key.
    pub option: &'static str,
    /// What it must be.
    pub want: &'static str,
    /// What it is.
    pub got: String,
}

impl OptionError {
    /// Refuses the option unless it holds.
    pub(super) fn unless(
        holds: bool,
        option: &'static str,
        want: &'static str,
        got: &impl std::fmt::Debug,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self { option, want, got: format!("{got:?}") }) }
    }
}

/// An error and what is behind it, as the command line shows it.
#[cfg(test)]
pub(super) fn told(error: &DataError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
