//! `input`: items of many kinds, to a conversation.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cuvier_encoding::{Arguments, Content, Conversation, Message, Role, ToolCall};
use serde_json::{Value, json};

use super::tools::full_name;
use crate::ApiError;
use crate::lowering::Lowering;
use crate::openai::read_content;
use crate::wire::{Fields, json_kind};

/// `instructions` and `input` as a conversation; `None` where the input is an empty list, which asks for nothing.
///
/// # Errors
/// At the first item that is not one.
pub(super) fn read_input(fields: &Fields<'_>) -> Result<Option<Conversation>, ApiError> {
    let mut input = Input::default();
    if let Some(instructions) = fields.string("instructions")? {
        input.lowering.instruct(instructions);
    }
    match fields.get("input") {
        None => return Err(fields.refuse("input", "is missing")),
        Some(Value::String(text)) => input.lowering.user(Message::text(Role::User, text.as_str())),
        Some(Value::Array(items)) if items.is_empty() => return Ok(None),
        Some(Value::Array(_)) => {
            for item in fields.objects("input")? {
                input.item(&item)?;
            }
        }
        Some(other) => {
            return Err(
                fields.refuse("input", format!("must be a string or a list, not {}", json_kind(other)))
            );
        }
    }
    input.flush();
    Ok(Some(input.lowering.finish()))
}

#[derive(Default)]
struct Input {
    lowering: Lowering,
    /// The turn of the assistant that its items make, one by one.
    assistant: Option<Message>,
    /// Calls without a result so far, in order.
    unanswered: Vec<String>,
    answered: HashSet<String>,
}

impl Input {
    fn item(&mut self, item: &Fields<'_>) -> Result<(), ApiError> {
        let is_message = item.get("role").is_some();
        match item.string("type")?.unwrap_or(if is_message { "message" } else { "" }) {
            "message" => self.message(item),
            "reasoning" => {
                let text = reasoning(item)?;
                let assistant = self.assistant();
                assistant.reasoning_content.get_or_insert_default().push_str(&text);
                Ok(())
            }
            "function_call" => {
                let namespace = item.string("namespace")?;
                let name = full_name(namespace, item.need_string("name")?);
                let arguments = item.string("arguments")?.unwrap_or("{}").to_owned();
                self.call(item, name, Arguments::Text(arguments))
            }
            "custom_tool_call" => {
                let arguments = json!({"input": item.string("input")?.unwrap_or_default()});
                self.call(item, item.need_string("name")?.to_owned(), Arguments::Value(arguments))
            }
            "local_shell_call" => {
                let action = item.get("action").cloned().unwrap_or(Value::Null);
                self.call(item, "local_shell".to_owned(), Arguments::Value(json!({"action": action})))
            }
            "function_call_output" | "custom_tool_call_output" | "local_shell_call_output" => {
                self.output(item)
            }
            "item_reference" => {
                Err(item.refuse("type", "refers to what is not stored here; send the item itself"))
            }
            _ => Ok(()),
        }
    }

    fn message(&mut self, item: &Fields<'_>) -> Result<(), ApiError> {
        let content = read_content(item)?;
        match item.need_string("role")? {
            "assistant" => {
                if self.assistant.as_ref().is_some_and(|assistant| !assistant.tool_calls.is_empty()) {
                    self.flush();
                }
                let text = content.text();
                let assistant = self.assistant();
                let before = assistant.content.text();
                let joined =
                    if before.is_empty() { text.into_owned() } else { format!("{before}\n\n{text}") };
                assistant.content = Content::Text(joined);
            }
            "system" | "developer" => {
                self.flush();
                self.lowering.instruct(&content.text());
            }
            "user" => {
                self.flush();
                let mut user = Message::text(Role::User, "");
                user.content = content;
                self.lowering.user(user);
            }
            other => return Err(item.refuse("role", format!("is unknown: `{other}`"))),
        }
        Ok(())
    }

