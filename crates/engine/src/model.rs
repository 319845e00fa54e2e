//! What the engine asks of a model.

use std::ops::Range;
use std::sync::Arc;

use cuvier_model::LayerReads;
use cuvier_types::Batch;

/// A model as the engine sees it: it turns batches into logits, and knows how to handle its own states.
pub trait Model: Send + 'static {
    /// All that the model remembers of one sequence.
    type State: Send + 'static;
    /// Why a step could not be taken, or a state not be restored.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Tokens of the vocabulary; the length of a row of logits.
    fn vocab_size(&self) -> usize;

    /// The most tokens a sequence may have.
    fn context_max(&self) -> usize;

    /// The state of a sequence without tokens.
    fn new_state(&self) -> Self::State;

    /// A second state equal to the first; cheap, since memory is shared until one of them grows. What the first was
    /// asked to hold, the second need not.
    fn fork(&self, state: &Self::State) -> Self::State;

    /// Tokens in a state.
    fn position(state: &Self::State) -> usize;

    /// The most tokens that [`Model::rollback`] can take back of a state.
    fn rollback_max(state: &Self::State) -> usize;

    /// Takes back the last `tokens` tokens of a state.
    ///
    /// # Errors
    /// If so many cannot be taken back; the state is unchanged then. The engine computes the prefix anew.
    fn rollback(&self, state: &mut Self::State, tokens: usize) -> Result<(), RollbackTooFar>;

    /// A state as bytes, with what is needed to refuse it in another model.
    fn save(&self, state: &Self::State) -> Vec<u8>;

    /// Reads a state back.
    ///
    /// # Errors
    /// If the bytes are not a whole state of this model.
    fn restore(&self, bytes: &[u8]) -> Result<Self::State, Self::Error>;

    /// A number that differs between models whose states must not be mixed, and changes when the same model comes to
    /// compute other bits.
    fn identity(&self) -> u64;

    /// Asks a state to keep, through the next step, what it takes to be [`Model::at`] any place from `position` on.
    fn hold_from(state: &mut Self::State, position: usize);

    /// The state that this one was when it had `position` tokens, without what only a rollback would need. `None`: what
    /// that takes is gone; what it takes to be where it is never is.
    fn at(state: &Self::State, position: usize) -> Option<Self::State>;

    /// Tells every piece of memory that forks may share, by its address and its bytes, and returns the bytes that are
    /// the state's alone. The same state always tells the same.
    fn memory(state: &Self::State, shared: &mut dyn FnMut(usize, usize)) -> usize;

    /// What only ever grows of a state, of its whole segments of 128 tokens those in `range`, each equally long: the
    /// same bytes in every state whose tokens up to their end are the same.
    fn segments(state: &Self::State, range: Range<usize>) -> Vec<u8>;

    /// What its whole segments do not hold of a state.
    fn tail(state: &Self::State) -> Vec<u8>;

    /// The state that gave these segments, from the first on, and this tail; `empty` is a state of the model.
    ///
    /// # Errors
    /// If they are not those of one state of this model.
    fn assemble(empty: &Self::State, segments: &[&[u8]], tail: &[u8]) -> Result<Self::State, Self::Error>;

    /// What tells how much of the weights was read from disk. `None`: all are in memory.
    fn reads(&self) -> Option<ReadReport> {
        None
    }

    /// Appends every chunk to its state (`states` is parallel to `batch.chunks`) and gives the logits of the rows
    /// that were asked for, in the order of the batch.
    ///
    /// # Errors
    /// If the step could not be taken. The states may hold anything then: the engine throws them away.
    fn forward(&mut self, batch: &Batch, states: &mut [&mut Self::State]) -> Result<Logits, Self::Error>;
}

/// Tells what was read of routed experts so far, by layer, from any thread.
pub type ReadReport = Arc<dyn Fn() -> Vec<LayerReads> + Send + Sync>;

/// More tokens than a state can take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot take back {asked} tokens, at most {max}")]
pub struct RollbackTooFar {
    /// Tokens that were to be taken back.
    pub asked: usize,
    /// Tokens that could have been.
    pub max: usize,
}

/// Rows of logits, `[rows asked for, vocab_size]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    vocab_size: usize,
    data: Vec<f32>,
}

impl Logits {
    /// Rows one after the other.
    ///
    /// # Panics
    /// If `data` is not a whole number of rows.
    pub fn new(vocab_size: usize, data: Vec<f32>) -> Self {
        assert!(data.len().is_multiple_of(vocab_size), "{} logits in rows of {vocab_size}", data.len());
        Self { vocab_size, data }
    }

    /// The rows, each one logit per token of the vocabulary.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.data.chunks_exact(self.vocab_size)
    }
}
