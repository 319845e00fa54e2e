//! Messages and tools as Anthropic writes them.

use cuvier_encoding::{Arguments, Content, Conversation, Message, Part, Role, Tool, ToolCall};
use serde_json::{Map, Value, json};

use crate::ApiError;
use crate::ask::ToolChoice;
use crate::lowering::Lowering;
use crate::wire::{Fields, json_kind};

/// `system` and `messages` as a conversation.
///
/// # Errors
/// At the first message or block that is not one.
pub(super) fn read_conversation(fields: &Fields<'_>) -> Result<Conversation, ApiError> {
    let mut lowering = Lowering::default();
    for text in read_texts(fields, "system")? {
        lowering.instruct(&text);
    }
    let messages = fields.objects("messages")?;
    if messages.is_empty() {
        return Err(fields.refuse("messages", "is missing or empty"));
    }
    let last = messages.len() - 1;
    for (index, message) in messages.iter().enumerate() {
        match message.need_string("role")? {
            "user" => read_user(message, &mut lowering)?,
            "assistant" => {
                let mut assistant = read_assistant(message)?;
                // A last message of the assistant is to be continued.
                assistant.wo_eos = index == last;
                lowering.message(assistant);
            }
            "system" => read_texts(message, "content")?.iter().for_each(|text| lowering.instruct(text)),
            other => {
                return Err(message.refuse("role", format!("must be user or assistant, not `{other}`")));
            }
        }
    }
    Ok(lowering.finish())
}

/// The texts of a field that is a string or a list of blocks.
fn read_texts(fields: &Fields<'_>, key: &str) -> Result<Vec<String>, ApiError> {
    match fields.get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(_) => {
            let blocks = fields.objects(key)?;
            let text = |block: &Fields<'_>| Ok(block.string("text")?.unwrap_or_default().to_owned());
            blocks.iter().map(text).collect()
        }
    }
}

fn read_user(message: &Fields<'_>, lowering: &mut Lowering) -> Result<(), ApiError> {
    let mut parts: Vec<Part> = Vec::new();
    let flush = |parts: &mut Vec<Part>, lowering: &mut Lowering| {
        if !parts.is_empty() {
            let mut user = Message::text(Role::User, "");
            user.content = Content::Parts(std::mem::take(parts));
            lowering.user(user);
        }
    };
    if let Some(Value::String(text)) = message.get("content") {
        lowering.user(Message::text(Role::User, text.as_str()));
        return Ok(());
    }
    for block in message.objects("content")? {
        match block.need_string("type")? {
            "text" => parts.push(Part::Text(block.need_string("text")?.to_owned())),
            "tool_result" => {
                flush(&mut parts, lowering);
                lowering.result(block.string("tool_use_id")?, read_result(&block)?);
            }
            kind => parts.extend(placeholder(kind)),
        }
    }
    flush(&mut parts, lowering);
    Ok(())
}

/// What a tool gave; an error says that it is one.
fn read_result(block: &Fields<'_>) -> Result<Content, ApiError> {
    let mut parts = match block.get("content") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![Part::Text(text.clone())],
        Some(Value::Array(_)) => {
            let mut parts = Vec::new();
            for part in block.objects("content")? {
                match part.need_string("type")? {
                    "text" => parts.push(Part::Text(part.need_string("text")?.to_owned())),
                    kind => parts.push(Part::Unsupported { kind: kind.to_owned() }),
                }
            }
            parts
        }
        Some(other) => {
            return Err(
                block.refuse("content", format!("must be a string or a list, not {}", json_kind(other)))
            );
        }
    };
    if block.boolean("is_error")?.unwrap_or(false) {
        match parts.first_mut() {
            Some(Part::Text(text)) => text.insert_str(0, "Error: "),
            _ => parts.insert(0, Part::Text("Error:".to_owned())),
        }
    }
    Ok(match parts.as_mut_slice() {
        [Part::Text(text)] => Content::Text(std::mem::take(text)),
        _ => Content::Parts(parts),
    })
}

/// What is put where something stands that the model does not see; nothing, where it is the service's own business.
fn placeholder(kind: &str) -> Option<Part> {
    let is_internal = kind.starts_with("server_tool")
        || kind.starts_with("mcp_")
        || kind.ends_with("_tool_result")
        || matches!(kind, "redacted_thinking" | "container_upload" | "thinking");
    (!is_internal).then(|| Part::Unsupported { kind: kind.to_owned() })
}

