//! A batch in parts that fit the caches.

use std::ops::Range;

use crate::data::Document;

/// Tokens of a part, unless one document has more: enough to share the way through the weights, few enough that what a
/// pass keeps stays small.
const TOKENS_MAX: usize = 2048;

/// Consecutive documents, as many as fit into a part. It depends on the documents alone, so that a step's sums have
/// one order.
pub(super) fn parts(documents: &[&Document]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (index, document) in documents.iter().enumerate() {
        match parts.last_mut() {
            Some(part) if tokens + document.len() <= TOKENS_MAX => part.end += 1,
            _ => {
                parts.push(index..index + 1);
                tokens = 0;
            }
        }
        tokens += document.len();
    }
    parts
}

#[cfg(test)]
mod tests {
    use cuvier_types::TokenId;

    use super::*;

    #[test]
    fn parts_hold_all_documents_in_order_and_no_more_tokens_than_fit() {
        let lengths = [1000, 1000, 49, 5000, 3, 2045, 1];
        let documents: Vec<Document> = lengths
            .iter()
            .map(|&len| Document { tokens: vec![TokenId(0); len], trained: vec![true; len] })
            .collect();
        let documents: Vec<&Document> = documents.iter().collect();
        assert_eq!(parts(&documents), [0..2, 2..3, 3..4, 4..6, 6..7]);
        assert_eq!(parts(&[]), []);
    }
}
