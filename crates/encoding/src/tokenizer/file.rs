//! The door for `tokenizer.json`: what leaves here cannot make the library fail or lose text.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::PreTokenizerWrapper;
use tokenizers::models::bpe::{BPE, Vocab};

use super::bytes::char_of_byte;
use super::{TokenizerError, library};
use crate::control::Control;

/// No vocabulary comes near; a table indexed by id must not be a way to ask for any amount of memory.
const ID_MAX: u32 = (1 << 22) - 1;

/// A tokenizer file that was checked.
pub(super) struct TokenizerFile {
    pub(super) added_tokens: Vec<AddedEntry>,
    pub(super) pre_tokenizer: PreTokenizerWrapper,
    pub(super) bpe: BPE,
    /// Every entry of the model's own vocabulary.
    pub(super) entries: Vec<(String, u32)>,
}

/// One entry of `added_tokens`.
#[derive(Deserialize)]
pub(super) struct AddedEntry {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(default)]
    added_tokens: Vec<AddedEntry>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    model: RawModel,
}

#[derive(Deserialize)]
struct RawModel {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Vocab,
    merges: Vec<Merge>,
}

struct Merge(String, String);

impl TokenizerFile {
    pub(super) fn parse(json: &[u8]) -> Result<Self, TokenizerError> {
        let raw: RawFile = serde_json::from_slice(json).map_err(|source| TokenizerError::Json { source })?;
        check_normalizer(&raw.normalizer)?;
        check_pre_tokenizer(&raw.pre_tokenizer)?;
        check_decoder(&raw.decoder)?;
        check_model(&raw.model)?;
        check_ids(&raw)?;
        check_control_is_out_of_reach(&raw.model)?;
        let pre_tokenizer = PreTokenizerWrapper::deserialize(raw.pre_tokenizer)
            .map_err(|source| TokenizerError::Json { source })?;
        let entries = raw.model.vocab.iter().map(|(token, &id)| (token.clone(), id)).collect();
        let merges = raw.model.merges.into_iter().map(|Merge(left, right)| (left, right)).collect();
        let bpe = BPE::builder()
            .vocab_and_merges(raw.model.vocab, merges)
            .ignore_merges(raw.model.ignore_merges)
            .build()
            .map_err(library)?;
        Ok(Self { added_tokens: raw.added_tokens, pre_tokenizer, bpe, entries })
    }
}

fn check_normalizer(value: &Value) -> Result<(), TokenizerError> {
    let empty = value["normalizers"].as_array().is_some_and(Vec::is_empty);
    if value.is_null() || empty { Ok(()) } else { Err(unsupported("normalizer", "absent", value)) }
}

fn check_decoder(value: &Value) -> Result<(), TokenizerError> {
    if value["type"] == "ByteLevel" { Ok(()) } else { Err(unsupported("decoder", "ByteLevel", value)) }
}

/// Split rules may cut text but not drop or change any of it, and must end in the byte alphabet.
fn check_pre_tokenizer(value: &Value) -> Result<(), TokenizerError> {
    let steps = value["pretokenizers"].as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let keeps_text = |step: &Value| match step["type"].as_str() {
        Some("Split") => step["behavior"] != "Removed",
        Some("Digits") => true,
        _ => false,
    };
    match steps {
        [cuts @ .., last]
            if cuts.iter().all(keeps_text)
                && last["type"] == "ByteLevel"
                && last["add_prefix_space"] == false =>
        {
            Ok(())
        }
        _ => Err(unsupported("pre_tokenizer", "splits that keep all text, then ByteLevel", value)),
    }
}

fn check_model(model: &RawModel) -> Result<(), TokenizerError> {
    if let Some(kind) = model.kind.as_deref().filter(|&kind| kind != "BPE") {
        return Err(TokenizerError::Unsupported { part: "model.type", want: "BPE", got: kind.to_owned() });
    }
    let affixes = [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (part, affix) in affixes {
        if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
            return Err(TokenizerError::Unsupported { part, want: "absent", got: affix.to_owned() });
        }
    }
    for byte in 0..=u8::MAX {
        if !model.vocab.contains_key(char_of_byte(byte).encode_utf8(&mut [0; 4])) {
            return Err(TokenizerError::MissingByte { byte });
        }
    }
    let mut whole = String::new();
    for (index, Merge(left, right)) in model.merges.iter().enumerate() {
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        if ![left, right, &whole].into_iter().all(|part| model.vocab.contains_key(part.as_str())) {
            return Err(TokenizerError::Merge { index, left: left.clone(), right: right.clone() });
        }
    }
    Ok(())
}

fn check_ids(raw: &RawFile) -> Result<(), TokenizerError> {
    let vocab = &raw.model.vocab;
    // An added token may repeat an entry of the model, id and all.
    let added = raw.added_tokens.iter().filter(|entry| vocab.get(&entry.content) != Some(&entry.id));
    let all =
        vocab.iter().map(|(token, &id)| (token, id)).chain(added.map(|entry| (&entry.content, entry.id)));
    let mut seen = HashSet::with_capacity(vocab.len());
    for (token, id) in all {
        if id > ID_MAX {
            return Err(TokenizerError::IdTooLarge { token: token.clone(), id, max: ID_MAX });
        }
        if !seen.insert(id) {
            return Err(TokenizerError::DuplicateId { id, token: token.clone() });
        }
    }
    Ok(())
}

/// Text becomes a token of several characters by merging, or as a whole word where merges may be skipped. Neither may
/// lead to a control token, or a user could write one.
fn check_control_is_out_of_reach(model: &RawModel) -> Result<(), TokenizerError> {
    let mut whole = String::new();
    for Merge(left, right) in &model.merges {
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        if let Some(control) = Control::ALL.into_iter().find(|control| control.text() == whole) {
            return Err(TokenizerError::Reachable { token: control.text() });
        }
    }
    let is_word = |control: &Control| model.vocab.contains_key(control.text()) && control.text().is_ascii();
    match Control::ALL.into_iter().find(is_word) {
        Some(control) if model.ignore_merges => Err(TokenizerError::Reachable { token: control.text() }),
        _ => Ok(()),
    }
}

fn unsupported(part: &'static str, want: &'static str, got: &Value) -> TokenizerError {
    let mut got = got.to_string();
    if let Some((cut, _)) = got.char_indices().nth(200) {
        got.truncate(cut);
        got.push('…');
    }
    TokenizerError::Unsupported { part, want, got }
}

impl<'de> Deserialize<'de> for Merge {
    /// Files have merges in two spellings: `"a b"`, and `["a", "b"]`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EitherSpelling;
        impl<'de> Visitor<'de> for EitherSpelling {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                match text.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => {
                        Ok(Merge(left.to_owned(), right.to_owned()))
                    }
                    _ => Err(E::custom(format!("merge `{text}` is not two tokens"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let mut next = || seq.next_element::<String>();
                match (next()?, next()?, next()?) {
                    (Some(left), Some(right), None) => Ok(Merge(left, right)),
                    _ => Err(A::Error::custom("a merge is not two tokens")),
                }
            }
        }
        deserializer.deserialize_any(EitherSpelling)
    }
}
