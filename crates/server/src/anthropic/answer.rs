//! Anthropic's answer, whole or as events: blocks that follow each other and never overlap.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cuvier_encoding::Ending;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::generation::{End, Generation, Piece, Usage};
use crate::routes::Answer;
use crate::thinking::Applied;
use crate::wire::{Delivery, Source, Sse, document, random_id};
use crate::{ApiError, Protocol};

/// One answer.
pub(super) struct Blocks {
    id: String,
    model: String,
    applied: Applied,
    shows_thinking: bool,
    generation: Generation,
    /// The block that is open.
    open: Option<Block>,
    /// Blocks begun so far.
    n_blocks: usize,
    has_begun: bool,
    has_ended: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Block {
    Thinking { text: String, is_shown: bool },
    Text { text: String },
    ToolUse { id: String, name: String, input: String },
}

impl Blocks {
    pub(super) fn new(model: String, applied: Applied, shows_thinking: bool, generation: Generation) -> Self {
        Self {
            id: random_id("msg_"),
            model,
            applied,
            shows_thinking,
            generation,
            open: None,
            n_blocks: 0,
            has_begun: false,
            has_ended: false,
        }
    }

    /// The whole answer, as one document.
    pub(super) async fn document(self) -> Answer {
        let delivery = Delivery {
            patience: self.generation.app.config.blank_lines_after,
            protocol: Protocol::Anthropic,
            id: self.id.clone(),
            thinking: Some(self.applied.name()),
        };
        document(delivery, self.whole()).await
    }

    async fn whole(mut self) -> Result<Value, ApiError> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut end = None;
        while let Some(piece) = self.generation.next().await {
            match piece {
                Piece::End(ended) => end = Some(ended),
                Piece::Failed(error) => return Err(error),
                piece => self.add(piece, &mut blocks),
            }
        }
        let end = end.ok_or_else(|| ApiError::Internal("the answer has no end".to_owned()))?;
        blocks.retain(|block| !block.is_blank());
        let content: Vec<Value> = blocks.iter().map(Block::whole).collect();
        let (stop_reason, stop_sequence) = stop_reason(&end);
        let mut message = self.message(content, usage(end.usage));
        message["stop_reason"] = json!(stop_reason);
        message["stop_sequence"] = json!(stop_sequence);
        Ok(message)
    }

    fn add(&self, piece: Piece, blocks: &mut Vec<Block>) {
        match (piece, blocks.last_mut()) {
            (Piece::Reasoning(more), Some(Block::Thinking { text, .. }))
            | (Piece::Content(more), Some(Block::Text { text }))
            | (Piece::CallArguments { fragment: more, .. }, Some(Block::ToolUse { input: text, .. })) => {
                text.push_str(&more);
            }
            (Piece::CallDropped { .. }, Some(Block::ToolUse { .. })) => drop(blocks.pop()),
            (piece, _) => blocks.extend(self.block(&piece)),
        }
    }

    /// The block that a piece begins.
    fn block(&self, piece: &Piece) -> Option<Block> {
        match piece {
            Piece::Reasoning(text) => {
                Some(Block::Thinking { text: text.clone(), is_shown: self.shows_thinking })
            }
            Piece::Content(text) => Some(Block::Text { text: text.clone() }),
            Piece::CallStart { id, name, .. } => {
                Some(Block::ToolUse { id: id.clone(), name: name.clone(), input: String::new() })
            }
            _ => None,
        }
    }

