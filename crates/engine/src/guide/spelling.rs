//! Texts that plain tokens must not spell.
//!
//! Whoever reads an answer reads text. A tag that is one control token must then not come about letter by letter, or
//! the reader would see a tag where the grammar saw none.

use cuvier_types::TokenId;

/// Finds a few short texts in a stream of bytes: the automaton of Aho and Corasick, made complete.
#[derive(Debug)]
pub(crate) struct Spelling {
    next: Vec<[u16; 256]>,
    /// A text ends here.
    ends: Vec<bool>,
    /// The tokens by which a text would end, for every state.
    completing: Vec<Vec<TokenId>>,
}

/// How far the stream is into one of the texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spelled(u16);

impl Spelling {
    /// For `texts`, and the tokens that may spell them.
    pub(crate) fn new<'a>(
        texts: &[String],
        tokens: impl Iterator<Item = (TokenId, &'a [u8])> + Clone,
    ) -> Self {
        let mut spelling = Self::automaton(texts);
        spelling.completing = (0..spelling.next.len())
            .map(|state| {
                let from = Spelled(state as u16);
                let completes = |bytes: &[u8]| spelling.run(from, bytes).1;
                tokens.clone().filter(|(_, bytes)| completes(bytes)).map(|(token, _)| token).collect()
            })
            .collect();
        spelling
    }

    fn automaton(texts: &[String]) -> Self {
        let mut prefixes: Vec<&[u8]> = vec![b""];
        for text in texts {
            let bytes = text.as_bytes();
            prefixes.extend((1..=bytes.len()).map(|len| &bytes[..len]));
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        assert!(prefixes.len() < usize::from(u16::MAX), "tags are short and few");
        // A state is the longest prefix of a text that the stream ends with. The empty one sorts first.
        let state_of = |stream: &[u8]| {
            let found = (0..=stream.len()).find_map(|from| prefixes.binary_search(&&stream[from..]).ok());
            found.expect("the empty text is a state") as u16
        };
        let next = prefixes.iter().map(|prefix| {
            let mut row = [0; 256];
            for (byte, state) in (0..).zip(&mut row) {
                *state = state_of(&[prefix, &[byte][..]].concat());
            }
            row
        });
        let ends = prefixes.iter().map(|prefix| texts.iter().any(|text| prefix.ends_with(text.as_bytes())));
        Self { next: next.collect(), ends: ends.collect(), completing: Vec::new() }
    }

    /// Takes bytes; also says whether a text ended among them.
    pub(crate) fn run(&self, from: Spelled, bytes: &[u8]) -> (Spelled, bool) {
        let mut state = from.0;
        let mut has_ended = false;
        for &byte in bytes {
            state = self.next[usize::from(state)][usize::from(byte)];
            has_ended |= self.ends[usize::from(state)];
        }
        (Spelled(state), has_ended)
    }

    /// The tokens that must not come next.
    pub(crate) fn completing(&self, from: Spelled) -> &[TokenId] {
        &self.completing[usize::from(from.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[&str], stream: &str) -> bool {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let spelling = Spelling::new(&texts, std::iter::empty());
        spelling.run(Spelled::default(), stream.as_bytes()).1
    }

    #[test]
    fn a_text_is_found_wherever_it_stands() {
        for stream in ["aab", "xaaab", "aab aab", "aaaaaaaab."] {
            assert!(found(&["aab"], stream), "{stream}");
            assert!(found(&["zz", "aab", "aac"], stream), "{stream}");
        }
        for stream in ["", "aa", "aba", "abab", "aacaa"] {
            assert!(!found(&["aab"], stream), "{stream}");
        }
        assert!(found(&["abcd", "bc"], "abc"), "a text inside the beginning of another");
    }

    #[test]
    fn tokens_that_would_complete_a_text_are_known_in_every_state() {
        let tokens: [&[u8]; 5] = [b"D", b"SML", b"L|", b"xDSML|y", b"DSM"];
        let spelling = Spelling::new(&["DSML|".to_owned()], (0..).map(TokenId).zip(tokens.iter().copied()));
        assert_eq!(spelling.completing(Spelled::default()), [TokenId(3)]);
        let (after, has_ended) = spelling.run(Spelled::default(), b"aDSM");
        assert!(!has_ended);
        assert_eq!(spelling.completing(after), [TokenId(2), TokenId(3)]);
    }
}
