//! Conversations at rest: the engine thread's side of [`crate::Conversation`].

use std::collections::HashMap;

use cuvier_types::{SequenceId, TokenId};

use crate::request::Bounds;
use crate::{EngineError, Model, Request, RestoreError, saved};

/// Names a conversation within its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConversationId(pub(crate) u64);

/// All conversations of an engine.
pub(crate) struct Shelf<S> {
    kept: HashMap<ConversationId, Kept<S>>,
}

struct Kept<S> {
    /// The whole history. While an answer is under way the sequence has it.
    tokens: Vec<TokenId>,
    /// Some of the history's beginning; the rest is computed when it is needed. `None`: nothing.
    state: Option<S>,
    answering: Option<SequenceId>,
}

/// What an answer starts from.
pub(crate) struct Start<S> {
    /// History and new tokens.
    pub(crate) tokens: Vec<TokenId>,
    /// Holds fewer than all of them.
    pub(crate) state: Option<S>,
}

impl<S> Shelf<S> {
    pub(crate) fn new() -> Self {
        Self { kept: HashMap::new() }
    }

    pub(crate) fn open(&mut self, id: ConversationId) {
        self.put(id, Vec::new(), None);
    }

    /// Forgets a conversation; says which sequence was answering it.
    pub(crate) fn close(&mut self, id: ConversationId) -> Option<SequenceId> {
        self.kept.remove(&id).and_then(|kept| kept.answering)
    }

    /// Hands the conversation's history over to the sequence that will answer it.
    pub(crate) fn begin<M: Model<State = S>>(
        &mut self,
        model: &M,
        id: ConversationId,
        sequence: SequenceId,
        request: &Request,
        bounds: Bounds,
    ) -> Result<Start<S>, EngineError> {
        let kept = self.resting(id)?;
        request.check_len(kept.tokens.len() + request.prompt.len(), bounds)?;
        kept.answering = Some(sequence);
        let mut tokens = std::mem::take(&mut kept.tokens);
        tokens.extend_from_slice(&request.prompt);
        // The last token has to be computed for its logits.
        let state = kept.state.take().and_then(|state| shortened(model, state, tokens.len() - 1));
        Ok(Start { tokens, state })
    }

    /// Takes the history back, the answer with it, unless the conversation was closed meanwhile.
    pub(crate) fn end(&mut self, id: ConversationId, tokens: Vec<TokenId>, state: Option<S>) {
        if self.kept.contains_key(&id) {
            self.put(id, tokens, state);
        }
    }

    pub(crate) fn tokens(&mut self, id: ConversationId) -> Result<Vec<TokenId>, EngineError> {
        Ok(self.resting(id)?.tokens.clone())
    }

    pub(crate) fn fork<M: Model<State = S>>(
        &mut self,
        model: &M,
        from: ConversationId,
        to: ConversationId,
    ) -> Result<(), EngineError> {
        let kept = self.resting(from)?;
        let (tokens, state) = (kept.tokens.clone(), kept.state.as_ref().map(|state| model.fork(state)));
        self.put(to, tokens, state);
        Ok(())
    }

    pub(crate) fn rollback<M: Model<State = S>>(
        &mut self,
        model: &M,
        id: ConversationId,
        n_tokens: usize,
    ) -> Result<(), EngineError> {
        let kept = self.resting(id)?;
        let have = kept.tokens.len();
        let left =
            have.checked_sub(n_tokens).ok_or(EngineError::RollbackPastStart { asked: n_tokens, have })?;
        kept.tokens.truncate(left);
        kept.state = kept.state.take().and_then(|state| shortened(model, state, left));
        Ok(())
    }

    pub(crate) fn save<M: Model<State = S>>(
        &mut self,
        model: &M,
        id: ConversationId,
    ) -> Result<Vec<u8>, EngineError> {
        let kept = self.resting(id)?;
        // An empty state is written too: it carries the model's fingerprint.
        let state = kept.state.get_or_insert_with(|| model.new_state());
        Ok(saved::write(&kept.tokens, &model.save(state)))
    }

    pub(crate) fn restore<M: Model<State = S>>(
        &mut self,
        model: &M,
        id: ConversationId,
        bytes: &[u8],
        bounds: Bounds,
    ) -> Result<(), RestoreError> {
        let saved = saved::read(bytes)?;
        bounds.check_tokens("history", saved.tokens.iter().copied())?;
        let state = model.restore(saved.state).map_err(|error| RestoreError::State(Box::new(error)))?;
        let (position, tokens) = (M::position(&state), saved.tokens.len());
        if position > tokens {
            return Err(RestoreError::Position { position, tokens });
        }
        self.put(id, saved.tokens, Some(state));
        Ok(())
    }

    fn put(&mut self, id: ConversationId, tokens: Vec<TokenId>, state: Option<S>) {
        self.kept.insert(id, Kept { tokens, state, answering: None });
    }

    fn resting(&mut self, id: ConversationId) -> Result<&mut Kept<S>, EngineError> {
        let kept = self.kept.get_mut(&id).expect("a conversation is kept as long as its handle");
        if kept.answering.is_some() { Err(EngineError::Busy) } else { Ok(kept) }
    }
}

/// The state cut to at most `n_max` tokens; `None` where the model cannot go back so far.
fn shortened<M: Model>(model: &M, mut state: M::State, n_max: usize) -> Option<M::State> {
    let n_back = M::position(&state).saturating_sub(n_max);
    (n_back == 0 || model.rollback(&mut state, n_back).is_ok()).then_some(state)
}
