//! The answer of responses, whole or as events: items that follow each other, each added, filled and done.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cuvier_encoding::Ending;
use serde_json::{Value, json};

use super::tools::{Kind, Tools};
use crate::generation::{End, Generation, Piece, Usage};
use crate::routes::Answer;
use crate::thinking::Applied;
use crate::wire::{Delivery, Fields, Source, Sse, document, now, random_id};
use crate::{ApiError, Protocol};

/// How the answer is to be written.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    applied: Applied,
    tools: Tools,
    /// Gives reasoning a second time, for clients that send nothing else back.
    encodes_reasoning: bool,
    /// The response without its output.
    response: Value,
}

impl Wire {
    /// # Errors
    /// If a field that is echoed has the wrong kind.
    pub(super) fn new(
        fields: &Fields<'_>,
        model: String,
        applied: Applied,
        tools: Tools,
    ) -> Result<Self, ApiError> {
        let include = fields.list("include")?.unwrap_or_default();
        let echo = |key: &str, default: Value| fields.get(key).cloned().unwrap_or(default);
        let effort = if applied.is_on() { json!(applied.name()) } else { json!("none") };
        let format = fields.get("text").and_then(|text| text.get("format")).cloned();
        let response = json!({
            "id": random_id("resp_"), "object": "response", "created_at": now(), "status": "in_progress",
            "background": false, "error": null, "incomplete_details": null,
            "instructions": echo("instructions", Value::Null),
            "max_output_tokens": echo("max_output_tokens", Value::Null),
            "metadata": echo("metadata", json!({})), "model": model, "output": [],
            "parallel_tool_calls": echo("parallel_tool_calls", json!(true)), "previous_response_id": null,
            "reasoning": {"effort": effort, "summary": null}, "store": false,
            "temperature": echo("temperature", json!(1.0)), "top_p": echo("top_p", json!(1.0)),
            "text": {"format": format.unwrap_or_else(|| json!({"type": "text"}))},
            "tool_choice": echo("tool_choice", json!("auto")), "tools": echo("tools", json!([])),
            "truncation": "disabled", "usage": null, "user": null,
        });
        let encodes_reasoning = include.iter().any(|name| name == "reasoning.encrypted_content");
        Ok(Self { applied, tools, encodes_reasoning, response })
    }
}

/// One answer.
pub(super) struct Items {
    wire: Wire,
    /// `None`: nothing was asked, and the answer is empty.
    generation: Option<Generation>,
    /// Items that are done.
    output: Vec<Value>,
    open: Option<Item>,
    sequence_number: u64,
    has_begun: bool,
    has_ended: bool,
}

/// The item that is being written.
#[derive(Clone, Debug)]
enum Item {
    Reasoning { id: String, text: String },
    Message { id: String, text: String },
    Call { id: String, call_id: String, name: String, arguments: String, kind: Kind },
}

impl Items {
    pub(super) fn new(wire: Wire, generation: Option<Generation>) -> Self {
        Self {
            wire,
            generation,
            output: Vec::new(),
            open: None,
            sequence_number: 0,
            has_begun: false,
            has_ended: false,
        }
    }

    /// The whole answer, as one document; after `patience`, blank lines come before it.
    pub(super) async fn document(self, patience: Duration) -> Answer {
        let thinking = Some(self.wire.applied.name());
        let delivery = Delivery { patience, protocol: Protocol::OpenAi, id: String::new(), thinking };
        document(delivery, self.whole()).await
    }

    /// What the events would have ended with.
    async fn whole(mut self) -> Result<Value, ApiError> {
        let mut last = None;
        while !self.has_ended {
            let events = match self.next_piece().await {
                Some(Piece::Failed(error)) => return Err(error),
                Some(piece) => self.write(piece),
                None => break,
            };
            last = events.into_iter().next_back().or(last);
        }
        let Some(Sse::Event(_, mut data)) = last else {
            return Err(ApiError::Internal("the answer has no end".to_owned()));
        };
        Ok(data["response"].take())
    }

    async fn next_piece(&mut self) -> Option<Piece> {
        match &mut self.generation {
            Some(generation) => generation.next().await,
            None => {
                let usage = Usage::default();
                Some(Piece::End(End { ending: Ending::Stop, stop: None, context_is_full: false, usage }))
            }
        }
    }

