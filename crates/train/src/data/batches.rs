//! Which documents are learned in which step: a function of the seed and the step's number, so that a training that
//! was stopped goes on exactly where it was.

use super::document::Document;
use super::rng::Rng;

/// Documents in steps of about equally many tokens.
///
/// In every epoch each document comes once, in an order of that epoch's own.
#[derive(Clone, Debug)]
pub struct Batches {
    documents: Vec<Document>,
    seed: u64,
    tokens_per_step: usize,
    /// What all documents weigh, see [`Batches::weight`].
    weight: u64,
    n_too_long: usize,
}

impl Batches {
    /// Takes the documents to learn.
    ///
    /// A plain text of more than `max_len` tokens is cut into pieces that each open with its begin of sentence, which
    /// is not trained. A longer conversation is left out: cut, it would lose its question or its answer. So is a
    /// document in which nothing is trained.
    ///
    /// # Panics
    /// If a step has no token, or `max_len` no room for a begin and a token.
    #[must_use]
    pub fn new(documents: Vec<Document>, seed: u64, tokens_per_step: usize, max_len: usize) -> Self {
        assert!(tokens_per_step > 0, "a step has tokens");
        assert!(max_len >= 2, "a document has a begin and something after it");
        let mut batches = Self { documents: Vec::new(), seed, tokens_per_step, weight: 0, n_too_long: 0 };
        for document in documents {
            if document.n_trained() == 0 {
                continue;
            }
            if document.len() <= max_len {
                batches.documents.push(document);
            } else if document.is_text() {
                batches.documents.extend(pieces(&document, max_len));
            } else {
                batches.n_too_long += 1;
            }
        }
        batches.weight = batches.documents.iter().map(|document| batches.weight(document)).sum();
        batches
    }

    /// The documents of step `n`, counted from 0; never none, unless there are none at all.
    #[must_use]
    pub fn step(&self, n: u64) -> Vec<&Document> {
        let n_steps = self.steps_per_epoch();
        let (epoch, wanted) = (n / n_steps, n % n_steps);
        let mut order: Vec<usize> = (0..self.documents.len()).collect();
        Rng::of(self.seed, epoch, 0).shuffle(&mut order);
        // The step of a document is where it begins on a line of all documents that is cut into equal parts. No
        // document weighs more than a part, so in each part one begins.
        let mut begins: u64 = 0;
        let mut step = Vec::new();
        for document in order.into_iter().map(|index| &self.documents[index]) {
            let part = u128::from(begins) * u128::from(n_steps) / u128::from(self.weight);
            if part == u128::from(wanted) {
                step.push(document);
            }
            begins += self.weight(document);
        }
        step
    }

    /// Steps in which every document comes once.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        (self.weight / self.tokens_per_step as u64).max(1)
    }

    /// Documents, pieces counted each.
    #[must_use]
    pub fn n_documents(&self) -> usize {
        self.documents.len()
    }

    /// Tokens of all documents.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.documents.iter().map(Document::len).sum()
    }

    /// Conversations that were left out because they are too long.
    #[must_use]
    pub fn n_too_long(&self) -> usize {
        self.n_too_long
    }

    /// Tokens, but no more than a step has: a longer document makes its own step longer and no other one empty.
    fn weight(&self, document: &Document) -> u64 {
        document.len().min(self.tokens_per_step) as u64
    }
}

