//! Penalties on tokens that were there before.

use std::collections::{BTreeMap, BTreeSet};

use cuvier_types::{SamplingParams, TokenId};

/// The penalties of one answer and what they depend on. Tokens are only remembered where a penalty is on.
#[derive(Clone, Debug)]
pub struct Penalties {
    repetition: f64,
    presence: f64,
    frequency: f64,
    /// Tokens of the prompt and the answer.
    seen: BTreeSet<TokenId>,
    /// How often the answer has each token.
    counts: BTreeMap<TokenId, u32>,
}

impl Penalties {
    /// The penalties for the answer to `prompt`.
    pub fn new(params: &SamplingParams, prompt: &[TokenId]) -> Self {
        let mut penalties = Self {
            repetition: f64::from(params.repetition_penalty),
            presence: f64::from(params.presence_penalty),
            frequency: f64::from(params.frequency_penalty),
            seen: BTreeSet::new(),
            counts: BTreeMap::new(),
        };
        if penalties.repeats() {
            penalties.seen.extend(prompt);
        }
        penalties
    }

    /// Takes note of a token of the answer.
    pub fn observe(&mut self, token: TokenId) {
        if self.repeats() {
            self.seen.insert(token);
        }
        if self.presence != 0.0 || self.frequency != 0.0 {
            *self.counts.entry(token).or_default() += 1;
        }
    }

    /// Lowers (or raises) the scores of tokens that were there before.
    ///
    /// Repetition, for tokens of prompt or answer: `score / penalty` where positive, `score * penalty` where not.
    /// Then, for tokens of the answer: `score - presence - frequency * count`.
    pub fn apply(&self, scores: &mut [f64]) {
        for token in &self.seen {
            let score = &mut scores[token.0 as usize];
            *score = if *score > 0.0 { *score / self.repetition } else { *score * self.repetition };
        }
        for (token, &count) in &self.counts {
            scores[token.0 as usize] -= self.presence + self.frequency * f64::from(count);
        }
    }

    fn repeats(&self) -> bool {
        self.repetition != 1.0
    }
}
