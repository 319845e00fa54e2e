//! Writing Lark: rules, and literals that hold whatever a client sends.

use std::fmt::Write;

use cuvier_types::TokenId;

/// Texts that the parser would read as tags if tokens other than the mark spelled them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpelledTags {
    /// In the reasoning.
    pub reasoning: &'static [&'static str],
    /// In what is said; the text begins as after a line's end.
    pub content: &'static [&'static str],
    /// In what a grammar governs.
    pub grammar: &'static [&'static str],
    /// Not forbidden: what the header of a parameter ends with whose value is JSON.
    pub json_header: &'static str,
}

/// The mark without its first bar is in every tag that the parser knows, but for the block's bare one, which counts
/// at the start of a line.
pub const SPELLED_TAGS: SpelledTags = SpelledTags {
    reasoning: &[MARK_END, "</think>"],
    content: &[MARK_END, "\n<tool_calls>"],
    grammar: &[MARK_END],
    json_header: "string=\"false\">",
};

/// What is left of the mark where a model loses its first bar.
pub(super) const MARK_END: &str = "DSML｜";

/// The rules of a grammar, in the order they were written.
#[derive(Debug, Default)]
pub(super) struct Rules {
    text: String,
}

impl Rules {
    /// Adds `name: body` and gives the name back, to be referred to. Names are made here, never by clients; those in
    /// capitals are terminals.
    pub(super) fn rule(&mut self, name: &str, body: &str) -> String {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{name}: {body}");
        name.to_owned()
    }

    pub(super) fn into_text(self, start: &str) -> String {
        format!("start: {start}\n{}", self.text)
    }
}

/// A literal of exactly this text. The language has JSON's escapes, and refuses control characters.
pub(super) fn literal(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A regular expression between slashes.
pub(super) fn regex(expression: &str) -> String {
    let mut out = String::from("/");
    let mut is_escaped = false;
    for c in expression.chars() {
        match c {
            '/' if !is_escaped => out.push_str("\\/"),
            '\n' => out.push_str(if is_escaped { "n" } else { "\\n" }),
            '\r' => out.push_str(if is_escaped { "r" } else { "\\r" }),
            c => out.push(c),
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    out.push('/');
    out
}

/// A control token.
pub(super) fn token(id: TokenId) -> String {
    format!("<[{}]>", id.0)
}
