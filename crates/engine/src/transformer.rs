//! DeepSeek-V4 as the engine's model.

use std::ops::Range;
use std::sync::Arc;

use cuvier_model::{Compute, Ctx, KvFormat, ModelError, SequenceState, Transformer};
use cuvier_types::Batch;

use crate::{Logits, Model, ReadReport, RollbackTooFar};

/// A transformer with the threads it runs on and the format of its states.
pub struct TransformerModel {
    transformer: Arc<Transformer>,
    compute: Compute,
    kv: KvFormat,
}

impl TransformerModel {
    /// The weights may be shared: several engines can run one transformer.
    pub fn new(transformer: Arc<Transformer>, compute: Compute, kv: KvFormat) -> Self {
        Self { transformer, compute, kv }
    }
}

impl Model for TransformerModel {
    type State = SequenceState;
    type Error = ModelError;

    fn vocab_size(&self) -> usize {
        self.transformer.config().vocab_size
    }

    fn context_max(&self) -> usize {
        self.transformer.config().max_position_embeddings
    }

    fn new_state(&self) -> SequenceState {
        self.transformer.new_state(self.kv)
    }

    fn fork(&self, state: &SequenceState) -> SequenceState {
        let mut fork = state.clone();
        fork.settle();
        fork
    }

    fn position(state: &SequenceState) -> usize {
        state.position()
    }

    fn rollback_max(state: &SequenceState) -> usize {
        state.rollback_max()
    }

    fn rollback(&self, state: &mut SequenceState, tokens: usize) -> Result<(), RollbackTooFar> {
        state.rollback(tokens).map_err(|_| RollbackTooFar { asked: tokens, max: state.rollback_max() })
    }

    fn save(&self, state: &SequenceState) -> Vec<u8> {
        state.save()
    }

    fn restore(&self, bytes: &[u8]) -> Result<SequenceState, ModelError> {
        self.transformer.restore(bytes, self.kv)
    }

    fn identity(&self) -> u64 {
        self.new_state().identity()
    }

    fn hold_from(state: &mut SequenceState, position: usize) {
        state.hold_from(position);
    }

    fn at(state: &SequenceState, position: usize) -> Option<SequenceState> {
        state.at(position)
    }

    fn memory(state: &SequenceState, shared: &mut dyn FnMut(usize, usize)) -> usize {
        state.memory(shared)
    }

    fn segments(state: &SequenceState, range: Range<usize>) -> Vec<u8> {
        state.segments(range)
    }

    fn tail(state: &SequenceState) -> Vec<u8> {
        state.tail()
    }

    fn assemble(empty: &SequenceState, segments: &[&[u8]], tail: &[u8]) -> Result<SequenceState, ModelError> {
        empty.clone().assemble(segments.iter().copied(), tail)
    }

    fn reads(&self) -> Option<ReadReport> {
        self.transformer.expert_reads()?;
        let transformer = Arc::clone(&self.transformer);
        Some(Arc::new(move || transformer.expert_reads().unwrap_or_default()))
    }

    fn forward(&mut self, batch: &Batch, states: &mut [&mut SequenceState]) -> Result<Logits, ModelError> {
        let output = self.transformer.forward(batch, states, &mut Ctx::new(&self.compute))?;
        Ok(Logits::new(self.vocab_size(), output.logits.data().to_vec()))
    }
}
