//! How long a text is in tokens.

use cuvier_encoding::Tokenizer;

/// Measures texts for generators that place things at a distance.
#[derive(Clone, Copy, Debug)]
pub enum Ruler<'a> {
    /// Exactly, but for what merges across the ends of the text.
    Tokenizer(&'a Tokenizer),
    /// Four bytes a token, before there is a tokenizer.
    Estimate,
}

impl Ruler<'_> {
    /// Tokens of the text.
    #[must_use]
    pub fn tokens(self, text: &str) -> usize {
        match self {
            Self::Tokenizer(tokenizer) => tokenizer.encode_text(text).len(),
            Self::Estimate => text.len().div_ceil(4),
        }
    }
}
