//! From logits to a token.
//!
//! The order, as [`SamplingParams`] states it: what a [`Guide`] forbids, penalties, `logit_bias`, `temperature`, softmax, `top_k`, `top_p`,
//! `min_p`, renormalise, draw. Everything in f64, sums in ascending order of the token id, ties to the lowest id:
//! the same logits give the same token, however they were batched.

mod filter;
mod penalties;
mod random;

pub use filter::{Kept, keep};
pub use penalties::Penalties;
pub use random::uniform;

use cuvier_types::{SamplingParams, TokenId, TokenLogprobs};

use crate::Guide;
use crate::guide::{Allowed, GuideError};

/// Below this temperature the most likely token is taken.
pub const GREEDY_BELOW: f32 = 1e-5;

/// A bias at or below this bans its token.
pub const BAN_AT: f32 = -100.0;

/// Draws the tokens of one answer.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    penalties: Penalties,
    /// Output position of the next token.
    n_drawn: u64,
}

/// A token and, if asked for, how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: TokenId,
    /// From the raw logits, before penalties, bias, temperature and filters.
    pub logprobs: Option<TokenLogprobs>,
}

/// Why no token can be drawn.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// The model gave something that is not a number.
    #[error("the model gave a non-finite logit ({value} for token {})", token.0)]
    NonFinite {
        /// The first such token.
        token: TokenId,
        /// Its logit.
        value: f32,
    },
    /// The bias bans the whole vocabulary.
    #[error("`logit_bias` bans every token")]
    EverythingBanned,
    /// The guide cannot go on.
    #[error(transparent)]
    Guide(#[from] GuideError),
}

impl Sampler {
    /// A sampler for the answer to `prompt`.
    pub fn new(params: SamplingParams, prompt: &[TokenId]) -> Self {
        let penalties = Penalties::new(&params, prompt);
        Self { params, penalties, n_drawn: 0 }
    }

    /// Draws the next token from one row of logits.
    ///
    /// # Errors
    /// If a logit is not finite, or no token is allowed.
    pub fn draw(&mut self, logits: &[f32]) -> Result<Drawn, SampleError> {
        self.draw_guided(logits, None)
    }

