//! One answer under way: the engine's events in, pieces of the answer out, the same for every protocol.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cuvier_encoding::{
    ChatEvent, ChatParser, Ending, Sampled, SampledText, Section, StopStrings, TextStream,
};
use cuvier_engine::{Listener, Ticket};
use cuvier_types::{Event, FinishReason, TokenId, TokenLogprobs};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::ApiError;
use crate::app::App;
use crate::metrics::Request as Measured;
use crate::recall::{Given, Transcript};
use crate::wire::random_id;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// So many tokens of the prompt are computed.
    Prefill {
        /// Tokens computed so far.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// More of what the model thinks.
    Reasoning(String),
    /// More of what it says.
    Content(String),
    /// A call begins.
    CallStart {
        /// Which call, from 0.
        index: usize,
        /// Its id, which finds the tokens drawn for it.
        id: String,
        /// The function.
        name: String,
    },
    /// More of a call's arguments.
    CallArguments {
        /// Which call.
        index: usize,
        /// Text to append.
        fragment: String,
    },
    /// A call is complete.
    CallEnd {
        /// Which call.
        index: usize,
    },
    /// The answer was cut inside this call.
    CallDropped {
        /// Which call.
        index: usize,
    },
    /// How likely a token was.
    Logprob(Logprob),
    /// The answer is complete.
    End(End),
    /// The answer failed. Nothing follows.
    Failed(ApiError),
}

/// How likely a token of reasoning or content was.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprob {
    /// Which part it stands in.
    pub section: Section,
    /// The token.
    pub token: TokenId,
    /// Its probability, and those of the likeliest.
    pub logprobs: TokenLogprobs,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Why.
    pub ending: Ending,
    /// The stop string that was met.
    pub stop: Option<String>,
    /// The context is full.
    pub context_is_full: bool,
    /// What it took.
    pub usage: Usage,
}

/// Tokens of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt: usize,
    /// Of these, not computed again.
    pub cached: usize,
    /// Of the answer.
    pub completion: usize,
    /// Of these, thoughts.
    pub reasoning: usize,
}

impl std::ops::AddAssign for Usage {
    /// Another answer to the same prompt: its prompt was counted already.
    fn add_assign(&mut self, other: Self) {
        self.completion += other.completion;
        self.reasoning += other.reasoning;
    }
}

/// Carries the engine's events into the world of `async`.
pub(crate) struct Relay(pub(crate) UnboundedSender<Event>);

impl Listener for Relay {
    fn hear(&mut self, event: Event) -> bool {
        self.0.send(event).is_ok()
    }
}

/// How tokens become pieces.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Reasoning, content and calls.
    Chat(Box<ChatParser>),
    /// Text as it stands.
    Raw(TextStream),
}

/// One answer under way. Dropping it frees its slot within one step.
pub struct Generation {
    pub(crate) app: Arc<App>,
    pub(crate) ticket: Ticket,
    pub(crate) events: UnboundedReceiver<Event>,
    pub(crate) reading: Reading,
    pub(crate) stops: StopStrings,
    pub(crate) stop: Vec<String>,
    pub(crate) call_prefix: &'static str,
    pub(crate) scope: u64,
    pub(crate) transcript: Transcript,
    pub(crate) usage: Usage,
    pub(crate) measured: Measured,
    pub(crate) record: Record,
    pub(crate) queued: VecDeque<Piece>,
    pub(crate) progress: Progress,
    /// Counts against the most requests at a time.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The engine has not heard of it.
    Submitted,
    /// Nothing of the prompt was computed for it.
    Waiting,
    /// Under way.
    Running,
    /// Its last piece is queued or given out.
    Ended,
}

/// What is kept of an answer for when it comes back.
#[derive(Debug, Default)]
pub(crate) struct Record {
    content: String,
    calls: Vec<(String, String, String)>,
    sampled: Sampled,
}

