//! Messages, as they come from JSON.

use std::borrow::Cow;

use cuvier_types::TokenId;
use serde_json::{Map, Value};

use super::{ConversationError, Place};
use crate::control::Task;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Content,
    /// What the assistant thought before it spoke.
    pub reasoning_content: Option<String>,
    /// What the assistant called.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool answers.
    pub tool_call_id: Option<String>,
    /// The tools that may be called, on a system or developer message.
    pub tools: Vec<Tool>,
    /// The schema that answers must follow, on a system or developer message.
    pub response_format: Option<Value>,
    /// Asks for one of the short internal tasks.
    pub task: Option<Task>,
    /// Leaves an assistant's turn open, to be continued.
    pub wo_eos: bool,
    /// The tokens of an assistant's turn as they were drawn. They stand in the prompt in place of the texts, so that
    /// it begins with what the model has computed: a text has several spellings in tokens, and clients change the
    /// white space of arguments.
    pub sampled: Option<Sampled>,
}

/// An assistant's turn as it was drawn, without the tokens that close its reasoning and itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Up to the end of the reasoning.
    pub reasoning: SampledText,
    /// All that follows it: content and calls.
    pub answer: SampledText,
}

impl Sampled {
    /// Tokens of both parts.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.reasoning.tokens.len() + self.answer.tokens.len()
    }
}

/// Tokens, and the text they spell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampledText {
    /// What the model reads.
    pub tokens: Vec<TokenId>,
    /// What a person reads.
    pub text: String,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Whoever set the model up.
    System,
    /// The same, in the place of a user.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
    /// Facts of the moment, such as the date.
    LatestReminder,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// One text.
    Text(String),
    /// Several parts; blank lines stand between them in the prompt.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Text(String),
    /// Something this model does not see; its place is marked.
    Unsupported {
        /// The part's `type`.
        kind: String,
    },
}

/// A tool that may be called: the `function` object as the client sent it, keys in the client's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Name, description, parameters and whatever else the client put there.
    pub function: Value,
}

/// A call that the assistant made.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// What a result refers to.
    pub id: Option<String>,
    /// The function's name.
    pub name: String,
    /// What it was called with.
    pub arguments: Arguments,
}

/// The arguments of a call, in either of the two ways clients send them.
#[derive(Clone, Debug, PartialEq)]
pub enum Arguments {
    /// JSON in a string, as the APIs have it; or text that the model failed to make JSON.
    Text(String),
    /// JSON itself.
    Value(Value),
}

impl Message {
    /// A message that only speaks.
    #[must_use]
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: Content::Text(text.into()),
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            tools: Vec::new(),
            response_format: None,
            task: None,
            wo_eos: false,
            sampled: None,
        }
    }

    pub(super) fn from_json(index: usize, value: &Value) -> Result<Self, ConversationError> {
        let place = Place::Message(index);
        let fields = object(place, value)?;
        let role = string(place, fields, "role")?.unwrap_or_default();
        let role = Role::from_name(&role).ok_or_else(|| {
            field(place, "role", "system, developer, user, assistant, tool or latest_reminder", role)
        })?;
        let task = string(place, fields, "task")?
            .map(|name| {
                Task::from_name(&name).ok_or_else(|| field(place, "task", "the name of a task", name))
            })
            .transpose()?;
        let tools = list(place, fields, "tools")?
            .iter()
            .enumerate()
            .map(|(tool, value)| Tool::from_json(Place::Tool { message: index, tool }, value))
            .collect::<Result<_, _>>()?;
        let tool_calls = list(place, fields, "tool_calls")?
            .iter()
            .enumerate()
            .map(|(call, value)| ToolCall::from_json(Place::Call { message: index, call }, value))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            role,
            content: Content::from_json(index, fields.get("content"))?,
            reasoning_content: string(place, fields, "reasoning_content")?,
            tool_calls,
            tool_call_id: string(place, fields, "tool_call_id")?,
            tools,
            response_format: fields
                .get("response_format")
                .filter(|&format| is_true_in_python(format))
                .cloned(),
            task,
            wo_eos: fields.get("wo_eos").is_some_and(is_true_in_python),
            sampled: None,
        })
    }
}

