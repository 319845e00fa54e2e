//! Why an evaluation ends without a result.

use cuvier_engine::EngineError;
use cuvier_model::ModelError;
use cuvier_train::data::{DataError, SampleError};

/// Why an evaluation ends without a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file of documents.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A sample that this vocabulary cannot write.
    #[error("a sample cannot be asked")]
    Sample(#[from] SampleError),
    /// The model refuses.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An answer came to no end.
    #[error("an answer failed: {message}")]
    Answer {
        /// What the engine said.
        message: String,
    },
    /// A draft needs a drafter.
    #[error("this checkpoint has no MTP block")]
    NoMtp,
    /// There is nothing to read.
    #[error("{from}: no document that fits into {context_max} tokens")]
    NoPassage {
        /// Where documents were to come from.
        from: String,
        /// Tokens that a document may have.
        context_max: usize,
    },
    /// A length without room for what is asked.
    #[error("a length of {length} tokens has no room for values at {depths} depths; {least} would do")]
    TooShort {
        /// The length asked for.
        length: usize,
        /// Values in the text.
        depths: usize,
        /// A length that has room.
        least: usize,
    },
    /// A length that the model does not take.
    #[error("a length of {length} tokens exceeds the context of {context_max}")]
    TooLong {
        /// The length asked for.
        length: usize,
        /// Tokens of the context.
        context_max: usize,
    },
    /// An option without any item.
    #[error("`{option}` must name at least one")]
    Empty {
        /// The option.
        option: &'static str,
    },
}
