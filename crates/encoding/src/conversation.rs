//! Conversations, and the prompt of one.

mod generation;
mod message;
mod render;
mod turns;

#[cfg(test)]
mod tests;

use serde_json::Value;
use thiserror::Error;

use crate::control::Control;
use crate::prompt::Prompt;
pub use generation::{Generation, Thinking, UnknownEffort, UnknownGeneration};
pub use message::{Arguments, Content, Message, Part, Role, Sampled, SampledText, Tool, ToolCall, json_kind};

/// Messages in the order they were said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Oldest first.
    pub messages: Vec<Message>,
}

/// How a conversation becomes a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptOptions {
    /// Which release of V4 the checkpoint belongs to.
    pub generation: Generation,
    /// Whether the model thinks first, and how hard.
    pub thinking: Thinking,
}

/// What is wrong with a conversation. Every index counts from 0.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConversationError {
    /// The messages are not a list.
    #[error("messages must be a list, not {got}")]
    NotAList {
        /// The kind of JSON value found.
        got: &'static str,
    },
    /// A message, a tool or a call is not an object.
    #[error("{place} must be an object, not {got}")]
    NotAnObject {
        /// Where in the conversation.
        place: Place,
        /// The kind of JSON value found.
        got: &'static str,
    },
    /// A field has the wrong kind of value.
    #[error("{place}: `{field}` must be {want}, not {got}")]
    Field {
        /// Where in the conversation.
        place: Place,
        /// The key.
        field: &'static str,
        /// What it must be.
        want: &'static str,
        /// The kind of JSON value found, or the text where a name was expected.
        got: String,
    },
    /// A developer message says nothing, which the format cannot express.
    #[error("message {message}: a developer message must not be empty")]
    EmptyDeveloper {
        /// Which message, counted after tool results and user messages were joined.
        message: usize,
    },
}

/// Where in a conversation something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A message.
    Message(usize),
    /// An entry of a message's `tools`.
    Tool {
        /// The message.
        message: usize,
        /// The entry.
        tool: usize,
    },
    /// An entry of a message's `tool_calls`.
    Call {
        /// The message.
        message: usize,
        /// The entry.
        call: usize,
    },
    /// An entry of a message's `content`.
    Part {
        /// The message.
        message: usize,
        /// The entry.
        part: usize,
    },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Message(message) => write!(f, "message {message}"),
            Self::Tool { message, tool } => write!(f, "message {message}, tool {tool}"),
            Self::Call { message, call } => write!(f, "message {message}, tool call {call}"),
            Self::Part { message, part } => write!(f, "message {message}, content part {part}"),
        }
    }
}

impl Conversation {
    /// Reads a list of messages as OpenAI's chat API writes it, with V4's own fields beside.
    ///
    /// # Errors
    /// The first thing that is not a message.
    pub fn from_json(messages: &Value) -> Result<Self, ConversationError> {
        let list =
            messages.as_array().ok_or_else(|| ConversationError::NotAList { got: json_kind(messages) })?;
        let messages = list
            .iter()
            .enumerate()
            .map(|(i, value)| Message::from_json(i, value))
            .collect::<Result<_, _>>()?;
        Ok(Self { messages })
    }
}

impl<'de> serde::Deserialize<'de> for Conversation {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(&value).map_err(serde::de::Error::custom)
    }
}

/// The prompt that asks the model for the next turn.
///
/// In order: tool results join the user turn they belong to and take the order of their calls; reasoning before the
/// last turn of a user is left out, and developer messages there with it, unless some message has tools; every message is written, and after the last turn of a user the header of
/// the assistant's.
///
/// Source: `encode_messages` in `encoding/encoding_dsv4.py` of the V4 release, byte for byte, with these
/// exceptions where that code raises: content in parts is joined by blank lines in every role, absent content of a
/// user is empty, and arguments that are no object are written like arguments that are no JSON.
///
/// # Errors
/// If a developer message that is written has no text.
pub fn encode_conversation(
    conversation: &Conversation,
    options: PromptOptions,
) -> Result<Prompt, ConversationError> {
    let mut turns = turns::joined(&conversation.messages);
    turns::sort_results_by_call(&mut turns);
    let thinks = options.thinking != Thinking::Off;
    let drops_reasoning = !conversation_has_tools(&turns);
    if thinks && drops_reasoning {
        turns::drop_old_developers(&mut turns);
    }
    let mut prompt = Prompt::new();
    prompt.push_control(Control::Bos);
    if !turns.is_empty() {
        prompt.push_text(options.generation.effort_text(options.thinking));
    }
    render::write_turns(&mut prompt, &turns, render::Mode { thinks, drops_reasoning })?;
    Ok(prompt)
}

fn conversation_has_tools(turns: &[turns::Turn<'_>]) -> bool {
    turns.iter().any(|turn| turn.message().is_some_and(|message| !message.tools.is_empty()))
}
