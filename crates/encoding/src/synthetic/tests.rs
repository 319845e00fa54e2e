#![allow(clippy::unwrap_used)]

use cuvier_types::TokenId;
use serde_json::Value;

use super::{SyntheticError, synthetic_tokenizer_json};
use crate::{Control, Tokenizer};

#[test]
fn every_id_of_a_synthetic_vocabulary_exists_and_no_other() {
    for size in [273, 274, 300, 1000, 129_280] {
        let tokenizer = Tokenizer::from_bytes(synthetic_tokenizer_json(size).unwrap().as_bytes()).unwrap();
        assert_eq!(tokenizer.vocab_size(), size);
        assert!(
            (0..size as u32)
                .all(|id| tokenizer.token_bytes(TokenId(id)).is_some_and(|bytes| !bytes.is_empty()))
        );
        assert_eq!(tokenizer.token_bytes(TokenId(size as u32)), None);
        assert_eq!((tokenizer.control().bos, tokenizer.control().eos), (TokenId(0), TokenId(1)));
        assert!(Control::ALL.iter().all(|&control| tokenizer.control().id(control).is_some()));
    }
}

#[test]
fn text_goes_through_a_synthetic_vocabulary_unchanged() {
    let tokenizer = Tokenizer::from_bytes(synthetic_tokenizer_json(2000).unwrap().as_bytes()).unwrap();
    for text in ["", "Hello, world!\n", "鲸 🐋 <think> <|filler_00001|>", "\u{0}\u{7f}\u{a0}\u{ad}"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode_text(text)), text);
    }
}

#[test]
fn a_vocabulary_without_room_is_refused_with_the_smallest_possible_size() {
    let refused = synthetic_tokenizer_json(272).unwrap_err();
    assert_eq!(refused, SyntheticError { asked: 272, control: 17, min: 273 });
    assert_eq!(
        refused.to_string(),
        "a vocabulary of 272 is too small: 256 bytes and 17 control tokens need at least 273"
    );
}

#[test]
fn split_rules_are_the_official_ones() {
    let official: Value =
        serde_json::from_str(include_str!("../../../../fixtures/tokenizer/reduced.json")).unwrap();
    assert_eq!(super::pre_tokenizer(), official["pre_tokenizer"]);
}