fn pieces(document: &Document, max_len: usize) -> impl Iterator<Item = Document> + '_ {
    let begin = document.tokens[0];
    document.tokens[1..].chunks(max_len - 1).map(move |tokens| Document {
        tokens: std::iter::once(begin).chain(tokens.iter().copied()).collect(),
        trained: (0..=tokens.len()).map(|place| place > 0).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use cuvier_types::TokenId;
    use proptest::prelude::*;

    use super::*;

    /// A document whose tokens nobody else has; of a conversation only the last token is trained.
    fn document(id: usize, len: usize, is_text: bool) -> Document {
        let tokens = (0..len).map(|place| TokenId((id * 1000 + place) as u32)).collect();
        Document {
            tokens,
            trained: (0..len).map(|place| place > 0 && (is_text || place + 1 == len)).collect(),
        }
    }

    fn documents(lengths: &[usize]) -> Vec<Document> {
        lengths.iter().enumerate().map(|(id, &len)| document(id, len, id % 2 == 0)).collect()
    }

    #[test]
    fn a_long_text_is_cut_and_no_token_is_trained_twice_or_never() {
        let text = document(3, 100, true);
        let batches = Batches::new(vec![text.clone()], 1, 1000, 32);
        assert_eq!(batches.n_documents(), 4);
        let mut trained: Vec<TokenId> = Vec::new();
        for piece in &batches.documents {
            assert!(piece.len() <= 32 && piece.is_text());
            assert_eq!(piece.tokens[0], text.tokens[0]);
            trained.extend(&piece.tokens[1..]);
        }
        assert_eq!(trained, text.tokens[1..]);
    }

    #[test]
    fn a_long_conversation_is_left_out_and_counted() {
        let batches = Batches::new(vec![document(0, 40, false), document(1, 20, false)], 1, 100, 32);
        assert_eq!((batches.n_documents(), batches.n_too_long()), (1, 1));
    }

    #[test]
    fn without_documents_a_step_is_empty() {
        assert!(Batches::new(Vec::new(), 1, 100, 32).step(5).is_empty());
    }

    #[test]
    fn a_document_longer_than_a_step_empties_no_other() {
        let batches = Batches::new(documents(&[900, 10, 10, 10, 10, 10, 10]), 1, 20, 1000);
        assert_eq!(batches.steps_per_epoch(), 4);
        assert!((0..40).all(|n| !batches.step(n).is_empty()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_document_is_lost_or_doubled_within_an_epoch(
            lengths in prop::collection::vec(2usize..60, 1..80),
            tokens_per_step in 1usize..300,
            seed: u64,
        ) {
            let batches = Batches::new(documents(&lengths), seed, tokens_per_step, 60);
            let n_steps = batches.steps_per_epoch();
            for epoch in 0..3 {
                let mut seen: HashMap<TokenId, usize> = HashMap::new();
                for n in epoch * n_steps..(epoch + 1) * n_steps {
                    let step = batches.step(n);
                    prop_assert!(!step.is_empty());
                    let weight: u64 = step.iter().map(|document| batches.weight(document)).sum();
                    // A part, and what of its last document reaches into the next.
                    prop_assert!(weight <= 3 * tokens_per_step as u64 + 60);
                    for document in step {
                        *seen.entry(document.tokens[0]).or_default() += 1;
                    }
                }
                prop_assert_eq!(seen.len(), lengths.len());
                prop_assert!(seen.values().all(|&times| times == 1));
            }
        }

        #[test]
        fn a_step_is_the_same_whatever_was_asked_before(
            lengths in prop::collection::vec(2usize..60, 2..80),
            asked in prop::collection::vec(0u64..200, 1..20),
            seed: u64,
        ) {
            let one = Batches::new(documents(&lengths), seed, 100, 60);
            let resumed = Batches::new(documents(&lengths), seed, 100, 60);
            let first: Vec<_> = (0..200).map(|n| one.step(n)).collect();
            for n in asked {
                prop_assert_eq!(&first[n as usize], &resumed.step(n));
            }
        }
    }

    #[test]
    fn epochs_have_orders_of_their_own() {
        let batches = Batches::new(documents(&[10; 50]), 1, 20, 60);
        let n_steps = batches.steps_per_epoch();
        let order = |epoch: u64| -> Vec<TokenId> {
            let steps = epoch * n_steps..(epoch + 1) * n_steps;
            steps.flat_map(|n| batches.step(n)).map(|document| document.tokens[0]).collect()
        };
        assert_ne!(order(0), order(1));
        assert_ne!(order(1), order(2));
    }
}
