//! The block of tool calls, read tag by tag while it is written.

use super::schemas::ToolSchemas;
use super::tags::{Marking, Scan, Tag, closing_tag, may_be_end_of_turn, tag};
use super::value::{OpenValue, as_object, field, json_string};
use super::{ChatEvent, Ending};
use crate::control::Control;
use crate::python_json::escape_into;

/// A forgotten closing tag leaves a few others behind. More of them than this are text.
const TAIL_BYTES_MAX: usize = 256;

/// Parameters within parameters beyond this depth are text.
const NESTED_MAX: usize = 32;

/// A block that was opened.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    marking: Marking,
    /// Text not yet understood.
    pending: String,
    /// The whole block so far, to be shown as it is if no call comes of it. Empty once one did.
    raw: String,
    call: Option<OpenCall>,
    n_started: usize,
    n_ended: usize,
    is_closed: bool,
}

/// A call whose closing tag has not come.
#[derive(Clone, Debug)]
struct OpenCall {
    index: usize,
    name: String,
    /// Parameters given out.
    n_given: usize,
    /// Text between the tags; the arguments themselves, if a model wrote them as a JSON object.
    body: String,
    /// A first parameter that may turn out to be a wrapper around all arguments.
    wrapper: Option<(String, String, String)>,
    /// The parameter being read, and those it stands in, outermost first.
    values: Vec<OpenValue>,
    /// The outermost value is given out piece by piece.
    streams: bool,
}

