//! `POST /completions`: text continued as it stands, or filled into the middle.

use std::sync::Arc;

use cuvier_encoding::Prompt;
use cuvier_types::TokenId;
use serde_json::{Value, json};

use super::chat::{read_limit, read_n};
use super::chat_answer::finish_reason;
use super::{logprobs, read_include_usage, read_model, read_sampling, read_stop};
use crate::ask::{Ask, Subject};
use crate::body::Asked;
use crate::generation::{End, Generation, Piece, Usage};
use crate::routes::Answer;
use crate::wire::{Delivery, Fields, Source, Sse, document, event_stream, json_kind, now, random_id};
use crate::{ApiError, App, Protocol};

/// Of a request that does not say it.
const MAX_TOKENS: usize = 4096;
/// Prompts of one request, each with all its choices.
const PROMPTS_MAX: usize = 16;
const LOGPROBS_MAX: u64 = 20;

pub(crate) async fn answer(asked: Asked) -> Answer {
    let wanted = read(&asked)?;
    let app = asked.app;
    app.check_n_answers(wanted.asks.len() as u64 * wanted.n)?;
    let mut choices = Vec::new();
    for (ask, echo) in wanted.asks {
        let logprobs = ask.sampling.logprobs.is_some();
        let offset = echo.chars().count();
        for generation in app.start_choices(ask, wanted.n).await? {
            choices.push(Choice { generation, echo: echo.clone(), logprobs, offset });
        }
    }
    let envelope = json!({
        "id": random_id("cmpl-"), "object": "text_completion", "created": now(),
        "model": wanted.model, "system_fingerprint": app.system_fingerprint(),
    });
    let texts = Texts {
        app,
        envelope,
        choices,
        at: 0,
        has_begun: false,
        usage: Usage::default(),
        include_usage: wanted.include_usage,
    };
    if wanted.stream { Ok(event_stream(texts)) } else { texts.document().await }
}

struct Wanted {
    model: String,
    /// One per prompt, with what is put before the text.
    asks: Vec<(Ask, String)>,
    /// Choices of each.
    n: u64,
    stream: bool,
    include_usage: bool,
}

fn read(Asked { app, scope, body }: &Asked) -> Result<Wanted, ApiError> {
    let fields = Fields::of(body, "")?;
    let (_, model) = read_model(app, &fields)?;
    let suffix = fields.string("suffix")?;
    let echo = fields.boolean("echo")?.unwrap_or(false);
    if echo && suffix.is_some() {
        return Err(fields.refuse("echo", "does not go with `suffix`"));
    }
    let mut sampling = read_sampling(app, &fields)?;
    sampling.logprobs = match fields.integer("logprobs")? {
        Some(n) if n > LOGPROBS_MAX => {
            return Err(fields.refuse("logprobs", format!("must be at most {LOGPROBS_MAX}")));
        }
        n => n.map(|n| n as u8),
    };
    let stop = read_stop(&fields, "stop")?;
    let limit = read_limit(&fields)?.unwrap_or(MAX_TOKENS);
    let mut asks = Vec::new();
    for text in read_prompts(app, &fields)? {
        let prompt = match suffix {
            Some(suffix) => Prompt::fill_in_middle(&text, suffix),
            None => Prompt::continuation(&text),
        };
        let ask = Ask {
            subject: Subject::Raw(prompt),
            sampling: sampling.clone(),
            max_tokens: Some(limit),
            stop: stop.clone(),
            scope: *scope,
        };
        asks.push((ask, if echo { text } else { String::new() }));
    }
    let stream = fields.boolean("stream")?.unwrap_or(false);
    Ok(Wanted { model, asks, n: read_n(&fields)?, stream, include_usage: read_include_usage(&fields)? })
}

/// `prompt`: a text, several, token ids, or several lists of them.
fn read_prompts(app: &App, fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let ids_to_text = |ids: &[Value]| -> Option<String> {
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok()).map(TokenId);
        let ids: Option<Vec<TokenId>> = ids.iter().map(id).collect();
        ids.map(|ids| app.tokenizer.decode(&ids))
    };
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(ids) => ids_to_text(ids),
        _ => None,
    };
    let prompts = match fields.get("prompt") {
        None => Some(vec![String::new()]),
        Some(Value::String(text)) => Some(vec![text.clone()]),
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => {
            ids_to_text(list).map(|text| vec![text])
        }
        Some(Value::Array(list)) if (1..=PROMPTS_MAX).contains(&list.len()) => list.iter().map(one).collect(),
        Some(Value::Array(list)) => {
            let what = format!("must have 1 to {PROMPTS_MAX} entries, not {}", list.len());
            return Err(fields.refuse("prompt", what));
        }
        Some(other) => {
            return Err(
                fields.refuse("prompt", format!("must be a string or a list, not {}", json_kind(other)))
            );
        }
    };
    prompts.ok_or_else(|| fields.refuse("prompt", "must hold strings, or lists of token ids"))
}

