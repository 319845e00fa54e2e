//! A set of tokens, one bit each.

use cuvier_types::TokenId;

/// Some tokens of a vocabulary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSet {
    words: Vec<u32>,
}

impl TokenSet {
    pub(crate) fn from_words(words: &[u32]) -> Self {
        Self { words: words.to_vec() }
    }

    /// Whether `token` is in it.
    pub fn contains(&self, token: TokenId) -> bool {
        self.words.get(word(token)).is_some_and(|bits| bits >> (token.0 % 32) & 1 == 1)
    }

    /// Takes `token` out.
    pub(crate) fn remove(&mut self, token: TokenId) {
        if let Some(bits) = self.words.get_mut(word(token)) {
            *bits &= !(1 << (token.0 % 32));
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.words.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&bits| bits == 0)
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = TokenId> + '_ {
        (0..).zip(&self.words).flat_map(|(index, &bits)| {
            (0..32u32).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| TokenId(index * 32 + bit))
        })
    }
}

impl FromIterator<TokenId> for TokenSet {
    fn from_iter<I: IntoIterator<Item = TokenId>>(tokens: I) -> Self {
        let mut set = Self::default();
        for token in tokens {
            if set.words.len() <= word(token) {
                set.words.resize(word(token) + 1, 0);
            }
            set.words[word(token)] |= 1 << (token.0 % 32);
        }
        set
    }
}

fn word(token: TokenId) -> usize {
    token.0 as usize / 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_not_taken_out() {
        let mut set: TokenSet = [0, 31, 32, 100].map(TokenId).into_iter().collect();
        set.remove(TokenId(31));
        set.remove(TokenId(5000));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 32, 100].map(TokenId));
        assert_eq!(set.len(), 3);
        assert!(set.contains(TokenId(100)) && !set.contains(TokenId(31)) && !set.contains(TokenId(5000)));
    }
}
