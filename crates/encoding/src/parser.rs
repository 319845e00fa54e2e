//! What the model wrote, as reasoning, content and tool calls.
//!
//! A pure state machine over text. Nothing is given out that a later piece could turn into a tag, so every way to
//! cut the stream gives the same answer. Models deviate from the format in known ways; what they evidently meant is
//! read, and what nobody can read is shown as content, never lost.
//!
//! Source of the format: `parse_message_from_completion_text` in `encoding/encoding_dsv4.py` of the V4 release. It
//! refuses deviations; everything that it accepts is read the same here.

mod calls;
mod completion;
mod schemas;
mod tags;
#[cfg(test)]
mod tests;
mod value;

use cuvier_types::{FinishReason, TokenId};

use crate::control::Control;
use crate::tokenizer::{TextStream, Tokenizer};
use calls::Calls;
pub use completion::{Completion, ParsedCall, parse_completion};
pub use schemas::ToolSchemas;
use tags::{BLOCK_OPEN, BLOCK_OPEN_BARE, Marking, may_be_end_of_turn};
pub(crate) use tags::{reads_as_invoke, reads_as_parameter};

/// One step of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatEvent {
    /// More of what the model thinks.
    Reasoning(String),
    /// More of what the model says.
    Content(String),
    /// A call begins. Calls are counted from 0.
    ToolCallStart {
        /// Which call.
        index: usize,
        /// The function, as the model wrote it; it may not exist.
        name: String,
    },
    /// More of a call's arguments. All fragments of a call that ends are one JSON object.
    ToolCallArguments {
        /// Which call.
        index: usize,
        /// Text to append.
        fragment: String,
    },
    /// A call is complete.
    ToolCallEnd {
        /// Which call.
        index: usize,
    },
    /// The answer was cut inside this call: it must not be made.
    ToolCallDropped {
        /// Which call.
        index: usize,
    },
    /// The last event.
    Finished {
        /// Why.
        ending: Ending,
    },
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The model ended its turn.
    Stop,
    /// The model ended its turn with calls.
    ToolCalls,
    /// There was no room for more.
    Length,
    /// The caller did not want more.
    Cancelled,
}

/// Which part of an answer is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What the model thinks.
    Reasoning,
    /// What it says.
    Content,
    /// What it calls, and whatever follows.
    Calls,
}

/// What the parser has to know about the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParserOptions {
    /// The prompt ended by opening the reasoning.
    pub thinking: bool,
    /// The tools that were sent. Without any, a call is not recognised and stays content.
    pub tools: Option<ToolSchemas>,
    /// What a block of calls inside the reasoning means.
    pub dsml_in_reasoning: DsmlInReasoning,
}

/// What a block of calls means that opens, after a blank line, while the reasoning was not closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DsmlInReasoning {
    /// The model forgot to close the reasoning; the calls are made.
    #[default]
    Close,
    /// The model thinks about a call; nothing is called.
    Text,
}

/// Reads one answer.
#[derive(Clone, Debug)]
pub struct ChatParser {
    options: ParserOptions,
    phase: Phase,
    /// Text that may become a tag.
    pending: String,
    /// The last text given out in this phase ended a line, or there was none.
    at_line_start: bool,
    utf8: TextStream,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Nothing was read. A model may repeat the tag that its prompt ended with.
    Opening,
    Reasoning,
    Content,
    Calls(Box<Calls>),
    Done,
}

/// White space before a block of calls belongs to the format. This much of it is held back.
const WHITE_SPACE_MAX: usize = 256;

impl ParserOptions {
    /// For an answer to a prompt that opened the reasoning or did not, with these tools.
    #[must_use]
    pub fn new(thinking: bool, tools: Option<ToolSchemas>) -> Self {
        Self { thinking, tools, dsml_in_reasoning: DsmlInReasoning::default() }
    }
}

impl ChatParser {
    /// A parser for an answer of which nothing was read.
    #[must_use]
    pub fn new(options: ParserOptions) -> Self {
        Self {
            options,
            phase: Phase::Opening,
            pending: String::new(),
            at_line_start: true,
            utf8: TextStream::new(),
        }
    }

