//! What an answer may say, token by token.
//!
//! A [`Guide`] is asked before every draw which tokens may come next, and told what was drawn. [`Grammar`] follows a
//! text grammar; [`Answer`] puts one into its place in an answer of DeepSeek-V4: after the reasoning, or from the
//! first tag of a block of calls on.
//!
//! **Invariant:** a guide never leaves the sampler without a token. One that cannot go on says so, and its sequence
//! fails alone.

mod answer;
mod grammar;
mod nesting;
mod spelling;
#[cfg(test)]
mod tests;
mod token_set;
mod vocabulary;

use std::fmt::Debug;

use cuvier_types::TokenId;

pub use answer::{Answer, AnswerPlan, Opening, Rule};
pub use grammar::{Grammar, GrammarError, Structure};
pub use token_set::TokenSet;
pub use vocabulary::{Vocabulary, VocabularyError, VocabularyParts};

/// Restricts the tokens of one answer.
pub trait Guide: Debug + Send + 'static {
    /// The tokens of which the next one must be; at least one.
    ///
    /// # Errors
    /// If there is none, or too much work would be needed to know.
    fn allowed(&mut self) -> Result<Allowed, GuideError>;

    /// Whether the next token may be this one; the same as asking [`allowed`](Self::allowed), and cheaper.
    ///
    /// # Errors
    /// As for [`allowed`](Self::allowed).
    fn allows(&mut self, token: TokenId) -> Result<bool, GuideError> {
        Ok(self.allowed()?.contains(token))
    }

    /// Takes the token that was drawn.
    ///
    /// # Errors
    /// If it was not allowed.
    fn observe(&mut self, token: TokenId) -> Result<(), GuideError>;
}

/// Tokens that may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Any.
    All,
    /// Any but these.
    AllBut(Vec<TokenId>),
    /// These.
    Only(TokenSet),
    /// This one.
    One(TokenId),
}

impl Allowed {
    /// Whether `token` is among them.
    pub fn contains(&self, token: TokenId) -> bool {
        match self {
            Self::All => true,
            Self::AllBut(banned) => !banned.contains(&token),
            Self::Only(set) => set.contains(token),
            Self::One(one) => *one == token,
        }
    }

    /// Takes every other token out of the draw.
    pub(crate) fn mask(&self, scores: &mut [f64]) {
        match self {
            Self::All => {}
            Self::AllBut(banned) => {
                for token in banned {
                    if let Some(score) = scores.get_mut(token.0 as usize) {
                        *score = f64::NEG_INFINITY;
                    }
                }
            }
            Self::Only(_) | Self::One(_) => {
                for (id, score) in (0..).zip(scores) {
                    if !self.contains(TokenId(id)) {
                        *score = f64::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// Why a guide cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuideError {
    /// What was asked for cannot be completed from here.
    #[error("the constraint on this answer leaves no token to go on with")]
    Stuck,
    /// The grammar is too large to be followed within its limits, or contradicts itself.
    #[error("the constraint on this answer cannot be followed: {0}")]
    Grammar(String),
    /// A token came that was not among the allowed ones.
    #[error("token {} is not one that the constraint allows here", .0.0)]
    NotAllowed(TokenId),
}
