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
    ///
    /// A paragraph of fewer than eight words is judged together with the words before it: a heading repeats and
    /// carries what follows, a run of lines that always come together carries nothing.
    pub(super) fn without_repetition(&mut self, text: &str) -> String {
        let mut kept = Vec::new();
        // The last words that were kept, one less than a shingle has.
        let mut tail: Vec<String> = Vec::new();
        for paragraph in text.split("\n\n") {
            // White space and letter case make no difference.
            let words: Vec<String> = paragraph.split_whitespace().map(str::to_lowercase).collect();
            let own = shingles(&words);
            tail.extend(words.iter().cloned());
            let joined = shingles(&tail);
            let judged = if own.is_empty() { &joined } else { &own };
            let n_seen = judged.iter().filter(|shingle| self.shingles.contains(shingle)).count();
            if 4 * n_seen <= judged.len() {
                self.shingles.extend(joined);
                kept.push(paragraph);
                tail.drain(..tail.len().saturating_sub(WORDS - 1));
            } else {
                tail.truncate(tail.len() - words.len());
            }
        }
        kept.join("\n\n")
    }
}

fn shingles(words: &[String]) -> Vec<u64> {
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

    #[test]
    fn short_lines_that_always_come_together_are_kept_once_and_headings_everywhere() {
        let mut seen = Seen::default();
        let lines = "Open from nine.\n\nClosed at noon.\n\nOpen again from two.\n\nClosed at night.";
        assert_eq!(seen.without_repetition(lines), lines);
        let again = seen.without_repetition(&format!("A first page about piers and cranes.\n\n{lines}"));
        assert!(again.matches('\n').count() < 2 * 4, "{again}");
        let heading = "# Examples\n\nOne crane lifts one barrel over one boat at noon.";
        assert_eq!(seen.without_repetition(heading), heading);
        let heading = "# Examples\n\nTwo gulls follow a ferry that nobody had expected today.";
        assert_eq!(seen.without_repetition(heading), heading);
    }
}
