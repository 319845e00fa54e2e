//! One sequence: its tokens, how many of them are computed, and when it ends.

use cuvier_types::{Chunk, FinishReason, LogitRows, SequenceId, TokenId};

/// A sequence as it is handed to the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Unused by any sequence that has not left yet.
    pub sequence: SequenceId,
    /// All tokens known so far, at least one.
    pub prompt: Vec<TokenId>,
    /// How many leading tokens of the prompt are in the sequence's state already; less than all of them.
    pub computed: usize,
    /// The most tokens to draw; `None` draws until the context is full. 0 computes the prompt and draws nothing.
    pub max_tokens: Option<usize>,
    /// Drawing one of these ends the answer; it is the answer's last token.
    pub stop_tokens: Vec<TokenId>,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    id: SequenceId,
    tokens: Vec<TokenId>,
    n_prompt: usize,
    computed: usize,
    /// A step of it was taken.
    has_begun: bool,
    draws_max: usize,
    stop_tokens: Vec<TokenId>,
    /// Until this many tokens are computed, the sequence takes its steps alone: one of them may bring a step
    /// down.
    alone_until: usize,
}

impl Sequence {
    pub(crate) fn new(submission: Submission, context_max: usize) -> Self {
        let room = context_max - submission.prompt.len();
        Self {
            id: submission.sequence,
            n_prompt: submission.prompt.len(),
            tokens: submission.prompt,
            computed: submission.computed,
            has_begun: false,
            draws_max: submission.max_tokens.unwrap_or(room).min(room),
            stop_tokens: submission.stop_tokens,
            alone_until: 0,
        }
    }

    pub(crate) fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    pub(crate) fn into_tokens(self) -> Vec<TokenId> {
        self.tokens
    }

    pub(crate) fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    pub(crate) fn computed(&self) -> usize {
        self.computed
    }

    /// Known tokens that are not computed yet.
    pub(crate) fn n_pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.tokens.len() > self.n_prompt
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.computed < self.alone_until
    }

    /// The next tokens to compute: `n_max` of them, or fewer where fewer are known.
    pub(crate) fn next_chunk(&self, n_max: usize) -> Chunk {
        let n = self.n_pending().min(n_max);
        let draws = n == self.n_pending() && self.draws_max > 0;
        Chunk {
            sequence: self.id,
            tokens: self.tokens[self.computed..self.computed + n].to_vec(),
            logits: if draws { LogitRows::Last } else { LogitRows::None },
        }
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Its state has so many tokens by now, without a step.
    pub(crate) fn begin_at(&mut self, computed: usize) {
        assert!(
            !self.has_begun && computed < self.n_prompt,
            "sequence {} cannot begin at {computed}",
            self.id
        );
        self.computed = computed;
    }

    pub(crate) fn advance(&mut self, n_tokens: usize) {
        self.has_begun = true;
        self.computed += n_tokens;
        assert!(self.computed <= self.tokens.len(), "sequence {} computed tokens it does not have", self.id);
    }

    /// The state is gone; `n_tokens` were being computed when it went.
    pub(crate) fn restart(&mut self, n_tokens: usize) {
        self.has_begun = true;
        self.alone_until = self.alone_until.max(self.computed + n_tokens);
        self.computed = 0;
    }

    /// Appends a drawn token.
    pub(crate) fn append(&mut self, token: TokenId) {
        assert_eq!(self.n_pending(), 0, "sequence {} drew a token before its last one was computed", self.id);
        self.tokens.push(token);
    }

    /// Why there is nothing more to do, if so. A stop token counts before the length.
    pub(crate) fn end(&self) -> Option<FinishReason> {
        let drawn = &self.tokens[self.n_prompt..];
        if drawn.last().is_some_and(|last| self.stop_tokens.contains(last)) {
            return Some(FinishReason::Stop);
        }
        let is_prompt_done = !drawn.is_empty() || self.n_pending() == 0;
        (is_prompt_done && drawn.len() >= self.draws_max).then_some(FinishReason::Length)
    }
}
