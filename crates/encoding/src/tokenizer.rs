//! Text to token ids and back, for one `tokenizer.json`.
//!
//! The byte-pair encoding, the split rules and the matching of added tokens are the `tokenizers` library's.
//! What is ours is the separation of control and data: [`Tokenizer::encode_text`] cannot yield a control token,
//! whatever the text says.

mod bytes;
mod file;
mod text_stream;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use cuvier_types::TokenId;
use thiserror::Error;
use tokenizers::{AddedToken, ModelWrapper, PreTokenizerWrapper};

use crate::control::{Control, ControlIds};
use crate::prompt::{Prompt, Segment};
use bytes::TokenBytes;
pub(crate) use bytes::char_of_byte;
use file::TokenizerFile;
pub use text_stream::TextStream;

/// A vocabulary, loaded.
pub struct Tokenizer {
    /// The file as it is: added tokens are found in the text.
    with_control: tokenizers::Tokenizer,
    /// The same without added tokens: whatever they spell is plain text.
    data: tokenizers::Tokenizer,
    control: ControlIds,
    bytes: TokenBytes,
}

/// Why a tokenizer file was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not JSON, or not the JSON of a tokenizer.
    #[error("not a tokenizer.json: {source}")]
    Json {
        /// Where and what.
        source: serde_json::Error,
    },
    /// A part of the file is of a kind that V4 does not have.
    #[error("tokenizer.json: `{part}` must be {want}, is {got}")]
    Unsupported {
        /// The key in the file.
        part: &'static str,
        /// What V4 has there.
        want: &'static str,
        /// What the file has there.
        got: String,
    },
    /// Some text would have no tokens.
    #[error("tokenizer.json: the vocabulary lacks byte 0x{byte:02x}")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// An id no model has.
    #[error("tokenizer.json: `{token}` has id {id}, the highest possible is {max}")]
    IdTooLarge {
        /// The token's text in the file.
        token: String,
        /// Its id.
        id: u32,
        /// The bound.
        max: u32,
    },
    /// Two tokens share one id.
    #[error("tokenizer.json: two tokens have id {id}, one of them `{token}`")]
    DuplicateId {
        /// The id.
        id: u32,
        /// One of the tokens.
        token: String,
    },
    /// A merge of tokens that are not in the vocabulary.
    #[error("tokenizer.json: merge {index}, `{left}` with `{right}`, names tokens outside the vocabulary")]
    Merge {
        /// Which merge, from 0.
        index: usize,
        /// Its left half.
        left: String,
        /// Its right half.
        right: String,
    },
    /// An added token's id is not the one the library gives it.
    #[error(
        "tokenizer.json: added token `{token}` has id {want}, but its place in the list makes it {got:?}"
    )]
    AddedToken {
        /// The token's text.
        token: String,
        /// The id the file states.
        want: u32,
        /// The id the library gives.
        got: Option<u32>,
    },
    /// Without this token no conversation can be written.
    #[error(
        "tokenizer.json: `{token}` must be exactly one token; is this the vocabulary of a DeepSeek-V4 model?"
    )]
    NotOneToken {
        /// The token's text.
        token: &'static str,
    },
    /// A control token that plain text could become.
    #[error(
        "tokenizer.json: the merges make `{token}` out of plain text, so a user could write a control token"
    )]
    Reachable {
        /// The token's text.
        token: &'static str,
    },
    /// The library refused a part.
    #[error("tokenizer.json: {message}")]
    Library {
        /// What it said.
        message: String,
    },
}

