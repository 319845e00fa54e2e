//! What the server remembers of its answers, so that a conversation that comes back begins with the very tokens that
//! were drawn.
//!
//! Clients lose reasoning, write arguments anew and trim white space. Each change moves a token, and the prompt
//! would be computed again from there on. So an answer is kept under the ids of its calls, which the client must
//! give back, and under what was visible of it and of the conversation before it.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use cuvier_encoding::{Arguments, Message, Role, Sampled};
use serde_json::Value;

/// Answers kept; the oldest is forgotten first.
const ANSWERS_MAX: usize = 20_000;
/// Tokens kept in all answers together: 256 MiB of ids, about as much again of text.
const TOKENS_MAX: usize = 64 << 20;

/// Answers by what finds them.
#[derive(Debug, Default)]
pub struct Recall {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<Key, Remembered>,
    oldest_first: VecDeque<Key>,
    n_tokens: usize,
}

/// What finds an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// The first of its calls; nobody can guess the id.
    Call { scope: u64, id: String },
    /// What was visible of the conversation and of the answer.
    Transcript { scope: u64, hash: u64 },
}

#[derive(Clone, Debug)]
struct Remembered {
    /// Names and arguments, which must still be what they were.
    calls: Vec<(String, Value)>,
    content: String,
    sampled: Sampled,
}

/// The visible part of a conversation so far.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    hasher: DefaultHasher,
}

impl Transcript {
    /// Adds a message, without what clients lose.
    pub fn add(&mut self, message: &Message) {
        message.role.name().hash(&mut self.hasher);
        message.content.text().trim().hash(&mut self.hasher);
        message.tool_call_id.hash(&mut self.hasher);
        for call in &message.tool_calls {
            (&call.id, &call.name).hash(&mut self.hasher);
        }
    }

    fn with_answer(&self, content: &str) -> u64 {
        let mut hasher = self.hasher.clone();
        ("answer", content.trim()).hash(&mut hasher);
        hasher.finish()
    }
}

/// An answer to be remembered.
#[derive(Clone, Debug)]
pub struct Given {
    /// What the client saw as text.
    pub content: String,
    /// Id, name and arguments of each call.
    pub calls: Vec<(String, String, String)>,
    /// The tokens drawn.
    pub sampled: Sampled,
}

impl Recall {
    /// Keeps an answer to the conversation in `before`.
    pub fn keep(&self, scope: u64, before: &Transcript, given: Given) {
        let key = match given.calls.first() {
            Some((id, ..)) => Key::Call { scope, id: id.clone() },
            None => Key::Transcript { scope, hash: before.with_answer(&given.content) },
        };
        let parse = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
        let calls = given.calls.into_iter().map(|(_, name, arguments)| (name, parse(&arguments))).collect();
        let answer = Remembered { calls, content: given.content, sampled: given.sampled };
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(key, answer);
    }

    /// Gives every answer in `messages` that is known the tokens that were drawn for it, and returns the transcript
    /// of them all.
    pub fn restore(&self, scope: u64, messages: &mut [Message]) -> Transcript {
        let mut transcript = Transcript::default();
        for message in messages {
            if message.role == Role::Assistant && !message.wo_eos {
                message.sampled = self.find(scope, &transcript, message);
            }
            transcript.add(message);
        }
        transcript
    }

    fn find(&self, scope: u64, before: &Transcript, message: &Message) -> Option<Sampled> {
        let content = message.content.text();
        let key = match message.tool_calls.first() {
            Some(call) => Key::Call { scope, id: call.id.clone()? },
            None => Key::Transcript { scope, hash: before.with_answer(&content) },
        };
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = kept.answers.get(&key)?;
        let is_same_text = answer.content.trim() == content.trim();
        (is_same_text && is_same_calls(&answer.calls, message)).then(|| answer.sampled.clone())
    }
}

