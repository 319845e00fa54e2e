//! What was read before, by its shingles: every run of eight words.

use std::collections::HashSet;

use super::super::rng::hash;

const WORDS: usize = 8;

/// The shingles of all paragraphs that were kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    shingles: HashSet<u64>,
}

impl Seen {
    /// The text without the paragraphs of which more than a quarter was read before, in this text or an earlier one.
    /// Paragraphs of fewer than eight words stay: headings repeat, and carry what follows.
    pub(super) fn without_repetition(&mut self, text: &str) -> String {
        let mut kept = Vec::new();
        for paragraph in text.split("\n\n") {
            let shingles = shingles(paragraph);
            let n_seen = shingles.iter().filter(|shingle| self.shingles.contains(shingle)).count();
            if 4 * n_seen <= shingles.len() {
                self.shingles.extend(shingles);
                kept.push(paragraph);
            }
        }
        kept.join("\n\n")
    }
}

/// White space and letter case make no difference.
fn shingles(paragraph: &str) -> Vec<u64> {
    let words: Vec<String> = paragraph.split_whitespace().map(str::to_lowercase).collect();
    words.windows(WORDS).map(|words| hash(&words.join(" "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "The keeper of the lighthouse counts the ships that pass before the fog comes in.";

    #[test]
    fn a_paragraph_is_kept_once_however_it_is_spaced() {
        let mut seen = Seen::default();
        assert_eq!(seen.without_repetition(&format!("{LONG}\n\nOther.")), format!("{LONG}\n\nOther."));
        let again = LONG.replace(' ', "\n").to_uppercase();
        assert_eq!(seen.without_repetition(&format!("{again}\n\nOther.\n\nNew.")), "Other.\n\nNew.");
    }

    #[test]
    fn a_paragraph_that_shares_a_little_is_kept() {
        let mut seen = Seen::default();
        seen.without_repetition(LONG);
        let new = "Nobody had asked him to, and nobody read his lists, but every evening he wrote one down, because \
                   the keeper of the lighthouse counts the ships that pass.";
        assert_eq!(seen.without_repetition(new), new);
    }
}
