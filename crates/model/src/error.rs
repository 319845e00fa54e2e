//! What can go wrong in the model.

use cuvier_weights::WeightsError;

/// Why a model could not be loaded or a step not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The checkpoint does not have what the model needs.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Tensors that belong together do not fit each other.
    #[error("`{name}`: {source}")]
    Parts {
        /// The first of them.
        name: String,
        /// What does not fit.
        source: cuvier_tensor::TensorError,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// A chunk that would not fit the context.
    #[error("{tokens} tokens after {position} exceed the context of {context_max}")]
    Context {
        /// Tokens already in the state.
        position: usize,
        /// Tokens of the chunk.
        tokens: usize,
        /// `max_position_embeddings`.
        context_max: usize,
    },
    /// A batch and its states do not belong together.
    #[error("the batch has {chunks} chunks but {states} states")]
    States {
        /// Chunks of the batch.
        chunks: usize,
        /// States given.
        states: usize,
    },
    /// A chunk without tokens.
    #[error("chunk {chunk} has no tokens")]
    EmptyChunk {
        /// Its place in the batch.
        chunk: usize,
    },
    /// A state of another model, or made with another `--kv`.
    #[error("the saved state belongs to another model or another cache format")]
    ForeignState,
    /// A saved state that is cut short or was altered.
    #[error("the saved state is damaged: {problem}")]
    DamagedState {
        /// What gives it away.
        problem: &'static str,
    },
    /// More tokens than a rollback can take back without computing anew.
    #[error("cannot roll back {tokens} tokens; at most {max} are kept")]
    RollbackTooFar {
        /// Tokens asked for.
        tokens: usize,
        /// Tokens that can be taken back.
        max: usize,
    },
    /// The operating system refused threads.
    #[error("starting threads")]
    Threads(#[source] std::io::Error),
}