impl Kept {
    fn insert(&mut self, key: Key, answer: Remembered) {
        self.n_tokens += answer.sampled.n_tokens();
        if let Some(old) = self.answers.insert(key.clone(), answer) {
            self.n_tokens -= old.sampled.n_tokens();
        } else {
            self.oldest_first.push_back(key);
        }
        while self.answers.len() > ANSWERS_MAX || self.n_tokens > TOKENS_MAX {
            let Some(oldest) = self.oldest_first.pop_front() else { break };
            if let Some(old) = self.answers.remove(&oldest) {
                self.n_tokens -= old.sampled.n_tokens();
            }
        }
    }
}

fn is_same_calls(kept: &[(String, Value)], message: &Message) -> bool {
    let calls = &message.tool_calls;
    kept.len() == calls.len()
        && kept.iter().zip(calls).all(|((name, arguments), call)| {
            let sent = match &call.arguments {
                Arguments::Value(value) => Some(value.clone()),
                Arguments::Text(text) => serde_json::from_str(text).ok(),
            };
            *name == call.name && sent.is_some_and(|sent| sent == *arguments)
        })
}

#[cfg(test)]
mod tests {
    use cuvier_encoding::{SampledText, ToolCall};
    use cuvier_types::TokenId;

    use super::*;

    fn given(content: &str, calls: &[(&str, &str, &str)], token: u32) -> Given {
        let owned = |&(id, name, arguments): &(&str, &str, &str)| {
            (id.to_owned(), name.to_owned(), arguments.to_owned())
        };
        let answer = SampledText { tokens: vec![TokenId(token)], text: content.to_owned() };
        let sampled = Sampled { reasoning: SampledText::default(), answer };
        Given { content: content.to_owned(), calls: calls.iter().map(owned).collect(), sampled }
    }

    fn call(id: &str, name: &str, arguments: &str) -> Message {
        let arguments = Arguments::Text(arguments.to_owned());
        let mut message = Message::text(Role::Assistant, "");
        message.tool_calls = vec![ToolCall { id: Some(id.to_owned()), name: name.to_owned(), arguments }];
        message
    }

    #[test]
    fn a_call_is_found_by_its_id_however_its_arguments_are_spaced() {
        let recall = Recall::default();
        recall.keep(1, &Transcript::default(), given("", &[("c", "f", r#"{"a": 1}"#)], 5));
        let mut messages = [call("c", "f", r#"{"a":1}"#)];
        recall.restore(1, &mut messages);
        assert!(messages[0].sampled.is_some());
    }

    #[test]
    fn a_call_that_was_altered_or_belongs_to_another_is_not_found() {
        let recall = Recall::default();
        recall.keep(1, &Transcript::default(), given("", &[("c", "f", r#"{"a": 1}"#)], 5));
        let mut altered = [call("c", "f", r#"{"a": 2}"#)];
        recall.restore(1, &mut altered);
        let mut foreign = [call("c", "f", r#"{"a": 1}"#)];
        recall.restore(2, &mut foreign);
        assert!(altered[0].sampled.is_none() && foreign[0].sampled.is_none());
    }

    #[test]
    fn an_answer_without_calls_is_found_only_after_the_same_conversation() {
        let recall = Recall::default();
        let question = Message::text(Role::User, "q");
        let mut before = Transcript::default();
        before.add(&question);
        recall.keep(0, &before, given("Done.", &[], 5));
        let mut same = [question, Message::text(Role::Assistant, "Done. ")];
        recall.restore(0, &mut same);
        let mut other = [Message::text(Role::User, "p"), Message::text(Role::Assistant, "Done.")];
        recall.restore(0, &mut other);
        assert!(same[1].sampled.is_some() && other[1].sampled.is_none());
    }

    #[test]
    fn the_oldest_answer_is_forgotten_when_there_are_too_many() {
        let mut kept = Kept::default();
        for id in 0..=ANSWERS_MAX {
            let answer = Remembered { calls: vec![], content: String::new(), sampled: Sampled::default() };
            kept.insert(Key::Transcript { scope: 0, hash: id as u64 }, answer);
        }
        assert_eq!(kept.answers.len(), ANSWERS_MAX);
        assert!(!kept.answers.contains_key(&Key::Transcript { scope: 0, hash: 0 }));
    }
}
