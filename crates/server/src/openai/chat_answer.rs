//! Chat's answer, whole or in chunks.

use std::sync::Arc;

use cuvier_encoding::Ending;
use futures_util::future::poll_fn;
use serde_json::{Map, Value, json};

use super::logprobs;
use crate::generation::{End, Generation, Logprob, Piece, Usage};
use crate::routes::Answer;
use crate::thinking::Applied;
use crate::wire::{Delivery, Source, Sse, document, now, random_id};
use crate::{ApiError, App, Protocol};

/// How the answer is to be written.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    /// The id of the model that answers.
    pub(super) model: String,
    /// What was applied, to be echoed.
    pub(super) thinking: Applied,
    /// Whether probabilities were asked for.
    pub(super) logprobs: bool,
    /// Whether usage comes in a chunk of its own.
    pub(super) include_usage: bool,
}

/// The choices of one request.
pub(super) struct Choices {
    app: Arc<App>,
    id: String,
    created: u64,
    wire: Wire,
    choices: Vec<Choice>,
    /// Of the choices that ended.
    usage: Option<Usage>,
    has_closed: bool,
}

struct Choice {
    generation: Generation,
    /// The first chunk names the role.
    has_begun: bool,
    has_ended: bool,
    /// Of tokens whose text is not given out yet.
    pending_logprobs: Vec<Logprob>,
}

impl Choices {
    pub(super) fn new(app: Arc<App>, generations: Vec<Generation>, wire: Wire) -> Self {
        let choice = |generation| Choice {
            generation,
            has_begun: false,
            has_ended: false,
            pending_logprobs: Vec::new(),
        };
        Self {
            app,
            id: random_id("chatcmpl-"),
            created: now(),
            wire,
            choices: generations.into_iter().map(choice).collect(),
            usage: None,
            has_closed: false,
        }
    }

    /// The whole answer, as one document.
    pub(super) async fn document(self) -> Answer {
        let delivery = Delivery {
            patience: self.app.config.blank_lines_after,
            protocol: Protocol::OpenAi,
            id: self.id.clone(),
            thinking: Some(self.wire.thinking.name()),
        };
        document(delivery, self.whole()).await
    }

    async fn whole(mut self) -> Result<Value, ApiError> {
        let mut choices = Vec::with_capacity(self.choices.len());
        for index in 0..self.choices.len() {
            let mut message = WholeMessage::default();
            while let Some(piece) = self.choices[index].generation.next().await {
                match piece {
                    Piece::End(end) => {
                        self.count(end.usage);
                        choices.push(message.choice(&self, index, &end));
                        message = WholeMessage::default();
                    }
                    Piece::Failed(error) => return Err(error),
                    piece => message.add(piece),
                }
            }
        }
        let mut body = self.envelope("chat.completion");
        body["choices"] = Value::Array(choices);
        body["usage"] = super::usage(self.usage.unwrap_or_default());
        body["thinking"] = json!(self.wire.thinking.name());
        Ok(body)
    }

