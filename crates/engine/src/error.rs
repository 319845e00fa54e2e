//! What can go wrong at the engine's door.

use std::error::Error;
use std::path::PathBuf;

use cuvier_types::TokenId;

/// Why the engine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request itself is at fault.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A saved conversation cannot be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The cache cannot be opened.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The configuration leaves the engine no room to work.
    #[error("engine config: `{name}` must be at least 1")]
    ZeroLimit {
        /// The field.
        name: &'static str,
    },
    /// The operating system refused a thread.
    #[error("starting the engine thread")]
    Thread(#[source] std::io::Error),
    /// The engine was shut down or has died.
    #[error("the engine has stopped")]
    Stopped,
    /// The conversation is giving an answer; wait for its last event or drop its stream.
    #[error("the conversation is still answering")]
    Busy,
    /// There are fewer tokens than were to be taken back.
    #[error("cannot take back {asked} tokens of a conversation of {have}")]
    RollbackPastStart {
        /// Tokens to be taken back.
        asked: usize,
        /// Tokens of the conversation.
        have: usize,
    },
}

/// Why the cache cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another process has the folder.
    #[error("cache: {} is in use by another process; give each its own folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be used.
    #[error("cache: {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The operating system refused a thread.
    #[error("cache: starting a thread")]
    Thread(#[source] std::io::Error),
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// There is nothing to answer.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token that the model does not know.
    #[error("{place}: token {} is outside the vocabulary of {vocab_size}", token.0)]
    TokenOutOfVocabulary {
        /// The field that holds it.
        place: &'static str,
        /// The token.
        token: TokenId,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// A parameter outside its range.
    #[error("`{name}` is {value}, must be {range}")]
    ParameterOutOfRange {
        /// The field of `SamplingParams`.
        name: &'static str,
        /// What it was.
        value: f32,
        /// What it may be.
        range: &'static str,
    },
    /// The prompt and at least one token of answer do not fit.
    #[error("a prompt of {prompt} tokens leaves no room to answer in a context of {context_max} tokens")]
    PromptTooLong {
        /// Tokens of the prompt; of a conversation, with all that came before.
        prompt: usize,
        /// The limit.
        context_max: usize,
    },
}

/// Why a saved conversation cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// These bytes are something else.
    #[error("not a saved conversation")]
    NotAConversation,
    /// Written by another version.
    #[error("saved in format {got}, this version reads {want}")]
    Version {
        /// The version found.
        got: u32,
        /// The version that can be read.
        want: u32,
    },
    /// The end is missing, or there is something after it.
    #[error("the saved conversation has {got} bytes, its header says {want}")]
    Length {
        /// Bytes found.
        got: u64,
        /// Bytes expected.
        want: u64,
    },
    /// The bytes are not the ones that were saved.
    #[error("the saved conversation was altered: its checksum is {got:016x}, it says {want:016x}")]
    Checksum {
        /// Of the bytes found.
        got: u64,
        /// Written at the end.
        want: u64,
    },
    /// The model does not take the state.
    #[error("the saved state does not fit this model: {0}")]
    State(#[source] Box<dyn Error + Send + Sync>),
    /// State and history contradict each other.
    #[error("the saved state holds {position} tokens, the history {tokens}")]
    Position {
        /// Tokens in the state.
        position: usize,
        /// Tokens of the history.
        tokens: usize,
    },
    /// The history does not fit this model.
    #[error(transparent)]
    History(#[from] RequestError),
}

/// An error and what is behind it, from the outside in; a cause that the text before it ends with is not said again.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut behind = error.source();
    while let Some(error) = behind {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        behind = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_whether_or_not_the_error_says_it_itself() {
        let cause = || std::io::Error::other("no room");
        assert_eq!(with_causes(&EngineError::Thread(cause())), "starting the engine thread: no room");
        let says_it = RestoreError::State(Box::new(cause()));
        assert_eq!(with_causes(&says_it), "the saved state does not fit this model: no room");
    }
}
