//! A prompt: control tokens and text, kept apart until they are token ids.

use crate::control::Control;
use crate::conversation::SampledText;

/// What the model reads, in order.
///
/// Kept as segments and not as one string, because a string cannot tell a control token from a user who typed
/// its name. Neighbouring texts are one segment: split rules look across a boundary that a reader cannot see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    segments: Vec<Segment>,
}

/// One part of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// One control token.
    Control(Control),
    /// Plain text, never empty, never beside another text.
    Text(String),
    /// What the model drew, token by token.
    Sampled(SampledText),
}

impl Prompt {
    /// An empty prompt.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Text to be continued as it stands.
    #[must_use]
    pub fn continuation(text: &str) -> Self {
        let mut prompt = Self::new();
        prompt.push_control(Control::Bos);
        prompt.push_text(text);
        prompt
    }

    /// Text with a hole to be filled.
    ///
    /// Source: the order that DeepSeek's code models document: begin, prefix, hole, suffix, end. V4's tokenizer
    /// has the three tokens; its release does not describe their use.
    #[must_use]
    pub fn fill_in_middle(prefix: &str, suffix: &str) -> Self {
        let mut prompt = Self::new();
        prompt.push_control(Control::Bos);
        prompt.push_control(Control::FimBegin);
        prompt.push_text(prefix);
        prompt.push_control(Control::FimHole);
        prompt.push_text(suffix);
        prompt.push_control(Control::FimEnd);
        prompt
    }

    /// Appends a control token.
    pub fn push_control(&mut self, control: Control) {
        self.segments.push(Segment::Control(control));
    }

    /// Appends text.
    pub fn push_text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.segments.last_mut() {
            Some(Segment::Text(last)) => last.push_str(text),
            _ => self.segments.push(Segment::Text(text.to_owned())),
        }
    }

    /// Appends what the model drew.
    pub(crate) fn push_sampled(&mut self, sampled: &SampledText) {
        if !sampled.tokens.is_empty() {
            self.segments.push(Segment::Sampled(sampled.clone()));
        }
    }

    /// Appends a text of the format itself: every `<think>`, `</think>` and `｜DSML｜` in it is the control token.
    pub(crate) fn push_markup(&mut self, mut text: &str) {
        const MARKS: [Control; 3] = [Control::ThinkStart, Control::ThinkEnd, Control::Dsml];
        loop {
            let first = MARKS
                .iter()
                .filter_map(|&mark| Some((text.find(mark.text())?, mark)))
                .min_by_key(|&(at, _)| at);
            let Some((at, mark)) = first else { break };
            self.push_text(&text[..at]);
            self.push_control(mark);
            text = &text[at + mark.text().len()..];
        }
        self.push_text(text);
    }

    /// The parts.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the model is about to think.
    #[must_use]
    pub fn opens_thinking(&self) -> bool {
        self.segments.last() == Some(&Segment::Control(Control::ThinkStart))
    }

    /// The prompt as one string, for people and for comparison with the official encoder.
    #[must_use]
    pub fn text(&self) -> String {
        self.segments
            .iter()
            .map(|segment| match segment {
                Segment::Control(control) => control.text(),
                Segment::Text(text) => text,
                Segment::Sampled(sampled) => &sampled.text,
            })
            .collect()
    }
}
