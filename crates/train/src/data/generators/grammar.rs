//! Brackets and JSON: texts in which what comes later follows from what came earlier.

use cuvier_encoding::{Completion, to_python_json};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::error::OptionError;
use super::super::rng::Rng;
use super::super::sample::{Answer, Chat, Sample, Task, Think};
use super::super::split::Split;
use super::super::verdict::Verdict;
use super::super::words;
use super::tools::same;
use super::{answer_at_once, not_empty, within};

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Of these one is drawn.
    pub forms: Vec<Form>,
    /// The most brackets that are open at once, and half of the most levels of JSON. 2 to 64.
    pub depth: usize,
    /// Of these one is drawn for a conversation.
    pub think: Vec<Think>,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Plain text: balanced brackets of four kinds.
    Brackets,
    /// Plain text: a JSON value.
    Json,
    /// Open brackets, and the request to close them.
    Close,
    /// A list of things in words, and the request to write it as JSON.
    Write,
}

const BRACKETS: [(char, char); 4] = [('(', ')'), ('[', ']'), ('{', '}'), ('<', '>')];
/// Brackets of a text.
const BRACKETS_MAX: u64 = 120;

impl Default for Options {
    fn default() -> Self {
        Self {
            forms: vec![Form::Brackets, Form::Json, Form::Close, Form::Write],
            depth: 8,
            think: answer_at_once(),
        }
    }
}

impl Options {
    /// # Errors
    /// If an option is out of its bounds.
    pub fn check(&self) -> Result<(), OptionError> {
        not_empty("forms", &self.forms)?;
        not_empty("think", &self.think)?;
        within("depth", 2..=64, "2 to 64", self.depth)
    }
}

/// One text or one request; nothing if the options leave none for this half.
#[must_use]
pub fn sample(rng: &mut Rng, options: &Options, split: Split) -> Option<Sample> {
    let depth = options.depth;
    match rng.pick(&options.forms) {
        Form::Brackets => {
            let text = split.draw(rng, |rng| balanced(rng, depth), String::clone)?;
            Some(Sample::text(Task::Grammar, text))
        }
        Form::Json => {
            let draw = |rng: &mut Rng| to_python_json(&json_value(rng, (depth / 2).min(8)));
            Some(Sample::text(Task::Grammar, split.draw(rng, draw, String::clone)?))
        }
        Form::Close => {
            let open = split.draw(rng, |rng| unbalanced(rng, depth), String::clone)?;
            let closing = closing(&open);
            let thoughts = format!("Still open, the last first: {closing}");
            let question = format!("Close what is open: {open}");
            let chat = Chat::ask(*rng.pick(&options.think), question, thoughts, closing.clone());
            Some(Sample::chat(Task::Grammar, chat, Answer::Text(closing)))
        }
        Form::Write => {
            let fields = split.draw(rng, flat_fields, |fields| Value::Object(fields.clone()).to_string())?;
            let said: Vec<String> =
                fields.iter().map(|(key, value)| format!("{key}: {}", spoken(value))).collect();
            let question = format!("Write as one JSON object: {}.", said.join("; "));
            let value = Value::Object(fields);
            let thoughts = "Texts go into quotes, numbers and yes or no do not.".to_owned();
            let chat = Chat::ask(*rng.pick(&options.think), question, thoughts, to_python_json(&value));
            Some(Sample::chat(Task::Grammar, chat, Answer::Json(value)))
        }
    }
}

/// Right if the brackets are these, or the JSON means the same.
#[must_use]
pub fn verify(right: &Answer, said: &Completion) -> Verdict {
    let is_right = match right {
        Answer::Text(text) => said.content.trim() == text,
        Answer::Json(value) => {
            serde_json::from_str::<Value>(said.content.trim()).is_ok_and(|got| same(value, &got))
        }
        _ => false,
    };
    if is_right { Verdict::Right } else { Verdict::Wrong }
}