    fn message(&self, content: Vec<Value>, usage: Value) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": null, "stop_sequence": null, "usage": usage,
        })
    }

    fn begin(&mut self, events: &mut Vec<Sse>) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        // The prompt's size is known before its first token is: clients show it at once.
        let usage = usage(Usage { completion: 1, ..self.generation.usage() });
        let message = self.message(Vec::new(), usage);
        events.push(event("message_start", json!({"message": message})));
        events.push(event("ping", json!({})));
    }

    fn write(&mut self, piece: &Piece) -> Vec<Sse> {
        let mut events = Vec::new();
        match piece {
            Piece::Failed(error) => {
                self.has_ended = true;
                return vec![Sse::Event("error", error.body(Protocol::Anthropic, &self.id))];
            }
            // White space before the first word would make a block of nothing.
            Piece::Reasoning(text) | Piece::Content(text) if text.is_empty() => return events,
            _ => {}
        }
        self.begin(&mut events);
        match piece {
            Piece::Reasoning(text) => {
                let is_thinking = matches!(self.open, Some(Block::Thinking { .. }));
                self.continue_block(is_thinking, piece, &mut events);
                if self.shows_thinking {
                    self.delta(json!({"type": "thinking_delta", "thinking": text}), &mut events);
                }
            }
            Piece::Content(text) => {
                let is_text = matches!(self.open, Some(Block::Text { .. }));
                self.continue_block(is_text, piece, &mut events);
                self.delta(json!({"type": "text_delta", "text": text}), &mut events);
            }
            Piece::CallStart { .. } => self.continue_block(false, piece, &mut events),
            Piece::CallArguments { fragment, .. } => {
                self.delta(json!({"type": "input_json_delta", "partial_json": fragment}), &mut events);
            }
            Piece::CallEnd { .. } | Piece::CallDropped { .. } => self.close(&mut events),
            Piece::End(end) => self.write_end(end, &mut events),
            Piece::Prefill { done, total } => events.push(Sse::Comment(format!("prefill {done}/{total}"))),
            Piece::Logprob(_) | Piece::Failed(_) => {}
        }
        events
    }

    /// Goes on with the open block if it `fits`, else closes it and opens the one that `piece` begins.
    fn continue_block(&mut self, fits: bool, piece: &Piece, events: &mut Vec<Sse>) {
        if fits {
            if let (Some(Block::Thinking { text, .. }), Piece::Reasoning(more)) = (&mut self.open, piece) {
                text.push_str(more);
            }
            return;
        }
        self.close(events);
        self.open = self.block(piece);
        if let Some(block) = &self.open {
            let start = json!({"index": self.n_blocks, "content_block": block.opening()});
            events.push(event("content_block_start", start));
            self.n_blocks += 1;
        }
    }

    fn delta(&self, delta: Value, events: &mut Vec<Sse>) {
        let index = self.n_blocks.saturating_sub(1);
        events.push(event("content_block_delta", json!({"index": index, "delta": delta})));
    }

    fn close(&mut self, events: &mut Vec<Sse>) {
        let Some(block) = self.open.take() else { return };
        if let Block::Thinking { text, .. } = &block {
            self.delta(json!({"type": "signature_delta", "signature": signature(text)}), events);
        }
        events.push(event("content_block_stop", json!({"index": self.n_blocks - 1})));
    }

    fn write_end(&mut self, end: &End, events: &mut Vec<Sse>) {
        self.close(events);
        self.has_ended = true;
        let (stop_reason, stop_sequence) = stop_reason(end);
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        events.push(event("message_delta", json!({"delta": delta, "usage": usage(end.usage)})));
        events.push(event("message_stop", json!({})));
    }
}

impl Source for Blocks {
    async fn next(&mut self) -> Option<Vec<Sse>> {
        if self.has_ended {
            return None;
        }
        let piece = self.generation.next().await?;
        Some(self.write(&piece))
    }

    /// A comment does not keep every client waiting; a ping does, but only after the beginning.
    fn keep_alive(&self) -> Sse {
        if self.has_begun { event("ping", json!({})) } else { Sse::Comment("keep-alive".to_owned()) }
    }
}

impl Block {
    fn is_blank(&self) -> bool {
        match self {
            Self::Thinking { text, .. } => text.trim().is_empty(),
            Self::Text { text } => text.is_empty(),
            Self::ToolUse { .. } => false,
        }
    }

    fn whole(&self) -> Value {
        match self {
            Self::Thinking { text, is_shown } => {
                let shown = if *is_shown { text.as_str() } else { "" };
                json!({"type": "thinking", "thinking": shown, "signature": signature(text)})
            }
            Self::Text { text } => json!({"type": "text", "text": text}),
            Self::ToolUse { id, name, input } => {
                let input: Value = serde_json::from_str(input).unwrap_or_else(|_| json!({}));
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        }
    }

    fn opening(&self) -> Value {
        match self {
            Self::Thinking { .. } => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Self::Text { .. } => json!({"type": "text", "text": ""}),
            Self::ToolUse { id, name, .. } => {
                json!({"type": "tool_use", "id": id, "name": name, "input": {}})
            }
        }
    }
}

fn event(name: &'static str, mut data: Value) -> Sse {
    data["type"] = json!(name);
    Sse::Event(name, data)
}

/// Some clients drop thoughts without a signature. It is never checked, so it need not be a secret's.
fn signature(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text.as_bytes()))
}

/// `usage`: unlike OpenAI's, its input leaves out what was cached.
fn usage(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached, "output_tokens": usage.completion,
    })
}

fn stop_reason(end: &End) -> (&'static str, Option<&str>) {
    match (&end.stop, end.ending) {
        (Some(stop), _) => ("stop_sequence", Some(stop)),
        (None, Ending::Length) if end.context_is_full => ("model_context_window_exceeded", None),
        (None, Ending::Length) => ("max_tokens", None),
        (None, Ending::ToolCalls) => ("tool_use", None),
        (None, Ending::Stop | Ending::Cancelled) => ("end_turn", None),
    }
}