    /// Takes the next token. A token that cannot stand in an answer ends it.
    pub fn push_token(&mut self, tokenizer: &Tokenizer, id: TokenId) -> Vec<ChatEvent> {
        if tokenizer.control().ends_answer(id) {
            return self.finish(FinishReason::Stop);
        }
        let text = self.utf8.push(tokenizer.token_bytes(id).unwrap_or_default());
        self.push(&text)
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<ChatEvent> {
        let mut events = Vec::new();
        self.read(text, &mut events);
        joined(events)
    }

    /// Ends the answer. What was held back is given out, or given up if it is the rest of a tag.
    pub fn finish(&mut self, reason: FinishReason) -> Vec<ChatEvent> {
        let mut events = Vec::new();
        let rest = std::mem::take(&mut self.utf8).finish();
        self.read(&rest, &mut events);
        let ending = match reason {
            FinishReason::Stop => Ending::Stop,
            FinishReason::Length => Ending::Length,
            FinishReason::Cancelled => Ending::Cancelled,
        };
        self.end(ending, &mut events);
        joined(events)
    }

    /// Whether the answer is complete, so that no further token can change it. True after the end of a block of
    /// calls even if the model would go on.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// Where the next token will be read.
    #[must_use]
    pub fn section(&self) -> Section {
        match self.phase {
            Phase::Opening if self.options.thinking => Section::Reasoning,
            Phase::Reasoning => Section::Reasoning,
            Phase::Opening | Phase::Content => Section::Content,
            Phase::Calls(_) | Phase::Done => Section::Calls,
        }
    }

    fn read(&mut self, text: &str, events: &mut Vec<ChatEvent>) {
        self.pending.push_str(text);
        loop {
            let goes_on = match &mut self.phase {
                Phase::Opening => self.read_opening(),
                Phase::Reasoning | Phase::Content => self.read_text(events),
                Phase::Calls(_) => self.read_calls(events),
                Phase::Done => {
                    self.pending.clear();
                    false
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    fn end(&mut self, ending: Ending, events: &mut Vec<ChatEvent>) {
        if matches!(self.phase, Phase::Opening) {
            self.leave_opening();
        }
        let rest = std::mem::take(&mut self.pending);
        let mut ending = ending;
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Reasoning => give(events, ChatEvent::Reasoning, without_end_of_turn(&rest)),
            Phase::Content => give(events, ChatEvent::Content, without_end_of_turn(&rest)),
            Phase::Calls(mut calls) => {
                calls.finish(ending, &self.options.tools.take().unwrap_or_default(), events);
                if ending == Ending::Stop && calls.n_ended() > 0 {
                    ending = Ending::ToolCalls;
                }
            }
            Phase::Opening | Phase::Done => return,
        }
        events.push(ChatEvent::Finished { ending });
    }

    fn read_opening(&mut self) -> bool {
        let tag = if self.options.thinking { Control::ThinkStart } else { Control::ThinkEnd }.text();
        if let Some(rest) = self.pending.strip_prefix(tag) {
            self.pending = rest.to_owned();
        } else if tag.starts_with(self.pending.as_str()) {
            return false;
        }
        self.leave_opening();
        true
    }

    fn leave_opening(&mut self) {
        self.phase = if self.options.thinking { Phase::Reasoning } else { Phase::Content };
    }

    /// Gives out what is certain, up to the next tag. False when more text is needed.
    fn read_text(&mut self, events: &mut Vec<ChatEvent>) -> bool {
        let in_reasoning = matches!(self.phase, Phase::Reasoning);
        let kind = if in_reasoning { ChatEvent::Reasoning } else { ChatEvent::Content };
        match self.next_mark(in_reasoning) {
            Mark::None { certain } => {
                let given: String = self.pending.drain(..certain).collect();
                if let Some(last) = given.chars().next_back() {
                    self.at_line_start = last == '\n';
                }
                give(events, kind, &given);
                false
            }
            Mark::ThinkEnd { at } => {
                give(events, kind, &self.pending[..at]);
                self.pending.drain(..at + Control::ThinkEnd.text().len());
                self.phase = Phase::Content;
                self.at_line_start = true;
                true
            }
            Mark::Block { at, len, marking } => {
                let text_end = before_white_space(&self.pending, at);
                give(events, kind, &self.pending[..text_end]);
                self.phase = Phase::Calls(Box::new(Calls::new(&self.pending[text_end..at + len], marking)));
                self.pending.drain(..at + len);
                true
            }
        }
    }

    fn read_calls(&mut self, events: &mut Vec<ChatEvent>) -> bool {
        let (Phase::Calls(calls), Some(tools)) = (&mut self.phase, &self.options.tools) else { return false };
        calls.push(&std::mem::take(&mut self.pending), tools, events);
        if calls.is_closed() {
            let ending = if calls.n_ended() > 0 { Ending::ToolCalls } else { Ending::Stop };
            events.push(ChatEvent::Finished { ending });
            self.phase = Phase::Done;
        }
        false
    }

    /// The first tag in the pending text that ends this phase.
    fn next_mark(&self, in_reasoning: bool) -> Mark {
        let text = self.pending.as_str();
        let seeks_block = self.options.tools.is_some()
            && (!in_reasoning || self.options.dsml_in_reasoning == DsmlInReasoning::Close);
        let mut certain = text.len();
        for (at, _) in text.match_indices('<') {
            let rest = &text[at..];
            let think_end = Control::ThinkEnd.text();
            if in_reasoning && rest.starts_with(think_end) {
                return Mark::ThinkEnd { at };
            }
            let mut may_grow = may_be_end_of_turn(rest) || (in_reasoning && think_end.starts_with(rest));
            if seeks_block {
                if let Some(mark) = self.block_at(at, in_reasoning) {
                    return mark;
                }
                may_grow |= BLOCK_OPEN.iter().chain([&BLOCK_OPEN_BARE]).any(|open| open.starts_with(rest));
            }
            if may_grow {
                certain = at;
                break;
            }
        }
        if seeks_block {
            certain = before_white_space(text, certain);
        }
        Mark::None { certain }
    }

    /// The block of calls that opens at this place.
    fn block_at(&self, at: usize, in_reasoning: bool) -> Option<Mark> {
        let (before, rest) = self.pending.split_at(at);
        if let Some(open) = BLOCK_OPEN.iter().find(|open| rest.starts_with(**open)) {
            let len = open.len();
            let stands_apart = !in_reasoning || before.ends_with("\n\n");
            return stands_apart.then_some(Mark::Block { at, len, marking: Marking::Dsml });
        }
        let opens_line = if before.is_empty() { self.at_line_start } else { before.ends_with('\n') };
        (!in_reasoning && opens_line && rest.starts_with(BLOCK_OPEN_BARE)).then_some(Mark::Block {
            at,
            len: BLOCK_OPEN_BARE.len(),
            marking: Marking::Bare,
        })
    }
}

/// What comes next in reasoning or content.
enum Mark {
    /// No tag; so many bytes are certain to be text.
    None { certain: usize },
    /// The end of the reasoning.
    ThinkEnd { at: usize },
    /// The opening tag of a block of calls.
    Block { at: usize, len: usize, marking: Marking },
}

/// Where the white space before `end` begins, no further back than the format's share of it.
fn before_white_space(text: &str, end: usize) -> usize {
    text[..end].trim_ascii_end().len().max(end.saturating_sub(WHITE_SPACE_MAX))
}

/// The end-of-turn token, where a model spelled it out.
fn without_end_of_turn(text: &str) -> &str {
    text.strip_suffix(Control::Eos.text()).unwrap_or(text)
}

fn give(events: &mut Vec<ChatEvent>, kind: fn(String) -> ChatEvent, text: &str) {
    if !text.is_empty() {
        events.push(kind(text.to_owned()));
    }
}

/// Neighbouring events of one kind are one event, so that a client gets as few as possible.
fn joined(events: Vec<ChatEvent>) -> Vec<ChatEvent> {
    let mut out: Vec<ChatEvent> = Vec::with_capacity(events.len());
    for event in events {
        match (out.last_mut(), &event) {
            (Some(ChatEvent::Reasoning(all)), ChatEvent::Reasoning(more))
            | (Some(ChatEvent::Content(all)), ChatEvent::Content(more)) => all.push_str(more),
            (
                Some(ChatEvent::ToolCallArguments { index: same, fragment: all }),
                ChatEvent::ToolCallArguments { index, fragment },
            ) if same == index => all.push_str(fragment),
            _ => out.push(event),
        }
    }
    out
}
