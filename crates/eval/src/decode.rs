//! Greedy decoding, plain and with drafts of the MTP block that the model verifies.

use cuvier_model::{Batch, Chunk, Ctx, LogitRows, Matrix, Mtp, SequenceState, TokenId};
use cuvier_types::SequenceId;

use crate::mtp::first_rows;
use crate::reader::argmax;
use crate::{EvalError, Reader, Share};

/// What decodes, and when it ends.
pub struct Decoder<'a> {
    /// The model.
    pub reader: &'a Reader<'a>,
    /// Its drafter.
    pub mtp: &'a Mtp,
    /// Tokens that end an answer.
    pub ends: &'a [TokenId],
    /// The most tokens of an answer.
    pub max_tokens: usize,
}

/// An answer, and what it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Its tokens, an end included.
    pub tokens: Vec<TokenId>,
    /// Calls of the model behind the prompt's.
    pub calls: u64,
    /// Drafts that were what the model says.
    pub accepted: Share,
}

/// Answers with drafts, and says whether the answer is that without.
///
/// # Errors
/// If the prompt is empty or does not fit the model.
pub fn decoded_alike(decoder: &Decoder<'_>, prompt: &[TokenId]) -> Result<(Decoded, bool), EvalError> {
    let drafted = decoder.with_drafts(prompt)?;
    let plain = decoder.plain(prompt)?;
    let is_identical = plain.tokens == drafted.tokens;
    Ok((drafted, is_identical))
}

/// Rows of a step.
struct Step {
    /// Per row the most likely next token.
    said: Vec<TokenId>,
    streams: Matrix,
}

impl Decoder<'_> {
    /// A token per call.
    fn plain(&self, prompt: &[TokenId]) -> Result<Decoded, EvalError> {
        let mut state = self.reader.model.new_state(self.reader.kv);
        let mut decoded = Decoded::default();
        let mut next = self.read_prompt(prompt, &mut state, None)?.0;
        while self.goes_on(prompt, &mut decoded, next) {
            next = self.step(&[next], &mut state)?.said[0];
            decoded.calls += 1;
        }
        Ok(decoded)
    }

    /// Each call takes the last token and a draft of the one behind it. Where the draft is what the model says, the
    /// call gives two tokens; else the draft is taken back, and it gives one.
    fn with_drafts(&self, prompt: &[TokenId]) -> Result<Decoded, EvalError> {
        let mut state = self.reader.model.new_state(self.reader.kv);
        let mut decoded = Decoded::default();
        let (mut next, mut draft) = self.read_prompt(prompt, &mut state, Some(self.mtp))?;
        let context_max = self.reader.model.config().max_position_embeddings;
        while self.goes_on(prompt, &mut decoded, next) {
            // The last place of the context has no room for a draft.
            let n = if state.position() + 2 <= context_max { 2 } else { 1 };
            let Step { said, streams } = self.step(&[next, draft][..n], &mut state)?;
            decoded.calls += 1;
            let is_accepted = n == 2 && said[0] == draft;
            if n == 2 {
                decoded.accepted.add(is_accepted);
            }
            if n == 2 && !is_accepted {
                state.rollback(1)?;
            }
            let followers = &said[..if is_accepted { 2 } else { 1 }];
            draft = self.draft(&first_rows(&streams, followers.len()), followers, &mut state)?;
            next = followers[0];
            if is_accepted {
                if !self.goes_on(prompt, &mut decoded, next) {
                    return Ok(decoded);
                }
                next = followers[1];
            }
        }
        Ok(decoded)
    }

    /// Adds a token. Whether the answer goes on behind it.
    fn goes_on(&self, prompt: &[TokenId], decoded: &mut Decoded, next: TokenId) -> bool {
        decoded.tokens.push(next);
        let context_max = self.reader.model.config().max_position_embeddings;
        let has_room = prompt.len() + decoded.tokens.len() <= context_max;
        decoded.tokens.len() < self.max_tokens && has_room && !self.ends.contains(&next)
    }

    /// The first token of the answer, and a draft of the second; without a drafter, no token in its place.
    fn read_prompt(
        &self,
        prompt: &[TokenId],
        state: &mut SequenceState,
        mtp: Option<&Mtp>,
    ) -> Result<(TokenId, TokenId), EvalError> {
        const CHUNK: usize = 256;
        let (mut first, mut draft) = (TokenId(0), TokenId(0));
        for (index, tokens) in prompt.chunks(CHUNK).enumerate() {
            let Step { said, streams } = self.step(tokens, state)?;
            first = said.last().copied().unwrap_or_default();
            if mtp.is_some() {
                let behind = &prompt[index * CHUNK + 1..];
                let next: Vec<TokenId> = behind.iter().copied().chain([first]).take(tokens.len()).collect();
                draft = self.draft(&streams, &next, state)?;
            }
        }
        Ok((first, draft))
    }

    fn draft(
        &self,
        streams: &Matrix,
        next: &[TokenId],
        state: &mut SequenceState,
    ) -> Result<TokenId, EvalError> {
        let mut ctx = Ctx::new(self.reader.compute);
        let (logits, _) = self.mtp.forward(self.reader.model, streams, next, state, &mut ctx)?;
        Ok(logits.view().iter().last().map(argmax).unwrap_or_default())
    }

    fn step(&self, tokens: &[TokenId], state: &mut SequenceState) -> Result<Step, EvalError> {
        let chunk = Chunk { sequence: SequenceId(0), tokens: tokens.to_vec(), logits: LogitRows::All };
        let batch = Batch { chunks: vec![chunk] };
        let output = self.reader.model.forward(&batch, &mut [state], &mut Ctx::new(self.reader.compute))?;
        let said = output.logits.view().iter().map(argmax).collect();
        Ok(Step { said, streams: first_rows(&output.streams, tokens.len()) })
    }
}