    /// Draws the next token from one row of logits, and from those that `guide` allows. Where `logit_bias` bans all
    /// of them, it does not count.
    ///
    /// # Errors
    /// If a logit is not finite, or no token is allowed.
    pub fn draw_guided(
        &mut self,
        logits: &[f32],
        mut guide: Option<&mut (dyn Guide + 'static)>,
    ) -> Result<Drawn, SampleError> {
        check_finite(logits)?;
        let scores = self.scores(logits, true);
        let token = match guide.as_deref_mut() {
            None => self.pick(scores).ok_or(SampleError::EverythingBanned)?,
            Some(guide) => self.pick_guided(logits, scores, guide)?,
        };
        if let Some(guide) = guide {
            guide.observe(token)?;
        }
        self.penalties.observe(token);
        self.n_drawn += 1;
        let logprobs = self.params.logprobs.map(|n_top| log_probabilities(logits, token, n_top));
        Ok(Drawn { token, logprobs })
    }

    fn pick_guided(
        &self,
        logits: &[f32],
        mut scores: Vec<f64>,
        guide: &mut dyn Guide,
    ) -> Result<TokenId, SampleError> {
        // The likeliest of all, if allowed, is the likeliest of the allowed: no mask is needed to know.
        if self.is_greedy()
            && let Some(token) = argmax(&scores)
            && guide.allows(token)?
        {
            return Ok(token);
        }
        let allowed = guide.allowed()?;
        if let Allowed::One(token) = allowed {
            return Ok(token);
        }
        allowed.mask(&mut scores);
        if let Some(token) = self.pick(scores) {
            return Ok(token);
        }
        let mut unbiased = self.scores(logits, false);
        allowed.mask(&mut unbiased);
        self.pick(unbiased).ok_or(SampleError::Guide(GuideError::Stuck))
    }

    fn scores(&self, logits: &[f32], is_biased: bool) -> Vec<f64> {
        let mut scores: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
        self.penalties.apply(&mut scores);
        if is_biased {
            apply_bias(&mut scores, &self.params.logit_bias);
        }
        scores
    }

    fn is_greedy(&self) -> bool {
        self.params.temperature < GREEDY_BELOW
    }

    /// A token with a finite score; `None` if there is none.
    fn pick(&self, scores: Vec<f64>) -> Option<TokenId> {
        let likeliest = argmax(&scores)?;
        if self.is_greedy() {
            return Some(likeliest);
        }
        let probabilities = softmax(scores, self.params.temperature);
        let kept = keep(&probabilities, self.params.top_k, self.params.top_p, self.params.min_p);
        Some(choose(&kept, uniform(self.params.seed, self.n_drawn)))
    }
}

/// # Errors
/// At the first logit that is not a finite number.
fn check_finite(logits: &[f32]) -> Result<(), SampleError> {
    match logits.iter().position(|logit| !logit.is_finite()) {
        Some(index) => Err(SampleError::NonFinite { token: token_at(index), value: logits[index] }),
        None => Ok(()),
    }
}

/// Adds each bias to its token's score; [`BAN_AT`] or less takes the token out.
pub fn apply_bias(scores: &mut [f64], bias: &[(TokenId, f32)]) {
    for &(token, value) in bias {
        let score = &mut scores[token.0 as usize];
        *score = if value <= BAN_AT { f64::NEG_INFINITY } else { *score + f64::from(value) };
    }
}

/// The highest score, ties to the lowest id; `None` if all are banned.
pub fn argmax(scores: &[f64]) -> Option<TokenId> {
    let mut best: Option<usize> = None;
    for (index, &score) in scores.iter().enumerate() {
        if score > best.map_or(f64::NEG_INFINITY, |best| scores[best]) {
            best = Some(index);
        }
    }
    best.map(token_at)
}

/// Scores to probabilities: `exp(score / temperature)`, normalised.
pub fn softmax(mut scores: Vec<f64>, temperature: f32) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let temperature = f64::from(temperature);
    let mut sum = 0.0;
    for score in &mut scores {
        *score = ((*score - max) / temperature).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|p| *p /= sum);
    scores
}

/// The kept token in whose share of the total `u`, in `[0, 1)`, falls.
///
/// # Panics
/// If nothing is kept.
pub fn choose(kept: &[Kept], u: f64) -> TokenId {
    let total: f64 = kept.iter().map(|kept| kept.probability).sum();
    let mut sum = 0.0;
    let hit = kept.iter().find(|kept| {
        sum += kept.probability;
        u * total < sum
    });
    hit.or(kept.last()).expect("at least the likeliest token is kept").token
}

/// Natural logarithms of the softmax of the raw logits: of `token`, and of the `n_top` likeliest.
pub fn log_probabilities(logits: &[f32], token: TokenId, n_top: u8) -> TokenLogprobs {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    let log_sum = max + sum.ln();
    let logprob = |token: TokenId| (f64::from(logits[token.0 as usize]) - log_sum) as f32;
    let mut likeliest: Vec<TokenId> = (0..logits.len()).map(token_at).collect();
    let by_likelihood =
        |a: &TokenId, b: &TokenId| logits[b.0 as usize].total_cmp(&logits[a.0 as usize]).then(a.cmp(b));
    let n_top = usize::from(n_top).min(likeliest.len());
    if n_top > 0 && n_top < likeliest.len() {
        likeliest.select_nth_unstable_by(n_top - 1, by_likelihood);
    }
    likeliest.truncate(n_top);
    likeliest.sort_unstable_by(by_likelihood);
    TokenLogprobs { logprob: logprob(token), top: likeliest.into_iter().map(|t| (t, logprob(t))).collect() }
}

fn token_at(index: usize) -> TokenId {
    TokenId(u32::try_from(index).expect("a vocabulary has fewer than 2^32 tokens"))
}

#[cfg(test)]
mod tests;
