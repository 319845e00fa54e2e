//! `encoding`: conversation <-> prompt text <-> token ids.
//!
//! Door: [`encode_conversation`] turns messages into a [`Prompt`], [`Tokenizer::encode_prompt`] a prompt into token
//! ids; on the way back [`ChatParser`] turns sampled tokens into reasoning, content and tool calls.
//!
//! **Invariant:** what a user writes is never a control token. A prompt keeps control and text apart until both
//! are ids.
//! **Invariant:** the prompt is a function of the conversation alone: no clock, no random number.
//! **Invariant:** the parser gives the same answer however the stream is cut, and the arguments of a finished tool
//! call are always JSON.
//! **Absent on purpose:** templates. The format is code, because its rules look across messages.

#![forbid(unsafe_code)]

mod control;
mod conversation;
mod grammar;
mod parser;
mod prompt;
mod python_json;
mod stop;
mod synthetic;
mod tokenizer;

pub use control::{Control, ControlIds, Task};
pub use conversation::{
    Arguments, Content, Conversation, ConversationError, Generation, Message, Part, Place, PromptOptions,
    Role, Sampled, SampledText, Thinking, Tool, ToolCall, UnknownEffort, UnknownGeneration,
    encode_conversation, json_kind,
};
pub use grammar::{
    CallChoice, CallOptions, GrammarTextError, JsonRule, SPELLED_TAGS, SpelledTags, json_grammar,
    json_or_tool_calls_grammar, tool_calls_grammar,
};
pub use parser::{
    ChatEvent, ChatParser, Completion, DsmlInReasoning, Ending, ParsedCall, ParserOptions, Section,
    ToolSchemas, parse_completion,
};
pub use prompt::{Prompt, Segment};
pub use python_json::to_python_json;
pub use stop::{Shown, StopStrings};
pub use synthetic::{SyntheticError, synthetic_tokenizer_json};
pub use tokenizer::{MissingToken, TextStream, Tokenizer, TokenizerError};
