//! A whole answer.

use cuvier_types::FinishReason;

use super::{ChatEvent, ChatParser, Ending, ParserOptions};

/// What an answer said, thought and called: the sum of its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// What the model thought.
    pub reasoning: String,
    /// What the model said.
    pub content: String,
    /// The calls that may be made.
    pub tool_calls: Vec<ParsedCall>,
    /// Why the answer ended; nothing until it has.
    pub ending: Option<Ending>,
}

/// A call that the model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedCall {
    /// Its number among the calls that were begun.
    pub index: usize,
    /// The function's name; it may not exist.
    pub name: String,
    /// A JSON object, once the call has ended.
    pub arguments: String,
}

impl Completion {
    /// Adds one event.
    pub fn add(&mut self, event: &ChatEvent) {
        match event {
            ChatEvent::Reasoning(text) => self.reasoning.push_str(text),
            ChatEvent::Content(text) => self.content.push_str(text),
            ChatEvent::ToolCallStart { index, name } => {
                self.tool_calls.push(ParsedCall {
                    index: *index,
                    name: name.clone(),
                    arguments: String::new(),
                });
            }
            ChatEvent::ToolCallArguments { index, fragment } => {
                if let Some(call) = self.tool_calls.iter_mut().rfind(|call| call.index == *index) {
                    call.arguments.push_str(fragment);
                }
            }
            ChatEvent::ToolCallEnd { .. } => {}
            ChatEvent::ToolCallDropped { index } => self.tool_calls.retain(|call| call.index != *index),
            ChatEvent::Finished { ending } => self.ending = Some(*ending),
        }
    }
}

/// Reads a whole answer: the streaming parser, given one piece.
#[must_use]
pub fn parse_completion(text: &str, options: ParserOptions, reason: FinishReason) -> Completion {
    let mut parser = ChatParser::new(options);
    let mut completion = Completion::default();
    for event in parser.push(text).iter().chain(&parser.finish(reason)) {
        completion.add(event);
    }
    completion
}
