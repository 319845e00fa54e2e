//! Samples in files: one JSON object a line.
//!
//! `{"task": "...", "text": "..."}`, or `{"task": "...", "messages": [...], "tools": [...], "think": "low",
//! "answer": {...}}` with messages and tools as OpenAI's chat API writes them. Tools may be left out, `think` then is
//! `off`, and without an `answer` nothing verifies the sample.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use cuvier_encoding::{Arguments, Content, Conversation, Message, Part, Role, Tool, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::document::{Document, Encoder};
use super::error::{DataError, SampleError};
use super::sample::{Answer, Body, Chat, Sample, Task, Think};

/// Samples of a file, in order.
pub struct SampleFile {
    file: PathBuf,
    lines: std::io::Lines<BufReader<File>>,
    line: usize,
}

impl SampleFile {
    /// Opens a file of samples.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(file: &Path) -> Result<Self, DataError> {
        let opened = File::open(file).map_err(|source| DataError::Io { path: file.to_owned(), source })?;
        Ok(Self { file: file.to_owned(), lines: BufReader::new(opened).lines(), line: 0 })
    }
}

impl Iterator for SampleFile {
    type Item = Result<Sample, DataError>;

    /// The next sample; blank lines are none. Errors name file and line.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.lines.next()? {
                Ok(line) => line,
                Err(source) => return Some(Err(DataError::Io { path: self.file.clone(), source })),
            };
            self.line += 1;
            if !line.trim().is_empty() {
                let located = |source| DataError::Line { file: self.file.clone(), line: self.line, source };
                return Some(Sample::from_line(&line).map_err(located));
            }
        }
    }
}

/// The documents of a file of samples.
///
/// # Errors
/// The first line that is not a sample, or that this vocabulary cannot write; with the file and the line.
pub fn read_documents(file: &Path, encoder: Encoder<'_>) -> Result<Vec<Document>, DataError> {
    let mut samples = SampleFile::open(file)?;
    let mut documents = Vec::new();
    while let Some(sample) = samples.next() {
        let located = |source| DataError::Line { file: file.to_owned(), line: samples.line, source };
        documents.push(encoder.document(&sample?).map_err(located)?);
    }
    Ok(documents)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    task: Task,
    text: Option<String>,
    messages: Option<Value>,
    #[serde(default)]
    tools: Vec<Value>,
    think: Option<Think>,
    answer: Option<Answer>,
}

impl Sample {
    /// Reads one line.
    ///
    /// # Errors
    /// If it is not a sample.
    pub fn from_line(line: &str) -> Result<Self, SampleError> {
        let Line { task, text, messages, tools, think, answer } = serde_json::from_str(line)?;
        let body = match (text, messages) {
            (Some(text), None) => {
                let only_chat = if !tools.is_empty() { Some("tools") } else { think.map(|_| "think") };
                if let Some(field) = only_chat {
                    return Err(SampleError::OnlyChat { field });
                }
                Body::Text(text)
            }
            (None, Some(messages)) => Body::Chat(Chat {
                conversation: Conversation::from_json(&with_tools(messages, tools))?,
                think: think.unwrap_or_default(),
            }),
            _ => return Err(SampleError::TextOrMessages),
        };
        Ok(Self { task, body, answer })
    }

    /// The line of this sample, without its end.
    ///
    /// Tokens that a message was drawn with ([`Message::sampled`]) are left out: they mean nothing without their
    /// vocabulary.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut fields = Map::from_iter([("task".to_owned(), json!(self.task))]);
        match &self.body {
            Body::Text(text) => {
                fields.insert("text".to_owned(), json!(text));
            }
            Body::Chat(chat) => write_chat(&mut fields, chat),
        }
        if let Some(answer) = &self.answer {
            fields.insert("answer".to_owned(), json!(answer));
        }
        Value::Object(fields).to_string()
    }
}

/// Tools stand on the system message, as the server puts them; where there is none, on an empty one.
fn with_tools(mut messages: Value, tools: Vec<Value>) -> Value {
    if let (Some(list), false) = (messages.as_array_mut(), tools.is_empty()) {
        if list.first().is_none_or(|first| first["role"] != "system") {
            list.insert(0, json!({ "role": "system", "content": "" }));
        }
        list[0]["tools"] = Value::Array(tools);
    }
    messages
}

fn write_chat(fields: &mut Map<String, Value>, chat: &Chat) {
    let mut messages = chat.conversation.messages.as_slice();
    let first = messages.first().filter(|first| first.role == Role::System && !first.tools.is_empty());
    let mut written = Vec::new();
    if let Some(system) = first {
        fields.insert("tools".to_owned(), system.tools.iter().map(tool).collect());
        let without_tools = Message { tools: Vec::new(), ..system.clone() };
        if without_tools != Message::text(Role::System, "") {
            written.push(message(&without_tools));
        }
        messages = &messages[1..];
    }
    written.extend(messages.iter().map(message));
    fields.insert("messages".to_owned(), Value::Array(written));
    fields.insert("think".to_owned(), json!(chat.think));
}

fn message(message: &Message) -> Value {
    let mut fields = Map::from_iter([("role".to_owned(), json!(message.role.name()))]);
    let mut put = |key: &str, value: Value| {
        fields.insert(key.to_owned(), value);
    };
    if let Some(reasoning) = &message.reasoning_content {
        put("reasoning_content", json!(reasoning));
    }
    put("content", content(&message.content));
    if !message.tool_calls.is_empty() {
        put("tool_calls", message.tool_calls.iter().map(call).collect());
    }
    if let Some(id) = &message.tool_call_id {
        put("tool_call_id", json!(id));
    }
    if !message.tools.is_empty() {
        put("tools", message.tools.iter().map(tool).collect());
    }
    if let Some(format) = &message.response_format {
        put("response_format", format.clone());
    }
    if let Some(task) = message.task {
        put("task", json!(task.name()));
    }
    if message.wo_eos {
        put("wo_eos", json!(true));
    }
    Value::Object(fields)
}

fn content(content: &Content) -> Value {
    let part = |part: &Part| match part {
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Unsupported { kind } => json!({ "type": kind }),
    };
    match content {
        Content::Text(text) => json!(text),
        Content::Parts(parts) => parts.iter().map(part).collect(),
    }
}

fn tool(tool: &Tool) -> Value {
    json!({ "type": "function", "function": tool.function })
}

fn call(call: &ToolCall) -> Value {
    let arguments = match &call.arguments {
        Arguments::Text(text) => json!(text),
        Arguments::Value(value) => value.clone(),
    };
    let mut fields = Map::new();
    if let Some(id) = &call.id {
        fields.insert("id".to_owned(), json!(id));
    }
    fields.insert("type".to_owned(), json!("function"));
    fields.insert("function".to_owned(), json!({ "name": call.name, "arguments": arguments }));
    Value::Object(fields)
}

#[cfg(test)]
mod tests;
