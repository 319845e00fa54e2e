//! Calls of tools: the right one with the right arguments, what to say about its result, and when to call nothing.

mod catalogue;

use cuvier_encoding::{Arguments, Completion, Conversation, Message, Role, ToolCall};
use serde::Deserialize;
use serde_json::Value;

use super::super::error::OptionError;
use super::super::rng::Rng;
use super::super::sample::{Answer, Call, Chat, Sample, Task, Think};
use super::super::split::Split;
use super::super::verdict::{Verdict, values};
use super::{answer_at_once, not_empty, within};
use catalogue::{CATALOGUE, Request};

/// Which turns are made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Of these one is drawn.
    pub forms: Vec<Form>,
    /// The most tools that are offered. 1 to 5.
    pub offered: usize,
    /// Of these one is drawn.
    pub think: Vec<Think>,
}

/// How a sample ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// With a call.
    Call,
    /// With an answer from a call's result. The call before it is trained as well.
    Result,
    /// With a refusal: no tool that is offered fits.
    None,
}

impl Default for Options {
    fn default() -> Self {
        Self { forms: vec![Form::Call, Form::Result, Form::None], offered: 3, think: answer_at_once() }
    }
}

impl Options {
    /// # Errors
    /// If an option is out of its bounds.
    pub fn check(&self) -> Result<(), OptionError> {
        not_empty("forms", &self.forms)?;
        not_empty("think", &self.think)?;
        within("offered", 1..=CATALOGUE.len() - 1, "1 to 5", self.offered)
    }
}

/// One request and what follows; nothing if the options leave none for this half.
#[must_use]
pub fn sample(rng: &mut Rng, options: &Options, split: Split) -> Option<Sample> {
    let draw = |rng: &mut Rng| {
        let tool = rng.index(CATALOGUE.len());
        (tool, (CATALOGUE[tool].request)(rng))
    };
    // What is called in training with some arguments is not called with these in the test.
    let subject = |(tool, request): &(usize, Request)| format!("{tool} {}", request.arguments);
    let (tool, request) = split.draw(rng, draw, subject)?;
    let form = *rng.pick(&options.forms);
    let think = *rng.pick(&options.think);
    let offered = offered(rng, options, tool, form);
    let mut messages = vec![
        Message { tools: offered, ..Message::text(Role::System, "") },
        Message::text(Role::User, request.text.as_str()),
    ];
    let answer = match form {
        Form::Call => {
            messages.push(call(think, tool, &request));
            let name = CATALOGUE[tool].name.to_owned();
            Answer::Calls(vec![Call { name, arguments: request.arguments }])
        }
        Form::Result => {
            messages.push(call(think, tool, &request));
            let id = Some(CALL_ID.to_owned());
            messages
                .push(Message { tool_call_id: id, ..Message::text(Role::Tool, request.result.to_string()) });
            messages.push(Chat::reply(think, "The result says it.".to_owned(), request.answer));
            Answer::Values { right: request.values, wrong: Vec::new() }
        }
        Form::None => {
            let thoughts = "None of the tools does this.".to_owned();
            messages.push(Chat::reply(think, thoughts, "I have no tool for that.".to_owned()));
            Answer::Calls(Vec::new())
        }
    };
    let chat = Chat { conversation: Conversation { messages }, think };
    Some(Sample::chat(Task::Tools, chat, answer))
}

/// Right if exactly these calls are made, whatever the order of their arguments; if nothing is called and something
/// said, where no tool fits; if the values of the result are said, where there is one.
#[must_use]
pub fn verify(right: &Answer, said: &Completion) -> Verdict {
    let is_right = match right {
        Answer::Calls(calls) if calls.is_empty() => {
            said.tool_calls.is_empty() && !said.content.trim().is_empty()
        }
        Answer::Calls(calls) => {
            calls.len() == said.tool_calls.len()
                && calls.iter().zip(&said.tool_calls).all(|(want, got)| {
                    let arguments: Option<Value> = serde_json::from_str(&got.arguments).ok();
                    want.name == got.name && arguments.is_some_and(|got| same(&want.arguments, &got))
                })
        }
        Answer::Values { right, wrong } if said.tool_calls.is_empty() => return values(right, wrong, said),
        _ => false,
    };
    if is_right { Verdict::Right } else { Verdict::Wrong }
}

const CALL_ID: &str = "call_1";

/// The tools that may be called, the wanted one among them unless none shall fit, in random order.
fn offered(rng: &mut Rng, options: &Options, wanted: usize, form: Form) -> Vec<cuvier_encoding::Tool> {
    let mut others: Vec<usize> = (0..CATALOGUE.len()).filter(|&tool| tool != wanted).collect();
    rng.shuffle(&mut others);
    others.truncate(rng.within(1..=options.offered as u64) as usize);
    if form != Form::None {
        others[0] = wanted;
    }
    rng.shuffle(&mut others);
    others.into_iter().map(|tool| CATALOGUE[tool].tool()).collect()
}

fn call(think: Think, tool: usize, request: &Request) -> Message {
    let name = CATALOGUE[tool].name;
    let arguments = Arguments::Value(request.arguments.clone());
    let tool_calls = vec![ToolCall { id: Some(CALL_ID.to_owned()), name: name.to_owned(), arguments }];
    let thoughts = format!("{name} does this.");
    Message { tool_calls, ..Chat::reply(think, thoughts, String::new()) }
}

/// Whether two JSON values mean the same: numbers by value, not by spelling.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.as_f64().is_some() && a.as_f64() == b.as_f64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