impl<'de> serde::Deserialize<'de> for Message {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_json(0, &value).map_err(serde::de::Error::custom)
    }
}

impl Role {
    /// The name in a message's `role` field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::LatestReminder => "latest_reminder",
        }
    }

    /// The role of that name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::System, Self::Developer, Self::User, Self::Assistant, Self::Tool, Self::LatestReminder]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

impl Content {
    /// The content as the prompt has it: parts with blank lines between them, and marks for what the model does not see.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Parts(parts) => {
                let texts = parts.iter().map(|part| match part {
                    Part::Text(text) => Cow::Borrowed(text.as_str()),
                    Part::Unsupported { kind } => Cow::Owned(format!("[Unsupported {kind}]")),
                });
                Cow::Owned(texts.collect::<Vec<_>>().join("\n\n"))
            }
        }
    }

    fn from_json(message: usize, value: Option<&Value>) -> Result<Self, ConversationError> {
        match value {
            None | Some(Value::Null) => Ok(Self::Text(String::new())),
            Some(Value::String(text)) => Ok(Self::Text(text.clone())),
            Some(Value::Array(parts)) => {
                let part = |(part, value)| Part::from_json(Place::Part { message, part }, value);
                parts.iter().enumerate().map(part).collect::<Result<_, _>>().map(Self::Parts)
            }
            Some(other) => {
                Err(field(Place::Message(message), "content", "a text or a list of parts", json_kind(other)))
            }
        }
    }
}

impl Part {
    fn from_json(place: Place, value: &Value) -> Result<Self, ConversationError> {
        if let Value::String(text) = value {
            return Ok(Self::Text(text.clone()));
        }
        let fields = object(place, value)?;
        match string(place, fields, "type")?.as_deref() {
            Some("text") => Ok(Self::Text(string(place, fields, "text")?.unwrap_or_default())),
            kind => Ok(Self::Unsupported { kind: kind.unwrap_or("None").to_owned() }),
        }
    }
}

impl Tool {
    fn from_json(place: Place, value: &Value) -> Result<Self, ConversationError> {
        let function = object(place, value)?.get("function").unwrap_or(&Value::Null);
        if !function.is_object() {
            return Err(field(place, "function", "an object", json_kind(function)));
        }
        Ok(Self { function: function.clone() })
    }
}

impl ToolCall {
    fn from_json(place: Place, value: &Value) -> Result<Self, ConversationError> {
        let fields = object(place, value)?;
        let function = fields.get("function").unwrap_or(&Value::Null);
        let Some(function) = function.as_object() else {
            return Err(field(place, "function", "an object", json_kind(function)));
        };
        let Some(name) = string(place, function, "name")? else {
            return Err(field(place, "name", "a string", "absent"));
        };
        let id = match string(place, fields, "id")?.filter(|id| !id.is_empty()) {
            Some(id) => Some(id),
            None => string(place, function, "id")?.filter(|id| !id.is_empty()),
        };
        let arguments = match function.get("arguments") {
            None | Some(Value::Null) => Arguments::Value(Value::Object(Map::new())),
            Some(Value::String(text)) => Arguments::Text(text.clone()),
            Some(value) => Arguments::Value(value.clone()),
        };
        Ok(Self { id, name, arguments })
    }
}

fn object(place: Place, value: &Value) -> Result<&Map<String, Value>, ConversationError> {
    value.as_object().ok_or_else(|| ConversationError::NotAnObject { place, got: json_kind(value) })
}

fn string(
    place: Place,
    fields: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<String>, ConversationError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(field(place, name, "a string", json_kind(other))),
    }
}

fn list<'a>(
    place: Place,
    fields: &'a Map<String, Value>,
    name: &'static str,
) -> Result<&'a [Value], ConversationError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(field(place, name, "a list", json_kind(other))),
    }
}

fn field(place: Place, field: &'static str, want: &'static str, got: impl Into<String>) -> ConversationError {
    ConversationError::Field { place, field, want, got: got.into() }
}

/// The official encoder asks `if response_format:` and `if wo_eos:`.
fn is_true_in_python(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// What kind of JSON value this is, for messages.
#[must_use]
pub fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
