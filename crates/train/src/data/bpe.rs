//! A vocabulary of one's own: byte-pair merges learned from the data, in the form of V4's `tokenizer.json`.

use std::path::Path;

use cuvier_encoding::{Control, Tokenizer};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, ModelWrapper, PreTokenizerWrapper};

use super::error::DataError;

/// The fewest tokens a vocabulary can have: the bytes and the control tokens.
pub const VOCAB_MIN: usize = 256 + Control::ALL.len();

/// V4's split rules, but for digits: each stands alone, so that a number has one spelling and its columns can be seen.
///
/// Source: `pre_tokenizer` of the V4 release's `tokenizer.json`.
const SPLIT_RULES: [&str; 3] = [
    r"\p{N}",
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

/// The two files of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub config: Vec<u8>,
}

impl TokenizerFiles {
    /// Learns the merges of a vocabulary of `size` tokens from texts: fewer tokens, if no more pairs come twice.
    ///
    /// The control tokens have the first ids, then the bytes, then the merges in the order they were learned. The same
    /// texts give the same files.
    ///
    /// # Errors
    /// If the size has no room for bytes and control tokens, or the library fails.
    pub fn train(texts: impl Iterator<Item = String> + Send, size: usize) -> Result<Self, DataError> {
        if size < VOCAB_MIN {
            let message = format!(
                "a vocabulary of {size} has no room for 256 bytes and the control tokens, {VOCAB_MIN} has"
            );
            return Err(DataError::Training { message });
        }
        let library = |error: tokenizers::Error| DataError::Training { message: error.to_string() };
        let json_error = |error: serde_json::Error| DataError::Training { message: error.to_string() };
        let pre_tokenizer: PreTokenizerWrapper =
            serde_json::from_value(pre_tokenizer()).map_err(json_error)?;
        let mut trainer = BpeTrainer::builder()
            .vocab_size(size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(Control::ALL.map(|control| AddedToken::from(control.text(), true)).to_vec())
            .initial_alphabet(
                tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect(),
            )
            .build();
        let mut tokenizer = tokenizers::TokenizerImpl::<
            BPE,
            tokenizers::NormalizerWrapper,
            PreTokenizerWrapper,
            tokenizers::PostProcessorWrapper,
            tokenizers::DecoderWrapper,
        >::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
        tokenizer.train(&mut trainer, texts).map_err(library)?;
        let model = ModelWrapper::BPE(tokenizer.get_model().clone());
        let model = serde_json::to_value(&model).map_err(json_error)?;
        Ok(Self { tokenizer: text(&tokenizer_json(model)), config: default_config() })
    }

    /// The files of the model in `folder`; where it has no `tokenizer_config.json`, a plain one.
    ///
    /// # Errors
    /// If `tokenizer.json` cannot be read.
    pub fn of_model(folder: &Path) -> Result<Self, DataError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| DataError::Io { path, source })
        };
        let tokenizer = read("tokenizer.json")?;
        let has_config = folder.join("tokenizer_config.json").exists();
        let config = if has_config { read("tokenizer_config.json")? } else { default_config() };
        Ok(Self { tokenizer, config })
    }

    /// The tokenizer of these files. `path` is where they come from or go to, for the error.
    ///
    /// # Errors
    /// If it is none of V4's form.
    pub fn load(&self, path: &Path) -> Result<Tokenizer, DataError> {
        Tokenizer::from_bytes(&self.tokenizer)
            .map_err(|source| DataError::Tokenizer { path: path.to_owned(), source })
    }
}

fn tokenizer_json(model: Value) -> Value {
    let added = |(id, control): (usize, &Control)| {
        json!({
            "id": id, "content": control.text(), "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": matches!(control, Control::Bos | Control::Eos),
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": Control::ALL.iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer(),
        "post_processor":
            { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": model,
    })
}

fn pre_tokenizer() -> Value {
    let split = |rule: &str| json!({ "type": "Split", "pattern": { "Regex": rule }, "behavior": "Isolated", "invert": false });
    let mut steps: Vec<Value> = SPLIT_RULES.into_iter().map(split).collect();
    steps.push(
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }),
    );
    json!({ "type": "Sequence", "pretokenizers": steps })
}

fn default_config() -> Vec<u8> {
    text(&json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": false,
        "add_eos_token": false,
        "bos_token": Control::Bos.text(),
        "eos_token": Control::Eos.text(),
        "pad_token": Control::Eos.text(),
        "clean_up_tokenization_spaces": false,
        "model_max_length": 131_072,
    }))
}

fn text(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> impl Iterator<Item = String> + Send {
        (0..200).map(|i| {
            format!("The whale number {i} swims near the harbour, and the whales sing. <think> {i}+{i}\n")
        })
    }

    fn trained(size: usize) -> Tokenizer {
        let files = TokenizerFiles::train(texts(), size).expect("a tokenizer");
        files.load(Path::new("trained")).expect("V4's form")
    }

    #[test]
    fn a_trained_tokenizer_has_every_control_token_and_the_size_asked_for() {
        let tokenizer = trained(300);
        assert_eq!(tokenizer.vocab_size(), 300);
        assert!(Control::ALL.iter().all(|&control| tokenizer.control().id(control).is_some()));
        assert_eq!(tokenizer.added_tokens().len(), Control::ALL.len());
    }

    #[test]
    fn what_comes_often_is_one_token_and_every_digit_is_one() {
        let tokenizer = trained(320);
        assert_eq!(tokenizer.encode_text(" whale").len(), 1);
        assert_eq!(tokenizer.encode_text("2026").len(), 4);
        let text = "naïve 鯨\n\t<｜User｜> 12 whales";
        assert_eq!(tokenizer.decode(&tokenizer.encode_text(text)), text);
    }

    #[test]
    fn the_same_texts_give_the_same_files() {
        let train = || TokenizerFiles::train(texts(), 320).expect("a tokenizer");
        assert_eq!(train(), train());
    }

    #[test]
    fn a_size_without_room_for_the_bytes_is_refused() {
        let error = TokenizerFiles::train(texts(), 200).expect_err("too small").to_string();
        assert!(error.contains("200"), "{error}");
        assert!(TokenizerFiles::train(std::iter::empty(), VOCAB_MIN).is_ok());
    }
}