    fn event(&mut self, name: &'static str, mut data: Value) -> Sse {
        data["type"] = json!(name);
        data["sequence_number"] = json!(self.sequence_number);
        self.sequence_number += 1;
        Sse::Event(name, data)
    }

    fn begin(&mut self, events: &mut Vec<Sse>) {
        if !std::mem::replace(&mut self.has_begun, true) {
            for name in ["response.created", "response.in_progress"] {
                let data = json!({"response": self.wire.response});
                events.push(self.event(name, data));
            }
        }
    }

    fn write(&mut self, piece: Piece) -> Vec<Sse> {
        let mut events = Vec::new();
        self.begin(&mut events);
        match piece {
            Piece::Prefill { done, total } => events.push(Sse::Comment(format!("prefill {done}/{total}"))),
            Piece::Reasoning(more) => {
                if !matches!(self.open, Some(Item::Reasoning { .. })) {
                    let item = Item::Reasoning { id: random_id("rs_"), text: String::new() };
                    self.open_item(item, &mut events);
                }
                self.append(&more, "response.reasoning_text.delta", &mut events);
            }
            Piece::Content(more) => {
                if !matches!(self.open, Some(Item::Message { .. })) {
                    let item = Item::Message { id: random_id("msg_"), text: String::new() };
                    self.open_item(item, &mut events);
                }
                self.append(&more, "response.output_text.delta", &mut events);
            }
            Piece::CallStart { id, name, .. } => {
                let kind = self.wire.tools.kind(&name);
                let item_id = random_id(if kind == Kind::Custom { "ctc_" } else { "fc_" });
                let arguments = String::new();
                let item = Item::Call { id: item_id, call_id: id, name, arguments, kind };
                self.open_item(item, &mut events);
            }
            Piece::CallArguments { fragment, .. } => {
                self.append(&fragment, "response.function_call_arguments.delta", &mut events);
            }
            Piece::CallEnd { .. } => self.close(&mut events),
            Piece::CallDropped { .. } => self.open = None,
            Piece::Logprob(_) => {}
            Piece::Failed(error) => self.write_failure(&error, &mut events),
            Piece::End(end) => self.write_end(&end, &mut events),
        }
        events
    }

    fn open_item(&mut self, item: Item, events: &mut Vec<Sse>) {
        self.close(events);
        let added = json!({"output_index": self.output.len(), "item": item.value("in_progress", &self.wire)});
        events.push(self.event("response.output_item.added", added));
        if let Some(part) = item.part("") {
            let data = self.place(&item, json!({"part": part}));
            events.push(self.event("response.content_part.added", data));
        }
        self.open = Some(item);
    }

    /// Adds text to the open item. What a custom tool is given comes whole: it is inside JSON until then.
    fn append(&mut self, more: &str, name: &'static str, events: &mut Vec<Sse>) {
        let Some(mut item) = self.open.take() else { return };
        item.text_mut().push_str(more);
        if !matches!(item, Item::Call { kind: Kind::Custom, .. }) {
            let mut data = self.place(&item, json!({"delta": more}));
            if matches!(item, Item::Message { .. }) {
                data["logprobs"] = json!([]);
            }
            events.push(self.event(name, data));
        }
        self.open = Some(item);
    }

    /// Where an event belongs.
    fn place(&self, item: &Item, mut data: Value) -> Value {
        data["item_id"] = json!(item.id());
        data["output_index"] = json!(self.output.len());
        if item.part("").is_some() {
            data["content_index"] = json!(0);
        }
        data
    }