impl Generation {
    /// The next piece; `None` after the last. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Piece> {
        loop {
            if let Some(piece) = self.queued.pop_front() {
                return Some(piece);
            }
            if self.progress == Progress::Ended {
                return None;
            }
            let event = if matches!(self.progress, Progress::Submitted | Progress::Waiting) {
                let limit = self.app.config.queue_timeout.saturating_sub(self.measured.elapsed());
                match tokio::time::timeout(limit.max(Duration::from_millis(1)), self.events.recv()).await {
                    Ok(event) => event,
                    Err(_) => {
                        self.fail(ApiError::Overloaded("the request waited too long for its turn"));
                        continue;
                    }
                }
            } else {
                self.events.recv().await
            };
            match event {
                Some(event) => self.take(event),
                None => self.fail(ApiError::Internal("the engine has stopped".to_owned())),
            }
        }
    }

    /// Tokens of the prompt, and once the first event came how many of them were cached.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    fn fail(&mut self, error: ApiError) {
        self.ticket.cancel();
        self.progress = Progress::Ended;
        self.measured.fail();
        self.queued.push_back(Piece::Failed(error));
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Prefill { done, total } => {
                if self.progress == Progress::Submitted {
                    self.progress = Progress::Waiting;
                    self.usage.cached = done;
                    self.measured.looked_up(done, total);
                } else {
                    self.progress = Progress::Running;
                }
                self.queued.push_back(Piece::Prefill { done, total });
            }
            Event::Token { token, logprobs } => self.take_token(token, logprobs),
            Event::Finished { reason } => self.finish(reason),
            Event::Failed { message } => self.fail(ApiError::Internal(message)),
        }
    }

    fn take_token(&mut self, token: TokenId, logprobs: Option<TokenLogprobs>) {
        self.progress = Progress::Running;
        self.measured.token();
        self.usage.completion += 1;
        let app = self.app.clone();
        let ends_answer = app.tokenizer.control().ends_answer(token);
        match &mut self.reading {
            Reading::Raw(text) => {
                let bytes =
                    if ends_answer { &[] } else { app.tokenizer.token_bytes(token).unwrap_or_default() };
                let text = text.push(bytes);
                self.queued.extend(
                    logprobs.map(|logprobs| {
                        Piece::Logprob(Logprob { section: Section::Content, token, logprobs })
                    }),
                );
                self.say(&text);
            }
            Reading::Chat(parser) => {
                let section = parser.section();
                let events = parser.push_token(&app.tokenizer, token);
                if !ends_answer {
                    self.record.add(section, parser.section(), token, app.tokenizer.control().think_end);
                }
                if section == Section::Reasoning {
                    self.usage.reasoning += 1;
                }
                if section != Section::Calls && !ends_answer {
                    let piece = |logprobs| Piece::Logprob(Logprob { section, token, logprobs });
                    self.queued.extend(logprobs.map(piece));
                }
                self.tell(events);
            }
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        let context_is_full = reason == FinishReason::Length
            && self.usage.prompt + self.usage.completion >= self.app.engine.context_max();
        match &mut self.reading {
            Reading::Raw(text) => {
                let rest = std::mem::take(text).finish();
                self.say(&rest);
                self.end(ending_of(reason), None, context_is_full);
            }
            Reading::Chat(parser) => {
                let events = parser.finish(reason);
                self.tell(events);
                if context_is_full && let Some(Piece::End(end)) = self.queued.back_mut() {
                    end.context_is_full = true;
                }
            }
        }
    }

    /// Content, up to the first stop string.
    fn say(&mut self, text: &str) {
        if self.progress == Progress::Ended {
            return;
        }
        let shown = self.stops.push(text);
        self.show(shown.text);
        if let Some(met) = shown.met {
            let stop = self.stop[met].clone();
            self.end(Ending::Stop, Some(stop), false);
        }
    }

    fn show(&mut self, text: String) {
        if !text.is_empty() {
            self.record.content.push_str(&text);
            self.queued.push_back(Piece::Content(text));
        }
    }

    fn tell(&mut self, events: Vec<ChatEvent>) {
        for event in events {
            if self.progress == Progress::Ended {
                return;
            }
            match event {
                ChatEvent::Reasoning(text) => self.queued.push_back(Piece::Reasoning(text)),
                ChatEvent::Content(text) => self.say(&text),
                ChatEvent::ToolCallStart { index, name } => {
                    let rest = self.stops.finish();
                    self.show(rest);
                    let id = random_id(self.call_prefix);
                    self.record.calls.push((id.clone(), name.clone(), String::new()));
                    self.queued.push_back(Piece::CallStart { index, id, name });
                }
                ChatEvent::ToolCallArguments { index, fragment } => {
                    if let Some(call) = self.record.calls.last_mut() {
                        call.2.push_str(&fragment);
                    }
                    self.queued.push_back(Piece::CallArguments { index, fragment });
                }
                ChatEvent::ToolCallEnd { index } => self.queued.push_back(Piece::CallEnd { index }),
                ChatEvent::ToolCallDropped { index } => {
                    self.record.calls.pop();
                    self.queued.push_back(Piece::CallDropped { index });
                }
                ChatEvent::Finished { ending } => self.end(ending, None, false),
            }
        }
    }

    fn end(&mut self, ending: Ending, stop: Option<String>, context_is_full: bool) {
        if stop.is_none() {
            let rest = self.stops.finish();
            self.show(rest);
        }
        // The model may want to go on, after a stop string or a block of calls.
        self.ticket.cancel();
        self.progress = Progress::Ended;
        self.measured.end(self.usage);
        if self.app.config.log_prompts {
            let Record { content, calls, .. } = &self.record;
            tracing::info!(content, ?calls, "answered");
        }
        if stop.is_none() && matches!(ending, Ending::Stop | Ending::ToolCalls) {
            self.remember();
        }
        let usage = self.usage;
        self.queued.push_back(Piece::End(End { ending, stop, context_is_full, usage }));
    }

    fn remember(&mut self) {
        if matches!(self.reading, Reading::Raw(_)) {
            return;
        }
        let Record { content, calls, mut sampled } = std::mem::take(&mut self.record);
        for part in [&mut sampled.reasoning, &mut sampled.answer] {
            part.text = self.app.tokenizer.decode(&part.tokens);
        }
        self.app.recall.keep(self.scope, &self.transcript, Given { content, calls, sampled });
    }
}

impl Record {
    /// The token that closes the reasoning belongs to neither part: the prompt has it of its own.
    fn add(&mut self, before: Section, after: Section, token: TokenId, think_end: TokenId) {
        let part: &mut SampledText = match (before, after) {
            (Section::Reasoning, Section::Reasoning) => &mut self.sampled.reasoning,
            _ if token == think_end && before == Section::Reasoning => return,
            _ => &mut self.sampled.answer,
        };
        part.tokens.push(token);
    }
}

fn ending_of(reason: FinishReason) -> Ending {
    match reason {
        FinishReason::Stop => Ending::Stop,
        FinishReason::Length => Ending::Length,
        FinishReason::Cancelled => Ending::Cancelled,
    }
}
