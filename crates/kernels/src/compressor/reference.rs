//! The formula, in f64, on tokens that lie apart.

use super::CompressorShape;

/// K and biased S of one token.
pub(super) struct Token {
    pub k: Vec<f64>,
    pub s: Vec<f64>,
}

/// What an entry pools in one channel: S and K of each token, in order of position.
pub(super) fn pooled(
    tokens: &[Token],
    shape: CompressorShape,
    block: usize,
    channel: usize,
) -> Vec<(f64, f64)> {
    let CompressorShape { ratio, overlap, dim } = shape;
    let feature = |position: usize, f: usize| (tokens[position].s[f], tokens[position].k[f]);
    let own = ratio * block..ratio * (block + 1);
    if !overlap {
        return own.map(|position| feature(position, channel)).collect();
    }
    let mut slots = Vec::new();
    if block > 0 {
        slots.extend((own.start - ratio..own.start).map(|position| feature(position, channel)));
    }
    slots.extend(own.map(|position| feature(position, dim + channel)));
    slots
}

/// `sum of softmax(S) * K`.
pub(super) fn entry(slots: &[(f64, f64)]) -> f64 {
    let sum: f64 = slots.iter().map(|(s, _)| s.exp()).sum();
    slots.iter().map(|(s, k)| s.exp() / sum * k).sum()
}