fn read_assistant(message: &Fields<'_>) -> Result<Message, ApiError> {
    let mut assistant = Message::text(Role::Assistant, "");
    if let Some(Value::String(text)) = message.get("content") {
        assistant.content = Content::Text(text.clone());
        return Ok(assistant);
    }
    let (mut texts, mut thoughts) = (Vec::new(), String::new());
    for block in message.objects("content")? {
        match block.need_string("type")? {
            "text" => texts.push(block.need_string("text")?.to_owned()),
            "thinking" => thoughts.push_str(block.string("thinking")?.unwrap_or_default()),
            "tool_use" => assistant.tool_calls.push(ToolCall {
                id: block.string("id")?.map(str::to_owned),
                name: block.need_string("name")?.to_owned(),
                arguments: Arguments::Value(block.get("input").cloned().unwrap_or_else(|| json!({}))),
            }),
            _ => {}
        }
    }
    assistant.content = Content::Text(texts.join("\n\n"));
    assistant.reasoning_content = Some(thoughts);
    Ok(assistant)
}

/// `tools`. Those without a schema are run by Anthropic's own servers, and passed over.
///
/// # Errors
/// If one has no name.
pub(super) fn read_tools(fields: &Fields<'_>) -> Result<Vec<Tool>, ApiError> {
    let mut tools = Vec::new();
    for tool in fields.objects("tools")? {
        let Some(schema) = tool.get("input_schema") else { continue };
        let mut function = Map::new();
        function.insert("name".to_owned(), json!(tool.need_string("name")?));
        if let Some(description) = tool.string("description")? {
            function.insert("description".to_owned(), json!(description));
        }
        function.insert("parameters".to_owned(), schema.clone());
        if let Some(strict) = tool.boolean("strict")? {
            function.insert("strict".to_owned(), json!(strict));
        }
        tools.push(Tool { function: Value::Object(function) });
    }
    Ok(tools)
}

/// `tool_choice`, and whether several calls may be made at once.
///
/// # Errors
/// If it is no choice.
pub(super) fn read_tool_choice(fields: &Fields<'_>) -> Result<(ToolChoice, bool), ApiError> {
    let Some(choice) = fields.object("tool_choice")? else { return Ok((ToolChoice::Auto, true)) };
    let parallel = !choice.boolean("disable_parallel_tool_use")?.unwrap_or(false);
    let wanted = match choice.need_string("type")? {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.need_string("name")?.to_owned()),
        other => return Err(choice.refuse("type", format!("is unknown: `{other}`"))),
    };
    Ok((wanted, parallel))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn read(request: &Value) -> Conversation {
        read_conversation(&Fields::of(request, "").unwrap()).unwrap()
    }

    #[test]
    fn a_result_and_the_text_after_it_keep_their_order_and_an_error_says_so() {
        let conversation = read(&json!({
            "system": [{"type": "text", "text": "x-anthropic-billing-header: cch=1"}, {"type": "text", "text": "S"}],
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "r", "signature": "s"},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": "broken", "is_error": true},
                    {"type": "text", "text": "go on"},
                ]},
            ],
        }));
        let roles: Vec<Role> = conversation.messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool, Role::User]);
        assert_eq!(conversation.messages[0].content, Content::Text("S".to_owned()));
        assert_eq!(conversation.messages[2].reasoning_content.as_deref(), Some("r"));
        assert_eq!(conversation.messages[3].content, Content::Text("Error: broken".to_owned()));
    }

    #[test]
    fn a_last_message_of_the_assistant_is_continued() {
        let conversation = read(&json!({"messages": [
            {"role": "user", "content": "q"}, {"role": "assistant", "content": "Ans: "},
        ]}));
        assert!(conversation.messages[1].wo_eos);
    }

    #[test]
    fn what_the_model_does_not_see_is_marked_and_the_services_own_blocks_are_not() {
        let conversation = read(&json!({"messages": [{"role": "user", "content": [
            {"type": "image", "source": {}}, {"type": "web_search_tool_result"}, {"type": "text", "text": "t"},
        ]}]}));
        let parts = vec![Part::Unsupported { kind: "image".to_owned() }, Part::Text("t".to_owned())];
        assert_eq!(conversation.messages[0].content, Content::Parts(parts));
    }
}
