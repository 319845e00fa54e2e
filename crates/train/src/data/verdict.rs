//! What an answer is worth.

use cuvier_encoding::{Completion, parse_completion};
use cuvier_types::FinishReason;

use super::generators::{abstain, arithmetic, facts, grammar, identity, recall, tools};
use super::sample::{Answer, Body, Sample, Task};

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It says something that is not so.
    Wrong,
    /// It says that it does not know.
    Abstains,
    /// It says what is so.
    Right,
}

impl Sample {
    /// Judges another answer to the question of this sample: the text of all tokens after
    /// [`Encoder::question`](super::Encoder::question), thoughts, calls and control tokens included, the end of turn or
    /// not. Nothing where nothing verifies this sample.
    #[must_use]
    pub fn verdict(&self, answer: &str) -> Option<Verdict> {
        let Body::Chat(chat) = &self.body else { return None };
        let right = self.answer.as_ref()?;
        let said = parse_completion(answer, chat.parser_options(), FinishReason::Stop);
        Some(match self.task {
            Task::Arithmetic => arithmetic::verify(right, &said),
            Task::Recall => recall::verify(right, &said),
            Task::Facts => facts::verify(right, &said),
            Task::Tools => tools::verify(right, &said),
            Task::Abstain => abstain::verify(right, &said),
            Task::Grammar => grammar::verify(right, &said),
            Task::Identity => identity::verify(right, &said),
            Task::Text | Task::Chat => return None,
        })
    }

    /// Whether an answer of this verdict is the one that is wanted: to abstain where nobody can know, to be right
    /// elsewhere.
    #[must_use]
    pub fn wants(&self, verdict: Verdict) -> bool {
        match self.answer {
            Some(Answer::Unknown { .. }) => verdict == Verdict::Abstains,
            _ => verdict == Verdict::Right,
        }
    }
}

/// Judges values in order among what must not be said: the form of several tasks.
pub(super) fn values(right: &[String], wrong: &[String], said: &Completion) -> Verdict {
    let text = &said.content;
    let mut rest = text.as_str();
    let says_all = right.iter().all(|value| match find_word(rest, value) {
        Some(at) => {
            rest = &rest[at + value.len()..];
            true
        }
        None => false,
    });
    let says_other = wrong.iter().any(|value| find_word(text, value).is_some());
    match (says_all && !right.is_empty(), abstain::admits_ignorance(text)) {
        (true, false) if !says_other => Verdict::Right,
        (false, true) if !says_other => Verdict::Abstains,
        // Several values, or a value and a doubt: a guess that keeps a way out is no answer.
        _ => Verdict::Wrong,
    }
}

/// Where `word` stands in the text and is not a part of a longer word or number.
pub(super) fn find_word(text: &str, word: &str) -> Option<usize> {
    let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(word)
        .map(|(at, _)| at)
        .find(|&at| !joins(text[..at].chars().next_back()) && !joins(text[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(content: &str) -> Completion {
        Completion { content: content.to_owned(), ..Completion::default() }
    }

    fn judge(right: &[&str], wrong: &[&str], content: &str) -> Verdict {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        values(&owned(right), &owned(wrong), &said(content))
    }

    #[test]
    fn a_value_counts_only_as_a_word_of_its_own() {
        assert_eq!(judge(&["48"], &[], "It is 48."), Verdict::Right);
        assert_eq!(judge(&["48"], &[], "It is 4821."), Verdict::Wrong);
        assert_eq!(judge(&["48"], &[], "4821, no: 48"), Verdict::Right);
    }

    #[test]
    fn values_must_come_in_their_order() {
        assert_eq!(judge(&["a1", "b2"], &[], "a1 and b2"), Verdict::Right);
        assert_eq!(judge(&["a1", "b2"], &[], "b2 and a1"), Verdict::Wrong);
    }

    #[test]
    fn listing_every_value_is_no_answer() {
        assert_eq!(judge(&["48"], &["77"], "48 or 77"), Verdict::Wrong);
        assert_eq!(judge(&["48"], &[], "It is 48, or I do not know."), Verdict::Wrong);
    }

    #[test]
    fn saying_that_one_does_not_know_is_told_from_being_wrong() {
        assert_eq!(judge(&["48"], &["77"], "I do not know."), Verdict::Abstains);
        assert_eq!(judge(&["48"], &["77"], "I do not know, 77?"), Verdict::Wrong);
        assert_eq!(judge(&["48"], &[], ""), Verdict::Wrong);
    }
}
