//! Messages and tools as chat writes them.

use cuvier_encoding::{Arguments, Content, Conversation, Message, Part, Role, Task, Tool, ToolCall};
use serde_json::{Value, json};

use crate::ApiError;
use crate::ask::{Format, ToolChoice};
use crate::lowering::Lowering;
use crate::wire::{Fields, json_kind};

/// `messages` as a conversation.
///
/// # Errors
/// At the first message that is not one.
pub(super) fn read_messages(fields: &Fields<'_>) -> Result<Conversation, ApiError> {
    let messages = fields.objects("messages")?;
    if messages.is_empty() {
        return Err(fields.refuse("messages", "is missing or empty"));
    }
    let mut lowering = Lowering::default();
    let last = messages.len() - 1;
    for (index, message) in messages.iter().enumerate() {
        match message.need_string("role")? {
            "system" | "developer" => lowering.instruct(&read_content(message)?.text()),
            "user" => {
                let mut user = Message::text(Role::User, "");
                user.content = read_content(message)?;
                user.task = read_task(message)?;
                lowering.user(user);
            }
            "assistant" => lowering.message(read_assistant(message, index == last)?),
            "tool" | "function" => {
                lowering.result(message.string("tool_call_id")?, read_content(message)?);
            }
            "latest_reminder" => {
                let mut reminder = Message::text(Role::LatestReminder, "");
                reminder.content = read_content(message)?;
                lowering.message(reminder);
            }
            other => {
                let what = format!("must be system, user, assistant or tool, not `{other}`");
                return Err(message.refuse("role", what));
            }
        }
    }
    Ok(lowering.finish())
}

fn read_task(message: &Fields<'_>) -> Result<Option<Task>, ApiError> {
    let Some(name) = message.string("task")? else { return Ok(None) };
    Task::from_name(name).map(Some).ok_or_else(|| message.refuse("task", format!("is unknown: `{name}`")))
}

fn read_assistant(message: &Fields<'_>, is_last: bool) -> Result<Message, ApiError> {
    let mut read = Message::text(Role::Assistant, "");
    read.content = read_content(message)?;
    let reasoning = message.string("reasoning_content")?;
    read.reasoning_content = match reasoning {
        Some(text) => Some(text.to_owned()),
        None => message.get("reasoning").and_then(Value::as_str).map(str::to_owned),
    };
    for call in message.objects("tool_calls")? {
        let function = call.object("function")?.ok_or_else(|| call.refuse("function", "is missing"))?;
        read.tool_calls.push(read_call(call.string("id")?, &function)?);
    }
    if let Some(function) = message.object("function_call")? {
        read.tool_calls.push(read_call(None, &function)?);
    }
    read.task = read_task(message)?;
    read.wo_eos = is_last && message.boolean("prefix")?.unwrap_or(false);
    Ok(read)
}

fn read_call(id: Option<&str>, function: &Fields<'_>) -> Result<ToolCall, ApiError> {
    let arguments = match function.get("arguments") {
        None => Arguments::Text("{}".to_owned()),
        Some(Value::String(text)) => Arguments::Text(text.clone()),
        Some(value) => Arguments::Value(value.clone()),
    };
    let name = function.need_string("name")?.to_owned();
    Ok(ToolCall { id: id.map(str::to_owned), name, arguments })
}

/// Text, or parts; what the model does not see is marked in its place.
///
/// # Errors
/// If it is neither.
pub(crate) fn read_content(message: &Fields<'_>) -> Result<Content, ApiError> {
    match message.get("content") {
        None => Ok(Content::Text(String::new())),
        Some(Value::String(text)) => Ok(Content::Text(text.clone())),
        Some(Value::Array(parts)) => {
            let path = message.path("content");
            let part = |(index, part): (usize, &Value)| read_part(part, &format!("{path}[{index}]"));
            parts.iter().enumerate().map(part).collect::<Result<_, _>>().map(Content::Parts)
        }
        Some(other) => {
            Err(message.refuse("content", format!("must be a string or a list, not {}", json_kind(other))))
        }
    }
}

fn read_part(part: &Value, path: &str) -> Result<Part, ApiError> {
    if let Value::String(text) = part {
        return Ok(Part::Text(text.clone()));
    }
    let fields = Fields::of(part, path)?;
    match fields.need_string("type")? {
        "text" | "input_text" | "output_text" => Ok(Part::Text(fields.need_string("text")?.to_owned())),
        "refusal" => Ok(Part::Text(fields.need_string("refusal")?.to_owned())),
        other => Ok(Part::Unsupported { kind: other.to_owned() }),
    }
}

/// `tools`, and `functions` as they once were. Tools that only a maker's own servers run are passed over.
///
/// # Errors
/// If a function is not an object.
pub(super) fn read_tools(fields: &Fields<'_>) -> Result<Vec<Tool>, ApiError> {
    let mut tools = Vec::new();
    for tool in fields.objects("tools")? {
        let is_function = tool.string("type")?.is_none_or(|kind| kind == "function");
        if !is_function {
            continue;
        }
        let function = tool.get("function").ok_or_else(|| tool.refuse("function", "is missing"))?;
        Fields::of(function, tool.path("function"))?.need_string("name")?;
        tools.push(tool_of(function));
    }
    for function in fields.list("functions")?.unwrap_or_default() {
        tools.push(tool_of(function));
    }
    Ok(tools)
}

/// The function as it was sent, but for a `strict` of nothing.
fn tool_of(function: &Value) -> Tool {
    let mut function = function.clone();
    if let Some(map) = function.as_object_mut()
        && map.get("strict").is_some_and(Value::is_null)
    {
        map.shift_remove("strict");
    }
    Tool { function }
}

/// `tool_choice`, and `function_call` as it once was.
///
/// # Errors
/// If it is no choice.
pub(super) fn read_tool_choice(fields: &Fields<'_>) -> Result<ToolChoice, ApiError> {
    let Some((key, value)) = fields.first(&["tool_choice", "function_call"]) else {
        return Ok(ToolChoice::Auto);
    };
    match value {
        Value::String(choice) => match choice.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" | "any" => Ok(ToolChoice::Required),
            other => {
                Err(fields.refuse(key, format!("must be auto, none, required or a function, not `{other}`")))
            }
        },
        Value::Object(map) => {
            let name = map.get("function").unwrap_or(value).get("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| fields.refuse(key, "names no function"))?;
            Ok(ToolChoice::Named(name.to_owned()))
        }
        other => Err(fields.refuse(key, format!("must be a string or an object, not {}", json_kind(other)))),
    }
}

/// `response_format`.
///
/// # Errors
/// If its type is unknown, or a schema is missing.
pub(super) fn read_format(fields: &Fields<'_>) -> Result<Format, ApiError> {
    let Some(format) = fields.object("response_format")? else { return Ok(Format::Text) };
    match format.need_string("type")? {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::JsonObject),
        "json_schema" => {
            let inner =
                format.object("json_schema")?.ok_or_else(|| format.refuse("json_schema", "is missing"))?;
            let schema = inner.get("schema").cloned().unwrap_or_else(|| json!({"type": "object"}));
            Ok(Format::JsonSchema { schema, strict: inner.boolean("strict")?.unwrap_or(false) })
        }
        other => Err(format.refuse("type", format!("is unknown: `{other}`"))),
    }
}