/// A prompt needs a control token that this vocabulary lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this model's vocabulary has no token `{}`", token.text())]
pub struct MissingToken {
    /// The token.
    pub token: Control,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If the file cannot be read, or is refused as in [`from_bytes`](Self::from_bytes).
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let json = std::fs::read(path)
            .map_err(|source| TokenizerError::Read { path: path.to_path_buf(), source })?;
        Self::from_bytes(&json)
    }

    /// Takes the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is not a byte-level BPE whose split rules lose no text, if it contradicts itself, or if one of the
    /// seven tokens of every conversation is missing.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TokenizerError> {
        let file = TokenizerFile::parse(json)?;
        let bytes = TokenBytes::new(&file)?;
        let TokenizerFile { added_tokens, pre_tokenizer, bpe, .. } = file;
        let model = ModelWrapper::BPE(bpe);
        let data = instance(model.clone(), pre_tokenizer.clone());
        let mut with_control = instance(model, pre_tokenizer);
        // One by one the library would rebuild its matcher for each; one call builds it once.
        with_control.add_tokens(added_tokens.iter().map(file::AddedEntry::to_library)).map_err(library)?;
        for entry in &added_tokens {
            let got = with_control.token_to_id(&entry.content);
            if got != Some(entry.id) {
                let token = entry.content.clone();
                return Err(TokenizerError::AddedToken { token, want: entry.id, got });
            }
        }
        let control = ControlIds::look_up(|control| single_token(&with_control, control.text()))
            .map_err(|missing| TokenizerError::NotOneToken { token: missing.text() })?;
        Ok(Self { with_control, data, control, bytes })
    }

    /// The highest id and one more. Ids from here on do not exist; a few below may not either.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// The ids of the control tokens.
    #[must_use]
    pub fn control(&self) -> &ControlIds {
        &self.control
    }

    /// The tokens of plain text. Never a control token, even where the text spells one.
    ///
    /// In a text with a run of more than about a million white-space characters the regular expressions give up
    /// splitting at that run. Nothing is lost, but the ids from there on are not the official ones.
    #[must_use]
    pub fn encode_text(&self, text: &str) -> Vec<TokenId> {
        self.encode(&self.data, text)
    }

    /// The tokens of text in which control tokens are meant, as the file alone would have it.
    ///
    /// For text from a trusted hand only; a conversation goes through [`encode_prompt`](Self::encode_prompt).
    #[must_use]
    pub fn encode_with_control(&self, text: &str) -> Vec<TokenId> {
        self.encode(&self.with_control, text)
    }

    /// The tokens of a prompt: its control segments as control tokens, its text segments as plain text.
    ///
    /// # Errors
    /// If the prompt uses a token that a small vocabulary may lack, and this one does.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<TokenId>, MissingToken> {
        let mut ids = Vec::new();
        for segment in prompt.segments() {
            match segment {
                Segment::Control(token) => {
                    ids.push(self.control.id(*token).ok_or(MissingToken { token: *token })?);
                }
                Segment::Text(text) => ids.extend(self.encode_text(text)),
                Segment::Sampled(sampled) => ids.extend(&sampled.tokens),
            }
        }
        Ok(ids)
    }

    /// The bytes a token stands for; a part of a character, often. `None` if there is no such token.
    #[must_use]
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        self.bytes.get(id)
    }

    /// The bytes of every token, by id; none for an id that does not exist.
    #[must_use]
    pub fn token_table(&self) -> Vec<Vec<u8>> {
        let ids = (0u32..).take(self.vocab_size()).map(TokenId);
        ids.map(|id| self.token_bytes(id).unwrap_or_default().to_vec()).collect()
    }

    /// All tokens that plain text never becomes, ascending: the control tokens, and those that have no meaning here.
    #[must_use]
    pub fn added_tokens(&self) -> Vec<TokenId> {
        let mut ids: Vec<TokenId> =
            self.with_control.get_added_tokens_decoder().keys().copied().map(TokenId).collect();
        ids.sort_unstable();
        ids
    }

    /// The text of some tokens. What is not UTF-8 becomes U+FFFD; tokens that do not exist add nothing.
    #[must_use]
    pub fn decode(&self, ids: &[TokenId]) -> String {
        let bytes: Vec<u8> = ids.iter().filter_map(|&id| self.token_bytes(id)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn encode(&self, instance: &tokenizers::Tokenizer, text: &str) -> Vec<TokenId> {
        match instance.encode_fast(text, false) {
            Ok(encoding) => encoding.get_ids().iter().map(|&id| TokenId(id)).collect(),
            // The library has no failure left for a file that passed the door. Should it find one, a byte
            // per token is still this text.
            Err(_) => text.bytes().map(|byte| self.bytes.byte(byte)).collect(),
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

fn instance(model: ModelWrapper, pre_tokenizer: PreTokenizerWrapper) -> tokenizers::Tokenizer {
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    tokenizer
}

fn single_token(tokenizer: &tokenizers::Tokenizer, text: &str) -> Option<TokenId> {
    let encoding = tokenizer.encode_fast(text, false).ok()?;
    match encoding.get_ids() {
        [id] => Some(TokenId(*id)),
        _ => None,
    }
}

fn library(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Library { message: error.to_string() }
}

impl file::AddedEntry {
    fn to_library(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}