struct Choice {
    generation: Generation,
    echo: String,
    logprobs: bool,
    /// Where the text of the next token begins, in characters.
    offset: usize,
}

/// All choices of a request, written one after the other.
struct Texts {
    app: Arc<App>,
    envelope: Value,
    choices: Vec<Choice>,
    /// The choice that is being written; the number of choices: all are.
    at: usize,
    has_begun: bool,
    usage: Usage,
    include_usage: bool,
}

impl Texts {
    async fn document(self) -> Answer {
        let delivery = Delivery {
            patience: self.app.config.blank_lines_after,
            protocol: Protocol::OpenAi,
            id: String::new(),
            thinking: None,
        };
        document(delivery, self.whole()).await
    }

    async fn whole(mut self) -> Result<Value, ApiError> {
        let mut choices = Vec::with_capacity(self.choices.len());
        for (index, choice) in self.choices.iter_mut().enumerate() {
            let mut text = choice.echo.clone();
            let mut tokens = Vec::new();
            while let Some(piece) = choice.generation.next().await {
                match piece {
                    Piece::Content(more) => text.push_str(&more),
                    Piece::Logprob(logprob) => tokens.push(logprob),
                    Piece::Failed(error) => return Err(error),
                    Piece::End(end) => {
                        add(&mut self.usage, end.usage);
                        let logprobs = choice
                            .logprobs
                            .then(|| logprobs::of_completion(&self.app, &tokens, &mut choice.offset));
                        choices.push(json!({
                            "index": index, "text": text, "finish_reason": finish_reason(end.ending),
                            "logprobs": logprobs,
                        }));
                        text = String::new();
                    }
                    _ => {}
                }
            }
        }
        self.envelope["choices"] = Value::Array(choices);
        self.envelope["usage"] = super::usage(self.usage);
        Ok(self.envelope)
    }

    fn chunk(&self, text: &str, finish: Option<&str>) -> Value {
        let mut chunk = self.envelope.clone();
        chunk["choices"] =
            json!([{"index": self.at, "text": text, "finish_reason": finish, "logprobs": null}]);
        chunk
    }

    fn write(&mut self, piece: Piece) -> Vec<Sse> {
        let mut events = Vec::new();
        if !std::mem::replace(&mut self.has_begun, true) {
            let echo = self.choices[self.at].echo.clone();
            if !echo.is_empty() {
                events.push(Sse::Data(self.chunk(&echo, None)));
            }
        }
        match piece {
            Piece::Prefill { done, total } => events.push(Sse::Comment(format!("prefill {done}/{total}"))),
            Piece::Content(text) => events.push(Sse::Data(self.chunk(&text, None))),
            Piece::Logprob(logprob) => {
                let mut chunk = self.chunk("", None);
                let offset = &mut self.choices[self.at].offset;
                chunk["choices"][0]["logprobs"] = logprobs::of_completion(&self.app, &[logprob], offset);
                events.push(Sse::Data(chunk));
            }
            Piece::Failed(error) => {
                self.at = self.choices.len();
                events.push(Sse::Data(error.body(Protocol::OpenAi, "")));
            }
            Piece::End(end) => self.write_end(&end, &mut events),
            _ => {}
        }
        events
    }

    fn write_end(&mut self, end: &End, events: &mut Vec<Sse>) {
        add(&mut self.usage, end.usage);
        let mut last = self.chunk("", Some(finish_reason(end.ending)));
        self.at += 1;
        self.has_begun = false;
        let is_last = self.at == self.choices.len();
        if is_last && !self.include_usage {
            last["usage"] = super::usage(self.usage);
        }
        events.push(Sse::Data(last));
        if is_last {
            if self.include_usage {
                let mut chunk = self.envelope.clone();
                chunk["choices"] = json!([]);
                chunk["usage"] = super::usage(self.usage);
                events.push(Sse::Data(chunk));
            }
            events.push(Sse::Done);
        }
    }
}

impl Source for Texts {
    async fn next(&mut self) -> Option<Vec<Sse>> {
        let choice = self.choices.get_mut(self.at)?;
        let piece = choice.generation.next().await?;
        Some(self.write(piece))
    }
}

/// Each choice counts its prompt: they may differ.
fn add(sum: &mut Usage, usage: Usage) {
    sum.prompt += usage.prompt;
    sum.cached += usage.cached;
    *sum += usage;
}
