//! What a client asks for, in one form for all protocols.

use cuvier_encoding::{Conversation, Message, Prompt, Role, Tool};
use cuvier_types::SamplingParams;
use serde_json::Value;

use crate::ApiError;
use crate::thinking::Applied;

/// One answer that is wanted.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What is to be answered.
    pub subject: Subject,
    /// How tokens are drawn, the seed included.
    pub sampling: SamplingParams,
    /// The most tokens of the answer, reasoning included; `None`: what the context leaves.
    pub max_tokens: Option<usize>,
    /// Ends the content.
    pub stop: Vec<String>,
    /// Who asks, by key and not by what a request says of its user: prefixes are shared within one scope only.
    pub scope: u64,
}

/// What is to be answered.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A conversation.
    Chat(Box<Chat>),
    /// Text to be continued as it stands.
    Raw(Prompt),
}

/// A conversation to be answered.
#[derive(Clone, Debug)]
pub struct Chat {
    /// What was said; tools and schema stand on the leading system message.
    pub conversation: Conversation,
    /// Whether the model thinks.
    pub applied: Applied,
    /// The tools that may be called.
    pub tools: Vec<Tool>,
    /// Which of them.
    pub tool_choice: ToolChoice,
    /// Whether several calls may be made at once.
    pub parallel: bool,
    /// What the answer must look like.
    pub format: Format,
    /// What ids of calls begin with.
    pub call_prefix: &'static str,
}

/// Whether tools are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// What content must look like.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    /// Anything.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema.
        schema: Value,
        /// Whether a schema that cannot be enforced is refused.
        strict: bool,
    },
}

/// Longest name of a tool.
const TOOL_NAME_MAX: usize = 128;

impl Chat {
    /// Puts tools and schema onto the leading system message, adding an empty one where there is none, and checks
    /// what the parts demand of each other.
    ///
    /// # Errors
    /// If there is nothing to answer, or a tool's name is not one, stands twice, or is chosen but absent.
    pub fn finish(mut self) -> Result<Self, ApiError> {
        check_messages(&self.conversation.messages)?;
        check_tools(&self.tools, &self.tool_choice)?;
        let schema = match &self.format {
            Format::JsonSchema { schema, .. } => Some(schema.clone()),
            _ => None,
        };
        if self.tools.is_empty() && schema.is_none() {
            return Ok(self);
        }
        let messages = &mut self.conversation.messages;
        if messages.first().is_none_or(|message| message.role != Role::System) {
            messages.insert(0, Message::text(Role::System, ""));
        }
        messages[0].tools.clone_from(&self.tools);
        messages[0].response_format = schema;
        Ok(self)
    }
}

fn check_messages(messages: &[Message]) -> Result<(), ApiError> {
    match messages.last() {
        Some(last) if last.role == Role::Assistant && !last.wo_eos && last.task.is_none() => Err(
            ApiError::field("messages", "end with an answer; set `prefix: true` on it to have it continued"),
        ),
        Some(_) if messages.iter().any(|message| message.role != Role::System) => Ok(()),
        _ => Err(ApiError::field("messages", "has nothing to answer")),
    }
}

fn check_tools(tools: &[Tool], choice: &ToolChoice) -> Result<(), ApiError> {
    let mut names: Vec<&str> = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        let name = tool.function["name"].as_str().unwrap_or_default();
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > TOOL_NAME_MAX || !name.chars().all(is_word) {
            let what = format!("must be 1 to {TOOL_NAME_MAX} of letters, digits, `_`, `-`, `.`");
            return Err(ApiError::field(format!("tools[{index}].name"), what));
        }
        if names.contains(&name) {
            return Err(ApiError::field(format!("tools[{index}].name"), format!("stands twice: `{name}`")));
        }
        names.push(name);
    }
    match choice {
        ToolChoice::Named(name) if !names.contains(&name.as_str()) => {
            Err(ApiError::field("tool_choice", format!("names `{name}`, which is not among the tools")))
        }
        ToolChoice::Required if names.is_empty() => {
            Err(ApiError::field("tool_choice", "requires a call, but there are no tools"))
        }
        _ => Ok(()),
    }
}
