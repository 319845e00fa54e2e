//! Text grammars of what an answer may be: blocks of calls of the tools that were sent, and JSON.
//!
//! Pure functions from schemas to a text in llguidance's variant of Lark. Whatever a grammar lets through,
//! [`ChatParser`](crate::ChatParser) reads to calls whose arguments fit the schemas; `constrained` in the engine's
//! tests holds that.
//!
//! The mark `｜DSML｜` is a control token in every tag. It is named by id, so no text can stand for it, and the texts
//! of [`SPELLED_TAGS`] must be kept from coming about by other tokens: the parser reads text.
//!
//! Source of the language: `docs/syntax.md` and `docs/parametric.md` of llguidance 1.9.1; of the schema keywords,
//! `json/schema.rs` there.

mod calls;
mod closed;
mod json;
mod lark;
mod pattern;
mod schema;
#[cfg(test)]
mod tests;
mod value;

use cuvier_types::TokenId;
use serde_json::Value;

use crate::conversation::Tool;
use lark::Rules;
pub use lark::{SPELLED_TAGS, SpelledTags};

/// Which calls an answer may or must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallChoice<'a> {
    /// Any number; the grammar begins where the answer has shown, by `<｜DSML｜`, that there are some.
    Auto,
    /// At least one; the grammar begins with the answer.
    Required,
    /// One, of this tool; the grammar begins with the answer.
    Named(&'a str),
}

/// How a block of calls may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallOptions<'a> {
    /// Which calls.
    pub choice: CallChoice<'a>,
    /// More than one call in a block.
    pub is_parallel: bool,
    /// The id of `｜DSML｜`.
    pub mark: TokenId,
}

/// What JSON an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum JsonRule<'a> {
    /// Any object.
    Object,
    /// A value that fits this schema.
    Schema {
        /// The schema.
        schema: &'a Value,
        /// Refuse what cannot be enforced; otherwise it is left out.
        is_strict: bool,
    },
}

/// Why no grammar can be written: the request is at fault. Places are paths from the list of tools or from the
/// schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarTextError {
    /// Calls are demanded, and there is nothing to call.
    #[error("a call is required, but no tools were sent")]
    NoTools,
    /// The tool to be called was not sent.
    #[error("there is no tool named `{name}`")]
    UnknownTool {
        /// Its name.
        name: String,
    },
    /// A keyword that cannot be enforced.
    #[error("{place}: `{keyword}` cannot be enforced; remove it, or set `strict` to false")]
    Keyword {
        /// Where.
        place: String,
        /// Which.
        keyword: String,
    },
    /// A keyword has a value that it cannot have.
    #[error("{place}: {message}")]
    Schema {
        /// Where.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// A name or a fixed value that cannot be written between tags, or would be read differently.
    #[error("{place}: `{text}` cannot be written in a tool call")]
    Unwritable {
        /// Where.
        place: String,
        /// The text.
        text: String,
    },
}

/// The grammar of a block of calls.
///
/// A strict tool gets its parameters in the order of the schema, each with what the schema says of it. Any other
/// tool gets them in any order, and what the schema says as far as it can be enforced. No parameter comes twice, and
/// no required one is left out.
///
/// # Errors
/// If a strict schema cannot be enforced, a name cannot be written, or the choice is not among the tools.
pub fn tool_calls_grammar(tools: &[Tool], options: &CallOptions<'_>) -> Result<String, GrammarTextError> {
    let mut rules = Rules::default();
    let block = calls::block(&mut rules, tools, options)?;
    let start = match options.choice {
        CallChoice::Auto => block,
        CallChoice::Required | CallChoice::Named(_) => calls::opened(options.mark, &block),
    };
    Ok(rules.into_text(&start))
}

/// The grammar of an answer that is JSON. White space between its parts is bounded: one line's end, twenty blanks.
///
/// # Errors
/// If a strict schema cannot be enforced.
pub fn json_grammar(rule: &JsonRule<'_>) -> Result<String, GrammarTextError> {
    Ok(Rules::default().into_text(&json::answer(rule, json::Layout::Free)?))
}

/// The grammar of an answer that is JSON or a block of calls. It begins with the answer, whatever the choice says.
///
/// # Errors
/// As the two above.
pub fn json_or_tool_calls_grammar(
    rule: &JsonRule<'_>,
    tools: &[Tool],
    options: &CallOptions<'_>,
) -> Result<String, GrammarTextError> {
    let mut rules = Rules::default();
    let block = calls::block(&mut rules, tools, options)?;
    let json = json::answer(rule, json::Layout::Line)?;
    let block = rules.rule("block", &calls::opened(options.mark, &block));
    let json = rules.rule("json", &json);
    Ok(rules.into_text(&format!("{json} | {block}")))
}
