//! Stop strings in a stream of text pieces.

/// Shows a stream of text up to the first stop string.
///
/// Text is let through as soon as it can no longer be part of a stop string; what still could is held back. So
/// neither a stop string nor a part of one is ever shown, and what is shown in all does not depend on how the
/// text was cut into pieces. Where several stop strings are met, the one that ends first counts, and of those
/// that end together the longest.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// The end of the text so far: the longest that begins a stop string.
    held: String,
    met: Option<usize>,
}

/// What a piece of text brought to light.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Shown {
    /// Text to show now, possibly none.
    pub text: String,
    /// The stop string that was met, by its place in the list. Nothing is shown after it.
    pub met: Option<usize>,
}

impl StopStrings {
    /// Looks out for these strings; an empty one is never met.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), met: None }
    }

    /// Takes the next piece of text. After a stop string was met, every piece is swallowed.
    pub fn push(&mut self, piece: &str) -> Shown {
        if self.met.is_some() {
            return Shown { text: String::new(), met: self.met };
        }
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        if let Some((start, index)) = self.first_met(&text) {
            text.truncate(start);
            self.met = Some(index);
        } else {
            self.held = text.split_off(text.len() - self.n_held(&text));
        }
        Shown { text, met: self.met }
    }

    /// The text has ended: what was held back turned out to be plain text. Empty after a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the first stop string to end begins, and which one it is.
    fn first_met(&self, text: &str) -> Option<(usize, usize)> {
        let found = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        found
            .filter_map(|(index, stop)| text.find(stop).map(|start| (start + stop.len(), start, index)))
            .min()
            .map(|(_, start, index)| (start, index))
    }

    /// Bytes at the end of `text` that could become a stop string.
    fn n_held(&self, text: &str) -> usize {
        let begun = |stop: &String| {
            let beginnings = stop.char_indices().map(|(end, _)| end).rev();
            beginnings.into_iter().find(|&end| text.ends_with(&stop[..end])).unwrap_or(0)
        };
        self.stops.iter().map(begun).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(stops: &[&str]) -> StopStrings {
        StopStrings::new(stops.iter().map(|&stop| stop.to_owned()).collect())
    }

    fn shown(text: &str, met: Option<usize>) -> Shown {
        Shown { text: text.to_owned(), met }
    }

    #[test]
    fn stop_string_split_over_three_pieces_is_never_shown() {
        let mut stop = stops(&["</end>"]);
        assert_eq!(stop.push("Hello <"), shown("Hello ", None));
        assert_eq!(stop.push("/en"), shown("", None));
        assert_eq!(stop.push("d> more"), shown("", Some(0)));
        assert_eq!(stop.push("and more"), shown("", Some(0)));
        assert_eq!(stop.finish(), "");
    }

    #[test]
    fn text_that_only_looked_like_a_stop_string_is_shown_once_it_cannot_be_one() {
        let mut stop = stops(&["abc"]);
        assert_eq!(stop.push("xab"), shown("x", None));
        assert_eq!(stop.push("ab"), shown("ab", None));
        assert_eq!(stop.push("d"), shown("abd", None));
    }

    #[test]
    fn text_held_back_at_the_end_is_shown_then() {
        let mut stop = stops(&["abc"]);
        assert_eq!(stop.push("ab"), shown("", None));
        assert_eq!(stop.finish(), "ab");
    }

    #[test]
    fn the_stop_string_that_ends_first_counts_and_the_longest_of_those() {
        assert_eq!(stops(&["abcd", "bc"]).push("abcd"), shown("a", Some(1)));
        assert_eq!(stops(&["bc", "abc"]).push("xabc"), shown("x", Some(1)));
    }

    #[test]
    fn a_character_of_several_bytes_is_never_cut() {
        let mut stop = stops(&["🐋é"]);
        assert_eq!(stop.push("é🐋"), shown("é", None));
        assert_eq!(stop.push("🐋"), shown("🐋", None));
        assert_eq!(stop.push("é"), shown("", Some(0)));
    }

    #[test]
    fn without_stop_strings_and_with_an_empty_one_everything_passes() {
        assert_eq!(stops(&[]).push("text"), shown("text", None));
        assert_eq!(stops(&[""]).push("text"), shown("text", None));
    }

    /// The same by its definition: look at every end in turn.
    fn by_definition(stops: &[String], text: &str) -> (String, Option<usize>) {
        for end in 0..=text.len() {
            let ending = stops.iter().enumerate().filter(|(_, stop)| {
                !stop.is_empty() && text.is_char_boundary(end) && text[..end].ends_with(stop.as_str())
            });
            if let Some((index, stop)) = ending.min_by_key(|(index, stop)| (text.len() - stop.len(), *index))
            {
                return (text[..end - stop.len()].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn what_is_shown_does_not_depend_on_how_the_text_is_cut(
            list in prop::collection::vec("[abé]{0,4}", 0..4),
            pieces in prop::collection::vec("[abé🐋]{0,5}", 0..12),
        ) {
            let text = pieces.concat();
            let (want, want_met) = by_definition(&list, &text);
            let mut stop = StopStrings::new(list.clone());
            let mut got = String::new();
            for piece in &pieces {
                let shown = stop.push(piece);
                got.push_str(&shown.text);
                prop_assert!(want.starts_with(&got), "no part of a stop string is shown");
            }
            let met = stop.met;
            got.push_str(&stop.finish());
            prop_assert_eq!(got, want);
            prop_assert_eq!(met, want_met);
        }

        #[test]
        fn no_more_is_held_back_than_could_become_a_stop_string(
            list in prop::collection::vec("[ab]{1,4}", 1..4),
            text in "[ab]{0,12}",
        ) {
            let mut stop = StopStrings::new(list.clone());
            if stop.push(&text).met.is_none() {
                let held = stop.finish();
                prop_assert!(held.is_empty() || list.iter().any(|s| s.len() > held.len() && s.starts_with(&held)));
            }
        }
    }
}
