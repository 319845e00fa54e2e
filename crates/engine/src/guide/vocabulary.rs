//! What guides know about a vocabulary, worked out once.

use std::fmt;
use std::sync::Arc;

use cuvier_types::TokenId;
use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use super::spelling::Spelling;

/// A vocabulary and its control tokens.
#[derive(Clone, Debug)]
pub struct VocabularyParts {
    /// The bytes of every token; none for an id that does not exist.
    pub tokens: Vec<Vec<u8>>,
    /// Tokens that no text stands for, [`mark`](Self::mark) among them. A grammar lets none of them through unless
    /// it names the id.
    pub control: Vec<TokenId>,
    /// Ends an answer.
    pub end: TokenId,
    /// Opens the reasoning.
    pub reasoning_start: TokenId,
    /// Closes the reasoning.
    pub reasoning_end: TokenId,
    /// Stands in every tag of a call.
    pub mark: TokenId,
    /// What the header of a parameter ends with whose value is JSON.
    pub json_header: String,
    /// What plain tokens must not spell in the reasoning, because it would be read as a tag.
    pub not_in_reasoning: Vec<String>,
    /// The same in what is said. The text begins as after a line's end.
    pub not_in_content: Vec<String>,
    /// The same in what a grammar governs.
    pub not_in_grammar: Vec<String>,
}

/// A vocabulary, ready to be constrained. Clones share it.
#[derive(Clone)]
pub struct Vocabulary {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) parts: VocabularyParts,
    pub(crate) factory: ParserFactory,
    pub(crate) in_reasoning: Spelling,
    pub(crate) in_content: Spelling,
    pub(crate) in_grammar: Spelling,
    /// Control tokens that may stand neither in the reasoning nor in what is said.
    pub(crate) never: Vec<TokenId>,
    /// Tokens that open lists or objects.
    pub(crate) openers: Vec<TokenId>,
    /// Brackets in the token that has most.
    pub(crate) opens_max: usize,
}

/// Why a vocabulary cannot be constrained.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    /// A control token is outside the vocabulary.
    #[error("token {} is outside the vocabulary of {len}", token.0)]
    NoSuchToken {
        /// The token.
        token: TokenId,
        /// Tokens of the vocabulary.
        len: usize,
    },
    /// The library refused it.
    #[error("{0}")]
    Library(String),
}

/// What compiling and following a grammar may cost. The first two bound the work of compiling, the next three that of
/// one mask (some milliseconds), `max_lexer_states` the memory of an answer (1 to 2 KB each).
const LIMITS: ParserLimits = ParserLimits {
    initial_lexer_fuel: 1_000_000,
    max_grammar_size: 200_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_items_in_row: 10_000,
    max_lexer_states: 20_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// Parts of the vocabulary whose masks are kept ready: white space, what needs no escape in a JSON string (short, or
/// of any length), and any text.
const SLICES: [&str; 5] = [
    r"[\x20\x0A\x0D\x09]+",
    r#"[^"\\\x00-\x1F\x7F]{1,10}"#,
    r#"[^"\\\x00-\x1F\x7F]{1,30}"#,
    r#"[^"\\\x00-\x1F\x7F]+"#,
    r"(?s:.+)",
];

impl Vocabulary {
    /// Builds what all grammars share.
    ///
    /// # Errors
    /// If a control token is outside the vocabulary.
    pub fn new(parts: VocabularyParts) -> Result<Self, VocabularyError> {
        let len = parts.tokens.len();
        let named = [parts.end, parts.reasoning_start, parts.reasoning_end, parts.mark];
        if let Some(&token) = parts.control.iter().chain(&named).find(|token| token.0 as usize >= len) {
            return Err(VocabularyError::NoSuchToken { token, len });
        }
        let factory = factory(&parts).map_err(|error| VocabularyError::Library(error.to_string()))?;
        let plain = parts.plain();
        let [in_reasoning, in_content, in_grammar] =
            [&parts.not_in_reasoning, &parts.not_in_content, &parts.not_in_grammar]
                .map(|texts| Spelling::new(texts, plain.iter().copied()));
        let n_opens = |bytes: &[u8]| bytes.iter().filter(|&&byte| matches!(byte, b'[' | b'{')).count();
        let opens_max = plain.iter().map(|(_, bytes)| n_opens(bytes)).max().unwrap_or(0);
        let openers = plain.iter().filter(|(_, bytes)| n_opens(bytes) > 0).map(|&(token, _)| token).collect();
        let stays = [parts.reasoning_start, parts.reasoning_end, parts.mark, parts.end];
        let never = parts.control.iter().copied().filter(|token| !stays.contains(token)).collect();
        drop(plain);
        let inner = Inner { parts, factory, in_reasoning, in_content, in_grammar, never, openers, opens_max };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }
}

impl Inner {
    pub(crate) fn bytes(&self, token: TokenId) -> &[u8] {
        self.parts.tokens.get(token.0 as usize).map_or(&[], Vec::as_slice)
    }
}

impl VocabularyParts {
    /// Tokens that stand for text.
    fn plain(&self) -> Vec<(TokenId, &[u8])> {
        let mut is_control = vec![false; self.tokens.len()];
        self.control.iter().chain([&self.end]).for_each(|token| is_control[token.0 as usize] = true);
        let tokens = (0..).map(TokenId).zip(&self.tokens).zip(is_control);
        tokens
            .filter(|(_, is_control)| !is_control)
            .map(|((token, bytes), _)| (token, bytes.as_slice()))
            .collect()
    }
}

fn factory(parts: &VocabularyParts) -> Result<ParserFactory, Box<dyn std::error::Error + Send + Sync>> {
    let mut words = parts.tokens.clone();
    for token in parts.control.iter().chain([&parts.end]) {
        // With this byte in front a word is no text: no UTF-8 has it.
        words[token.0 as usize].insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
    }
    let len = u32::try_from(words.len()).unwrap_or(u32::MAX);
    let trie = TokTrie::from(&TokRxInfo::new(len, parts.end.0), &words);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &SLICES.map(str::to_owned))?;
    *factory.limits_mut() = LIMITS;
    factory.quiet();
    Ok(factory)
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("tokens", &self.inner.parts.tokens.len()).finish_non_exhaustive()
    }
}
