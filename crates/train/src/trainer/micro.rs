//! A batch in parts that fit the caches.

use std::ops::Range;

use cuvier_types::TokenId;

/// Tokens of a part, unless one sequence has more: enough to share the way through the weights, few enough that what a
/// pass keeps stays small.
const TOKENS_MAX: usize = 2048;

/// Consecutive sequences, as many as fit into a part. It depends on the sequences alone, so that a step's sums have
/// one order.
pub(super) fn parts(sequences: &[&[TokenId]]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (index, sequence) in sequences.iter().enumerate() {
        match parts.last_mut() {
            Some(part) if tokens + sequence.len() <= TOKENS_MAX => part.end += 1,
            _ => {
                parts.push(index..index + 1);
                tokens = 0;
            }
        }
        tokens += sequence.len();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_all_sequences_in_order_and_no_more_tokens_than_fit() {
        let lengths = [1000, 1000, 49, 5000, 3, 2045, 1];
        let sequences: Vec<Vec<TokenId>> = lengths.iter().map(|&len| vec![TokenId(0); len]).collect();
        let sequences: Vec<&[TokenId]> = sequences.iter().map(Vec::as_slice).collect();
        assert_eq!(parts(&sequences), [0..2, 2..3, 3..4, 4..6, 6..7]);
        assert!(parts(&[]).is_empty());
    }
}
