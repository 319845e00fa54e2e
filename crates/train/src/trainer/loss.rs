//! What a pass is trained to say, and how far it is from it.

use cuvier_kernels::{Compute, Lent, cross_entropy};

use cuvier_types::TokenId;

use crate::data::Document;

/// The tokens that the rows of some documents' logits should have foretold, so many tokens ahead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// Per row: the token; 0 where there is none.
    tokens: Vec<u32>,
    /// Per row: whether it counts.
    trained: Vec<bool>,
}

impl Targets {
    /// Of the next token: a row per token. The last token of a document has none.
    pub fn next(documents: &[&Document]) -> Self {
        Self::ahead(documents, 1)
    }

    /// Of the token after the next: a row per token that has a next one.
    pub fn after_next(documents: &[&Document]) -> Self {
        Self::ahead(documents, 2)
    }

    fn ahead(documents: &[&Document], ahead: usize) -> Self {
        let mut targets = Self::default();
        for document in documents {
            for row in 0..document.len().saturating_sub(ahead - 1) {
                let target = document.tokens.get(row + ahead);
                targets.tokens.push(target.map_or(0, |token| token.0));
                targets.trained.push(target.is_some() && document.trained[row + ahead]);
            }
        }
        targets
    }

    /// How many rows count.
    pub fn count(&self) -> usize {
        self.trained.iter().filter(|&&trained| trained).count()
    }
}

/// The sum of the cross entropies of the rows that count, in nats; the logits become the gradient of `per_token` times
/// that sum.
///
/// # Panics
/// If there is not one target per row, or a target is outside the vocabulary.
pub fn cross_entropy_of(c: &Compute, logits: &mut Lent, targets: &Targets, per_token: f32) -> f64 {
    let weights: Vec<f32> =
        targets.trained.iter().map(|&trained| if trained { per_token } else { 0.0 }).collect();
    let losses = cross_entropy(c, logits.view_mut(), &targets.tokens, &weights);
    losses
        .iter()
        .zip(&targets.trained)
        .filter(|&(_, &trained)| trained)
        .map(|(&loss, _)| f64::from(loss))
        .sum()
}

/// The log-probability of the next token at each row of some sequences, 0 at the last of each; the logits become the
/// gradients of its negative.
///
/// # Panics
/// If there is not one row per token, or a token is outside the vocabulary.
pub fn target_logprobs(c: &Compute, logits: &mut Lent, sequences: &[&[TokenId]]) -> Vec<f32> {
    let mut targets = Vec::with_capacity(logits.rows());
    let mut weights = Vec::with_capacity(logits.rows());
    for sequence in sequences {
        for row in 0..sequence.len() {
            let next = sequence.get(row + 1);
            targets.push(next.map_or(0, |token| token.0));
            weights.push(if next.is_some() { 1.0 } else { 0.0 });
        }
    }
    let losses = cross_entropy(c, logits.view_mut(), &targets, &weights);
    losses.iter().zip(&weights).map(|(loss, weight)| -loss * weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_trained_tokens_one_and_two_ahead_within_each_document() {
        let document = |tokens: &[u32], trained: &[bool]| Document {
            tokens: tokens.iter().map(|&token| TokenId(token)).collect(),
            trained: trained.to_vec(),
        };
        let documents = [document(&[9, 8, 7], &[false, true, true]), document(&[5], &[false])];
        let documents: Vec<&Document> = documents.iter().collect();
        let next = Targets::next(&documents);
        assert_eq!((next.tokens, next.trained), (vec![8, 7, 0, 0], vec![true, true, false, false]));
        let after = Targets::after_next(&documents);
        assert_eq!((after.tokens, after.trained), (vec![7, 0], vec![true, false]));
    }
}