/// Brackets of which some stay open.
fn unbalanced(rng: &mut Rng, depth: usize) -> String {
    let mut text = String::new();
    let mut open = Vec::new();
    for _ in 0..rng.within(2..=2 * depth as u64) {
        step(rng, &mut text, &mut open, depth);
    }
    if open.is_empty() {
        step(rng, &mut text, &mut open, depth);
    }
    text
}

/// Brackets that are all closed.
fn balanced(rng: &mut Rng, depth: usize) -> String {
    let mut text = String::new();
    let mut open = Vec::new();
    for _ in 0..rng.within(4..=BRACKETS_MAX) {
        step(rng, &mut text, &mut open, depth);
    }
    text.extend(open.into_iter().rev());
    text
}

/// Opens a bracket or closes one; `open` holds what would close those that are open.
fn step(rng: &mut Rng, text: &mut String, open: &mut Vec<char>, depth: usize) {
    let closes = open.len() == depth || rng.percent(45);
    match open.pop() {
        Some(closing) if closes => text.push(closing),
        last => {
            let (opening, closing) = *rng.pick(&BRACKETS);
            open.extend(last);
            open.push(closing);
            text.push(opening);
        }
    }
}

fn closing(text: &str) -> String {
    let mut open = Vec::new();
    for c in text.chars() {
        match BRACKETS.iter().find(|(opening, _)| *opening == c) {
            Some((_, closing)) => open.push(*closing),
            None => {
                open.pop();
            }
        }
    }
    open.into_iter().rev().collect()
}

fn json_value(rng: &mut Rng, depth: usize) -> Value {
    match rng.below(if depth == 0 { 3 } else { 6 }) {
        0 => json!(words::thing(rng)),
        1 => json!(rng.within(0..=9999)),
        2 => json!(rng.percent(50)),
        3 => (0..rng.within(1..=4)).map(|_| json_value(rng, depth - 1)).collect(),
        _ => {
            let mut fields = Map::new();
            for _ in 0..rng.within(1..=4) {
                fields.insert(rng.word(&words::ATTRIBUTES).to_owned(), json_value(rng, depth - 1));
            }
            Value::Object(fields)
        }
    }
}

fn flat_fields(rng: &mut Rng) -> Map<String, Value> {
    let mut fields = Map::new();
    for _ in 0..rng.within(2..=4) {
        fields.insert(rng.word(&words::ATTRIBUTES).to_owned(), json_value(rng, 0));
    }
    fields
}

fn spoken(value: &Value) -> String {
    match value {
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(content: &str) -> Completion {
        Completion { content: content.to_owned(), ..Completion::default() }
    }

    #[test]
    fn what_closes_the_brackets_is_the_open_ones_backwards() {
        assert_eq!(closing("([]{<"), ">})");
        assert_eq!(closing("()"), "");
    }

    #[test]
    fn balanced_text_leaves_nothing_open_and_no_more_is_open_than_allowed() {
        let mut rng = Rng::new(6);
        for _ in 0..200 {
            let text = balanced(&mut rng, 5);
            assert_eq!(closing(&text), "");
            let mut depth = 0i32;
            for c in text.chars() {
                depth += if BRACKETS.iter().any(|(opening, _)| *opening == c) { 1 } else { -1 };
                assert!((0..=5).contains(&depth));
            }
            let open = unbalanced(&mut rng, 5);
            assert!((1..=6).contains(&closing(&open).len()), "{open}");
        }
    }

    #[test]
    fn json_is_judged_by_what_it_means() {
        let right = Answer::Json(json!({ "size": 3, "tag": "red box" }));
        assert_eq!(verify(&right, &said(r#" {"tag":"red box","size":3} "#)), Verdict::Right);
        assert_eq!(verify(&right, &said(r#"{"tag": "red box", "size": "3"}"#)), Verdict::Wrong);
        assert_eq!(verify(&right, &said(r#"{"tag": "red box", "size": 3"#)), Verdict::Wrong);
        assert_eq!(verify(&Answer::Text(")]".into()), &said(")]\n")), Verdict::Right);
        assert_eq!(verify(&Answer::Text(")]".into()), &said("])")), Verdict::Wrong);
    }
}