    fn call(&mut self, item: &Fields<'_>, name: String, arguments: Arguments) -> Result<(), ApiError> {
        let id = item.need_string("call_id")?.to_owned();
        if self.assistant.is_none() && !self.unanswered.is_empty() {
            self.abort_unanswered();
        }
        self.unanswered.push(id.clone());
        self.assistant().tool_calls.push(ToolCall { id: Some(id), name, arguments });
        Ok(())
    }

    fn output(&mut self, item: &Fields<'_>) -> Result<(), ApiError> {
        let id = item.need_string("call_id")?;
        let output = match item.get("output") {
            None => Content::Text(String::new()),
            Some(Value::String(text)) => Content::Text(text.clone()),
            Some(value) => {
                let wrapped = json!({"content": value});
                read_content(&Fields::of(&wrapped, "")?)
                    .map_err(|_| item.refuse("output", "must be text or parts"))?
            }
        };
        self.write_assistant();
        self.unanswered.retain(|call| call != id);
        self.answered.insert(id.to_owned());
        self.lowering.result(Some(id), output);
        Ok(())
    }

    fn assistant(&mut self) -> &mut Message {
        self.assistant.get_or_insert_with(|| Message::text(Role::Assistant, ""))
    }

    fn write_assistant(&mut self) {
        if let Some(assistant) = self.assistant.take() {
            self.lowering.message(assistant);
        }
    }

    /// Ends the assistant's turn. A call that was interrupted never gets a result from its client.
    fn flush(&mut self) {
        self.write_assistant();
        self.abort_unanswered();
    }

    fn abort_unanswered(&mut self) {
        for id in std::mem::take(&mut self.unanswered) {
            if !self.answered.contains(&id) {
                self.lowering.result(Some(&id), Content::Text("aborted".to_owned()));
            }
        }
    }
}

/// The text of a reasoning item: as it is, or as it was handed out for clients that store nothing else.
fn reasoning(item: &Fields<'_>) -> Result<String, ApiError> {
    let mut text = String::new();
    for part in item.objects("content")? {
        text.push_str(part.string("text")?.unwrap_or_default());
    }
    if text.is_empty()
        && let Some(encoded) = item.string("encrypted_content")?
        && let Some(decoded) = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok())
    {
        text = decoded;
    }
    if text.is_empty() {
        for part in item.objects("summary")? {
            text.push_str(part.string("text")?.unwrap_or_default());
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn read(request: &Value) -> Vec<Message> {
        read_input(&Fields::of(request, "").unwrap()).unwrap().unwrap().messages
    }

    #[test]
    fn reasoning_text_and_calls_between_messages_are_one_turn() {
        let messages = read(&json!({"input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "r"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "out"}]},
        ]}));
        let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool]);
        assert_eq!(messages[1].reasoning_content.as_deref(), Some("r"));
        assert_eq!(messages[1].tool_calls[0].id.as_deref(), Some("c"));
        assert_eq!(messages[2].content.text(), "out");
    }

    #[test]
    fn a_call_without_a_result_was_aborted() {
        let messages = read(&json!({"input": [
            {"role": "user", "content": "q"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"role": "user", "content": "stop"},
        ]}));
        assert_eq!(messages[2].content.text(), "aborted");
        assert_eq!(messages[2].tool_call_id.as_deref(), Some("c"));
    }

    #[test]
    fn reasoning_comes_back_from_what_was_handed_out_encoded() {
        let messages = read(&json!({"input": [
            {"role": "user", "content": "q"},
            {"type": "reasoning", "summary": [], "encrypted_content": STANDARD.encode("deep")},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "r"},
        ]}));
        assert_eq!(messages[1].reasoning_content.as_deref(), Some("deep"));
    }

    #[test]
    fn an_empty_list_asks_for_nothing() {
        let request = json!({"input": []});
        assert!(read_input(&Fields::of(&request, "").unwrap()).unwrap().is_none());
    }
}
