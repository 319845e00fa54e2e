//! A tokenizer for models whose weights mean nothing: every id exists, no training text was needed.

use serde_json::{Value, json};
use thiserror::Error;

use crate::control::Control;
use crate::tokenizer::char_of_byte;

/// V4's split rules: digits in threes, CJK and kana runs, then words, punctuation and white space.
///
/// Source: `pre_tokenizer` of the V4 release's `tokenizer.json`.
const SPLIT_RULES: [&str; 3] = [
    r"\p{N}{1,3}",
    "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+",
        "| ?[\\p{P}\\p{S}]+[\r\n]*",
        r"|\s*[",
        "\r\n",
        r"]+|\s+(?!\S)|\s+"
    ),
];

/// The vocabulary asked for has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a vocabulary of {asked} is too small: 256 bytes and {control} control tokens need at least {min}")]
pub struct SyntheticError {
    /// The size asked for.
    pub asked: usize,
    /// How many control tokens there are.
    pub control: usize,
    /// The smallest size possible.
    pub min: usize,
}

/// A `tokenizer.json` with exactly the ids `0..vocab_size`: the 256 bytes, V4's control tokens and split rules, and
/// filler tokens that no text encodes to but a model may sample.
///
/// Begin and end of sentence have ids 0 and 1 and the other control tokens the highest ids, as in V4.
///
/// # Errors
/// If `vocab_size` does not hold the bytes and the control tokens.
pub fn synthetic_tokenizer_json(vocab_size: usize) -> Result<String, SyntheticError> {
    let control = Control::ALL.len();
    let min = 256 + control;
    if vocab_size < min {
        return Err(SyntheticError { asked: vocab_size, control, min });
    }
    let (first, last) = Control::ALL.split_at(2);
    let n_fillers = vocab_size - min;
    let mut tokens: Vec<String> = first.iter().map(|control| control.text().to_owned()).collect();
    tokens.extend((0..=u8::MAX).map(|byte| char_of_byte(byte).to_string()));
    tokens.extend((1..=n_fillers).map(|i| format!("<|filler_{i:05}|>")));
    let n_model_tokens = tokens.len();
    let vocab: serde_json::Map<String, Value> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added = |(id, control): (usize, &Control)| {
        json!({
            "id": id, "content": control.text(), "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": matches!(control, Control::Bos | Control::Eos),
        })
    };
    let added_tokens: Vec<Value> = first
        .iter()
        .enumerate()
        .chain(last.iter().zip(n_model_tokens..).map(|(c, id)| (id, c)))
        .map(added)
        .collect();
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens,
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer(),
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocab, "merges": [],
        },
    });
    Ok(file.to_string())
}

fn pre_tokenizer() -> Value {
    let split = |rule: &str| json!({ "type": "Split", "pattern": { "Regex": rule }, "behavior": "Isolated", "invert": false });
    let mut steps: Vec<Value> = SPLIT_RULES.into_iter().map(split).collect();
    steps.push(
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }),
    );
    json!({ "type": "Sequence", "pretokenizers": steps })
}

#[cfg(test)]
mod tests;