    fn close(&mut self, events: &mut Vec<Sse>) {
        let Some(item) = self.open.take() else { return };
        match &item {
            Item::Reasoning { text, .. } => {
                let data = self.place(&item, json!({"text": text}));
                events.push(self.event("response.reasoning_text.done", data));
            }
            Item::Message { text, .. } => {
                let data = self.place(&item, json!({"text": text, "logprobs": []}));
                events.push(self.event("response.output_text.done", data));
            }
            Item::Call { kind: Kind::Custom, arguments, .. } => {
                let input = custom_input(arguments);
                let delta = self.place(&item, json!({"delta": input}));
                events.push(self.event("response.custom_tool_call_input.delta", delta));
                let done = self.place(&item, json!({"input": input}));
                events.push(self.event("response.custom_tool_call_input.done", done));
            }
            Item::Call { arguments, name, .. } => {
                let data = self.place(&item, json!({"arguments": arguments, "name": name}));
                events.push(self.event("response.function_call_arguments.done", data));
            }
        }
        if let Some(part) = item.part(item.text()) {
            let data = self.place(&item, json!({"part": part}));
            events.push(self.event("response.content_part.done", data));
        }
        let value = item.value("completed", &self.wire);
        let done = json!({"output_index": self.output.len(), "item": value});
        events.push(self.event("response.output_item.done", done));
        self.output.push(value);
    }

    fn write_end(&mut self, end: &End, events: &mut Vec<Sse>) {
        self.close(events);
        self.has_ended = true;
        let mut response = self.wire.response.clone();
        let name = if end.ending == Ending::Length { "response.incomplete" } else { "response.completed" };
        if end.ending == Ending::Length {
            response["status"] = json!("incomplete");
            response["incomplete_details"] = json!({"reason": "max_output_tokens"});
        } else {
            response["status"] = json!("completed");
        }
        response["output"] = json!(self.output);
        response["usage"] = usage(end.usage);
        events.push(self.event(name, json!({"response": response})));
    }

    fn write_failure(&mut self, error: &ApiError, events: &mut Vec<Sse>) {
        self.has_ended = true;
        let mut response = self.wire.response.clone();
        response["status"] = json!("failed");
        response["error"] = json!({"code": error.code(), "message": error.to_string()});
        response["output"] = json!(self.output);
        events.push(self.event("response.failed", json!({"response": response})));
    }
}

impl Source for Items {
    async fn next(&mut self) -> Option<Vec<Sse>> {
        if self.has_ended {
            return None;
        }
        let piece = self.next_piece().await?;
        Some(self.write(piece))
    }
}

impl Item {
    fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. } | Self::Message { id, .. } | Self::Call { id, .. } => id,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Reasoning { text, .. }
            | Self::Message { text, .. }
            | Self::Call { arguments: text, .. } => text,
        }
    }

    fn text_mut(&mut self) -> &mut String {
        match self {
            Self::Reasoning { text, .. }
            | Self::Message { text, .. }
            | Self::Call { arguments: text, .. } => text,
        }
    }

    /// The item's content, where it has any.
    fn part(&self, text: &str) -> Option<Value> {
        match self {
            Self::Reasoning { .. } => Some(json!({"type": "reasoning_text", "text": text})),
            Self::Message { .. } => {
                Some(json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}))
            }
            Self::Call { .. } => None,
        }
    }

    fn value(&self, status: &str, wire: &Wire) -> Value {
        let content: Vec<Value> =
            if status == "completed" { self.part(self.text()).into_iter().collect() } else { Vec::new() };
        match self {
            Self::Reasoning { id, text } => {
                let mut item = json!({
                    "type": "reasoning", "id": id, "status": status, "summary": [], "content": content,
                });
                if wire.encodes_reasoning {
                    item["encrypted_content"] = json!(STANDARD.encode(text));
                }
                item
            }
            Self::Message { id, .. } => json!({
                "type": "message", "id": id, "status": status, "role": "assistant", "content": content,
            }),
            Self::Call { id, call_id, name, arguments, kind: Kind::Custom } => json!({
                "type": "custom_tool_call", "id": id, "status": status, "call_id": call_id, "name": name,
                "input": custom_input(arguments),
            }),
            Self::Call { id, call_id, arguments, kind: Kind::Function { namespace, name }, .. } => {
                let mut item = json!({
                    "type": "function_call", "id": id, "status": status, "call_id": call_id, "name": name,
                    "arguments": arguments,
                });
                if let Some(namespace) = namespace {
                    item["namespace"] = json!(namespace);
                }
                item
            }
        }
    }
}

/// The text inside the one parameter of a custom tool.
fn custom_input(arguments: &str) -> String {
    let value: Value = serde_json::from_str(arguments).unwrap_or(Value::Null);
    value["input"].as_str().unwrap_or_default().to_owned()
}

/// `usage` as responses has it.
fn usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt, "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    })
}