impl Calls {
    /// `raw` is the opening tag with the white space before it.
    pub(super) fn new(raw: &str, marking: Marking) -> Self {
        Self {
            marking,
            pending: String::new(),
            raw: raw.to_owned(),
            call: None,
            n_started: 0,
            n_ended: 0,
            is_closed: false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(super) fn n_ended(&self) -> usize {
        self.n_ended
    }

    pub(super) fn push(&mut self, text: &str, schemas: &ToolSchemas, events: &mut Vec<ChatEvent>) {
        self.pending.push_str(text);
        if self.n_ended == 0 {
            self.raw.push_str(text);
        }
        while !self.is_closed {
            let goes_on = match &self.call {
                Some(call) if !call.values.is_empty() => self.read_value(schemas, events),
                _ => self.read_tag(schemas, events),
            };
            if !goes_on {
                return;
            }
        }
        self.show_raw_if_nothing_came(events);
    }

    /// The text has ended without the block's closing tag.
    pub(super) fn finish(&mut self, ending: Ending, schemas: &ToolSchemas, events: &mut Vec<ChatEvent>) {
        if self.is_closed {
            return;
        }
        self.is_closed = true;
        if let Some(call) = &mut self.call {
            // What waits in `pending` is the rest of a tag at most, which a model that stopped meant as a whole.
            let is_cut = match call.values.last() {
                Some(_) => true,
                // Another parameter might have come, and the tool might need it: only the end of the call, begun, says
                // that none does. Arguments written as one JSON object say it themselves.
                None => !self.pending.starts_with("</") && as_object(&call.body).is_none(),
            };
            if ending != Ending::Stop && is_cut {
                // Half of a command must never look like a whole one.
                events.push(ChatEvent::ToolCallDropped { index: call.index });
                self.call = None;
            } else {
                while call.close_value(schemas, events) {}
                self.end_call(events);
            }
        }
        self.show_raw_if_nothing_came(events);
    }

    fn show_raw_if_nothing_came(&mut self, events: &mut Vec<ChatEvent>) {
        if self.n_ended == 0 {
            let raw = std::mem::take(&mut self.raw);
            let raw = raw.strip_suffix(Control::Eos.text()).unwrap_or(&raw);
            events.push(ChatEvent::Content(raw.to_owned()));
        }
    }

    /// Between the parameters of a call, or between calls. False when more text is needed.
    fn read_tag(&mut self, schemas: &ToolSchemas, events: &mut Vec<ChatEvent>) -> bool {
        let mut from = 0;
        let (body_end, found) = loop {
            let Some(at) = self.pending[from..].find('<').map(|at| from + at) else {
                break (self.pending.len(), None);
            };
            match tag(&self.pending[at..], self.marking) {
                Scan::Whole(tag, len) => break (at, Some((tag, len))),
                Scan::Partial => break (at, None),
                Scan::No => from = at + 1,
            }
        };
        if let Some(call) = &mut self.call {
            call.body.push_str(&self.pending[..body_end]);
        }
        let goes_on = found.is_some();
        let tag_len = found.as_ref().map_or(0, |&(_, len)| len);
        self.pending.drain(..body_end + tag_len);
        match found.map(|(tag, _)| tag) {
            Some(Tag::InvokeOpen { name }) => {
                self.end_call(events);
                self.start_call(name, events);
            }
            Some(Tag::InvokeClose) => self.end_call(events),
            Some(Tag::CallsClose) => {
                self.end_call(events);
                self.raw.truncate(self.raw.len().saturating_sub(self.pending.len()));
                self.is_closed = true;
            }
            Some(Tag::ParameterOpen { key, is_string }) => {
                if let Some(call) = &mut self.call {
                    call.open_value(key, is_string, schemas, events);
                }
            }
            Some(Tag::ParameterClose) | None => {}
        }
        goes_on
    }

    /// Inside a parameter. False when more text is needed.
    fn read_value(&mut self, schemas: &ToolSchemas, events: &mut Vec<ChatEvent>) -> bool {
        let Some(call) = &mut self.call else { return false };
        let depth = call.values.len();
        let Some(value) = call.values.last_mut() else { return false };
        if depth < NESTED_MAX && value.may_nest() {
            let blank = self.pending.len() - self.pending.trim_ascii_start().len();
            match tag(&self.pending[blank..], self.marking) {
                Scan::Whole(Tag::ParameterOpen { key, is_string }, len) => {
                    value.fields.get_or_insert_default();
                    call.values.push(OpenValue::new(key, is_string));
                    self.pending.drain(..blank + len);
                    return true;
                }
                Scan::Partial => return false,
                Scan::Whole(..) | Scan::No => {}
            }
        }
        let (text_end, close_len) = value_end(&self.pending, self.marking);
        call.read_text(&self.pending[..text_end], events);
        self.pending.drain(..text_end + close_len.unwrap_or(0));
        if close_len.is_some() {
            call.close_value(schemas, events);
        }
        close_len.is_some()
    }

    fn start_call(&mut self, name: String, events: &mut Vec<ChatEvent>) {
        let index = self.n_started;
        self.n_started += 1;
        events.push(ChatEvent::ToolCallStart { index, name: name.clone() });
        self.call = Some(OpenCall {
            index,
            name,
            n_given: 0,
            body: String::new(),
            wrapper: None,
            values: Vec::new(),
            streams: false,
        });
    }

    fn end_call(&mut self, events: &mut Vec<ChatEvent>) {
        if let Some(call) = self.call.take() {
            call.end(events);
            self.n_ended += 1;
            self.raw = String::new();
        }
    }
}

impl OpenCall {
    fn open_value(
        &mut self,
        key: String,
        is_string: Option<bool>,
        schemas: &ToolSchemas,
        events: &mut Vec<ChatEvent>,
    ) {
        self.give_wrapper(events);
        let must_be_read_whole = schemas.types(&self.name, &key).is_some_and(|types| !types.allow_string());
        self.streams = is_string == Some(true) && !must_be_read_whole && !self.may_be_wrapper(&key, schemas);
        if self.streams {
            let opening = format!("{}{}: \"", self.separator(), json_string(&key));
            self.n_given += 1;
            self.give(opening, events);
        }
        self.values.push(OpenValue::new(key, is_string));
    }

    fn read_text(&mut self, text: &str, events: &mut Vec<ChatEvent>) {
        if text.is_empty() {
            return;
        }
        if self.streams {
            let mut escaped = String::new();
            escape_into(&mut escaped, text);
            self.give(escaped, events);
        } else if let Some(value) = self.values.last_mut() {
            value.text.push_str(text);
        }
    }

    /// Closes the innermost value. False if none is open.
    fn close_value(&mut self, schemas: &ToolSchemas, events: &mut Vec<ChatEvent>) -> bool {
        let Some(value) = self.values.pop() else { return false };
        if self.streams {
            self.streams = false;
            self.give("\"".to_owned(), events);
            return true;
        }
        let key = value.key.clone();
        if let Some(outer) = self.values.last_mut() {
            let json = value.into_json(None);
            outer.fields.get_or_insert_default().push(field(&key, &json));
            return true;
        }
        let text = value.text.clone();
        let json = value.into_json(schemas.types(&self.name, &key));
        if self.may_be_wrapper(&key, schemas) {
            self.wrapper = Some((key, json, text));
        } else {
            self.give_parameter(&key, &json, events);
        }
        true
    }

    /// A model may put all arguments into one parameter, which the function does not have.
    fn may_be_wrapper(&self, key: &str, schemas: &ToolSchemas) -> bool {
        self.n_given == 0 && matches!(key, "arguments" | "input") && schemas.lacks(&self.name, key)
    }

    fn end(mut self, events: &mut Vec<ChatEvent>) {
        let wrapped =
            self.wrapper.as_ref().and_then(|(_, json, text)| as_object(text).or_else(|| as_object(json)));
        if let Some(arguments) = wrapped.map(str::to_owned) {
            self.give(arguments, events);
        } else {
            self.give_wrapper(events);
            let body = self.body.trim_ascii();
            if self.n_given > 0 {
                self.give("}".to_owned(), events);
            } else if let Some(arguments) = as_object(body).map(str::to_owned) {
                self.give(arguments, events);
            } else if body.starts_with('{') {
                let arguments = format!("{{{}}}", field("arguments", &json_string(body)));
                self.give(arguments, events);
            } else {
                self.give("{}".to_owned(), events);
            }
        }
        events.push(ChatEvent::ToolCallEnd { index: self.index });
    }

    fn give_wrapper(&mut self, events: &mut Vec<ChatEvent>) {
        if let Some((key, json, _)) = self.wrapper.take() {
            self.give_parameter(&key, &json, events);
        }
    }

    fn give_parameter(&mut self, key: &str, json: &str, events: &mut Vec<ChatEvent>) {
        let fragment = format!("{}{}", self.separator(), field(key, json));
        self.n_given += 1;
        self.give(fragment, events);
    }

    fn separator(&self) -> &'static str {
        if self.n_given == 0 { "{" } else { ", " }
    }

    fn give(&self, fragment: String, events: &mut Vec<ChatEvent>) {
        events.push(ChatEvent::ToolCallArguments { index: self.index, fragment });
    }
}

/// How much of `text` is certainly the value's, and the length of the closing tag behind it if it is there.
///
/// Closing tags of the call or the block, and the text of the end-of-turn token, belong to the value only if more
/// of it follows: at the end of a text they are what remains of a forgotten closing tag.
fn value_end(text: &str, marking: Marking) -> (usize, Option<usize>) {
    let mut from = 0;
    let mut tail: Option<usize> = None;
    while let Some(at) = text[from..].find('<').map(|at| from + at) {
        tail = tail.filter(|tail| at - tail <= TAIL_BYTES_MAX && text[from..at].trim_ascii().is_empty());
        match closing_tag(&text[at..], marking) {
            // What looked like a tail was followed by the real end.
            Scan::Whole(Tag::ParameterClose, len) => return (at, Some(len)),
            Scan::Whole(_, len) => {
                from = at + len;
                tail = tail.or(Some(at)).filter(|tail| from - tail <= TAIL_BYTES_MAX);
            }
            Scan::Partial => return (tail.unwrap_or(at), None),
            Scan::No if may_be_end_of_turn(&text[at..]) => return (tail.unwrap_or(at), None),
            Scan::No => {
                tail = None;
                from = at + 1;
            }
        }
    }
    tail = tail.filter(|tail| text.len() - tail <= TAIL_BYTES_MAX && text[from..].trim_ascii().is_empty());
    (tail.unwrap_or(text.len()), None)
}