    fn envelope(&self, object: &str) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.wire.model,
            "system_fingerprint": self.app.system_fingerprint(),
        })
    }

    fn count(&mut self, usage: Usage) {
        match &mut self.usage {
            Some(sum) => *sum += usage,
            None => self.usage = Some(usage),
        }
    }

    /// The next piece of any choice, in the order they come.
    async fn next_piece(&mut self) -> Option<(usize, Piece)> {
        let mut open: Vec<_> = self
            .choices
            .iter_mut()
            .enumerate()
            .filter(|(_, choice)| !choice.has_ended)
            .map(|(index, choice)| (index, Box::pin(choice.generation.next())))
            .collect();
        if open.is_empty() {
            return None;
        }
        poll_fn(|context| {
            for (index, next) in &mut open {
                if let std::task::Poll::Ready(piece) = next.as_mut().poll(context) {
                    return std::task::Poll::Ready(piece.map(|piece| (*index, piece)));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    fn chunk(&self, index: usize, delta: Value, finish: Option<&str>) -> Value {
        let mut chunk = self.envelope("chat.completion.chunk");
        chunk["choices"] =
            json!([{"index": index, "delta": delta, "finish_reason": finish, "logprobs": null}]);
        chunk["usage"] = Value::Null;
        chunk
    }

    fn write(&mut self, index: usize, piece: Piece) -> Vec<Sse> {
        let mut events = Vec::new();
        let delta = match piece {
            Piece::Prefill { done, total } => return vec![Sse::Comment(format!("prefill {done}/{total}"))],
            Piece::Logprob(logprob) => {
                self.choices[index].pending_logprobs.push(logprob);
                return events;
            }
            Piece::CallEnd { .. } | Piece::CallDropped { .. } => return events,
            Piece::Failed(error) => {
                self.has_closed = true;
                return vec![Sse::Data(error.body(Protocol::OpenAi, &self.id))];
            }
            Piece::Reasoning(text) => json!({"reasoning_content": text}),
            Piece::Content(text) => json!({"content": text}),
            Piece::CallStart { index, id, name } => {
                let function = json!({"name": name, "arguments": ""});
                json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
            }
            Piece::CallArguments { index, fragment } => {
                json!({"tool_calls": [{"index": index, "function": {"arguments": fragment}}]})
            }
            Piece::End(end) => return self.write_end(index, &end),
        };
        if !std::mem::replace(&mut self.choices[index].has_begun, true) {
            events.push(Sse::Data(self.chunk(index, self.opening(), None)));
        }
        let mut chunk = self.chunk(index, delta, None);
        let tokens = std::mem::take(&mut self.choices[index].pending_logprobs);
        if self.wire.logprobs && !tokens.is_empty() {
            chunk["choices"][0]["logprobs"] = logprobs::of_chat(&self.app, &tokens);
        }
        events.push(Sse::Data(chunk));
        events
    }

    fn opening(&self) -> Value {
        let mut delta = json!({"role": "assistant", "content": null});
        if self.wire.thinking.is_on() {
            delta["reasoning_content"] = json!("");
        } else {
            delta["content"] = json!("");
        }
        delta
    }

    fn write_end(&mut self, index: usize, end: &End) -> Vec<Sse> {
        let mut events = Vec::new();
        if !std::mem::replace(&mut self.choices[index].has_begun, true) {
            events.push(Sse::Data(self.chunk(index, self.opening(), None)));
        }
        self.choices[index].has_ended = true;
        self.count(end.usage);
        let mut last = self.chunk(index, json!({}), Some(finish_reason(end.ending)));
        let all_ended = self.choices.iter().all(|choice| choice.has_ended);
        let usage = super::usage(self.usage.unwrap_or_default());
        if all_ended && !self.wire.include_usage {
            last["usage"] = usage.clone();
            last["thinking"] = json!(self.wire.thinking.name());
        }
        events.push(Sse::Data(last));
        if all_ended {
            if self.wire.include_usage {
                let mut chunk = self.envelope("chat.completion.chunk");
                chunk["choices"] = json!([]);
                chunk["usage"] = usage;
                chunk["thinking"] = json!(self.wire.thinking.name());
                events.push(Sse::Data(chunk));
            }
            events.push(Sse::Done);
            self.has_closed = true;
        }
        events
    }
}

impl Source for Choices {
    async fn next(&mut self) -> Option<Vec<Sse>> {
        if self.has_closed {
            return None;
        }
        let (index, piece) = self.next_piece().await?;
        Some(self.write(index, piece))
    }
}

/// A message as its pieces make it.
#[derive(Default)]
struct WholeMessage {
    reasoning: String,
    content: String,
    calls: Vec<Call>,
    logprobs: Vec<Logprob>,
}

struct Call {
    index: usize,
    id: String,
    name: String,
    arguments: String,
}

impl WholeMessage {
    fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Reasoning(text) => self.reasoning.push_str(&text),
            Piece::Content(text) => self.content.push_str(&text),
            Piece::CallStart { index, id, name } => {
                self.calls.push(Call { index, id, name, arguments: String::new() });
            }
            Piece::CallArguments { index, fragment } => {
                if let Some(call) = self.calls.iter_mut().rfind(|call| call.index == index) {
                    call.arguments.push_str(&fragment);
                }
            }
            Piece::CallDropped { index } => self.calls.retain(|call| call.index != index),
            Piece::Logprob(logprob) => self.logprobs.push(logprob),
            Piece::Prefill { .. } | Piece::CallEnd { .. } | Piece::End(_) | Piece::Failed(_) => {}
        }
    }

    fn choice(self, choices: &Choices, index: usize, end: &End) -> Value {
        let mut message = Map::new();
        message.insert("role".to_owned(), json!("assistant"));
        message.insert("content".to_owned(), json!(self.content));
        if choices.wire.thinking.is_on() {
            message.insert("reasoning_content".to_owned(), json!(self.reasoning));
        }
        if !self.calls.is_empty() {
            let call = |call: Call| {
                let function = json!({"name": call.name, "arguments": call.arguments});
                json!({"id": call.id, "type": "function", "function": function})
            };
            message.insert("tool_calls".to_owned(), self.calls.into_iter().map(call).collect());
        }
        let logprobs = choices.wire.logprobs.then(|| logprobs::of_chat(&choices.app, &self.logprobs));
        json!({
            "index": index, "message": message, "finish_reason": finish_reason(end.ending),
            "logprobs": logprobs,
        })
    }
}

/// Why the answer ended, in OpenAI's words.
pub(super) fn finish_reason(ending: Ending) -> &'static str {
    match ending {
        Ending::Stop | Ending::Cancelled => "stop",
        Ending::ToolCalls => "tool_calls",
        Ending::Length => "length",
    }
}
