//! What an answer is held to while it is drawn: tools, JSON, and a share of its tokens for what follows the reasoning.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use cuvier_encoding::{
    CallChoice, CallOptions, GrammarTextError, JsonRule, SPELLED_TAGS, Tokenizer, json_grammar,
    json_or_tool_calls_grammar, tool_calls_grammar,
};
use cuvier_engine::Guide;
use cuvier_engine::guide::{
    Answer, AnswerPlan, Grammar, Opening, Rule, Structure, Vocabulary, VocabularyError, VocabularyParts,
};

use cuvier_types::TokenId;

use crate::ApiError;
use crate::ask::{Chat, Format, ToolChoice};

/// Of the tokens of an answer, one in so many is kept from the reasoning ...
const RESERVE_SHARE: usize = 4;
/// ... and of one that must be a call or JSON, which is worth nothing when it is cut, one in so many ...
const RESERVE_SHARE_DEMANDED: usize = 2;
/// ... but no more than so many.
const RESERVE_MAX: usize = 4096;
/// Compiled grammars kept: an agent sends the same tools with every request.
const GRAMMARS_MAX: usize = 32;

/// The vocabulary as grammars need it, and the grammars compiled of late.
pub(crate) struct Constraints {
    vocabulary: Vocabulary,
    /// The token in every tag of a call.
    mark: TokenId,
    compiled: Mutex<Compiled>,
}

#[derive(Default)]
struct Compiled {
    grammars: HashMap<String, Grammar>,
    oldest_first: VecDeque<String>,
}

impl Constraints {
    /// # Errors
    /// If the vocabulary contradicts itself.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, VocabularyError> {
        let control = tokenizer.control();
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let vocabulary = Vocabulary::new(VocabularyParts {
            tokens: tokenizer.token_table(),
            control: tokenizer.added_tokens(),
            end: control.eos,
            reasoning_start: control.think_start,
            reasoning_end: control.think_end,
            mark: control.dsml,
            json_header: SPELLED_TAGS.json_header.to_owned(),
            not_in_reasoning: owned(SPELLED_TAGS.reasoning),
            not_in_content: owned(SPELLED_TAGS.content),
            not_in_grammar: owned(SPELLED_TAGS.grammar),
        })?;
        Ok(Self { vocabulary, mark: control.dsml, compiled: Mutex::default() })
    }

    /// What the answer to `chat` is held to, of at most `tokens_max` tokens. `None`: nothing.
    ///
    /// # Errors
    /// If a tool or schema is strict and cannot be enforced, or is too large to be.
    pub(crate) fn guide(
        &self,
        chat: &Chat,
        opens_thinking: bool,
        tokens_max: usize,
    ) -> Result<Option<Box<dyn Guide>>, ApiError> {
        let rule = self.rule(chat)?;
        let thinking_max = chat.applied.budget;
        if matches!(rule, Rule::Free) && !opens_thinking {
            return Ok(None);
        }
        let share = if matches!(rule, Rule::Whole(_)) { RESERVE_SHARE_DEMANDED } else { RESERVE_SHARE };
        let plan = AnswerPlan {
            opening: if opens_thinking { Opening::Reasoning } else { Opening::Content },
            rule,
            thinking_max,
            tokens_max: Some(tokens_max),
            reserve: (tokens_max / share).min(RESERVE_MAX),
        };
        Ok(Some(Box::new(Answer::new(&self.vocabulary, plan))))
    }

    fn rule(&self, chat: &Chat) -> Result<Rule, ApiError> {
        let json = match &chat.format {
            Format::Text => None,
            Format::JsonObject => Some(JsonRule::Object),
            Format::JsonSchema { schema, strict } => Some(JsonRule::Schema { schema, is_strict: *strict }),
        };
        let choice = match &chat.tool_choice {
            _ if chat.tools.is_empty() => None,
            ToolChoice::None => None,
            ToolChoice::Auto => Some(CallChoice::Auto),
            ToolChoice::Required => Some(CallChoice::Required),
            ToolChoice::Named(name) => Some(CallChoice::Named(name)),
        };
        let options = |choice| CallOptions { choice, is_parallel: chat.parallel, mark: self.mark };
        let tools = &chat.tools;
        let grammar = |text: Result<String, GrammarTextError>, structure| {
            let text = text.map_err(|error| refuse(chat, error.to_string()))?;
            self.compile(text, structure).map_err(|message| refuse(chat, message)).map(Box::new)
        };
        Ok(match (json, choice) {
            (None, None) if tools.is_empty() => Rule::Free,
            (None, None) => Rule::NoCalls,
            (None, Some(choice @ CallChoice::Auto)) => {
                match grammar(tool_calls_grammar(tools, &options(choice)), Structure::Calls) {
                    Ok(grammar) => Rule::Calls(grammar),
                    // Nobody demanded that calls fit: they are read as they come.
                    Err(error) if !tools.iter().any(|tool| tool.function["strict"] == true) => {
                        tracing::warn!("calls are not held to their schemas: {error}");
                        Rule::Free
                    }
                    Err(error) => return Err(error),
                }
            }
            (None, Some(choice)) => {
                Rule::Whole(grammar(tool_calls_grammar(tools, &options(choice)), Structure::Text)?)
            }
            (Some(json), None) => Rule::Whole(grammar(json_grammar(&json), Structure::Json)?),
            (Some(json), Some(CallChoice::Auto)) => {
                let text = json_or_tool_calls_grammar(&json, tools, &options(CallChoice::Auto));
                Rule::Whole(grammar(text, Structure::Json)?)
            }
            // A call is demanded, so there will be no content to be JSON.
            (Some(_), Some(choice)) => {
                Rule::Whole(grammar(tool_calls_grammar(tools, &options(choice)), Structure::Text)?)
            }
        })
    }

    fn compile(&self, text: String, structure: Structure) -> Result<Grammar, String> {
        let key = format!("{structure:?}\n{text}");
        if let Some(known) = self.compiled().grammars.get(&key) {
            return Ok(known.clone());
        }
        let grammar = Grammar::new(&self.vocabulary, &text, structure).map_err(|error| error.to_string())?;
        self.compiled().keep(key, grammar.clone());
        Ok(grammar)
    }

    fn compiled(&self) -> std::sync::MutexGuard<'_, Compiled> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Compiled {
    fn keep(&mut self, key: String, grammar: Grammar) {
        if self.grammars.insert(key.clone(), grammar).is_none() {
            self.oldest_first.push_back(key);
        }
        if self.oldest_first.len() > GRAMMARS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.grammars.remove(&oldest);
        }
    }
}

/// Which field is at fault.
fn refuse(chat: &Chat, message: String) -> ApiError {
    let param = if chat.tools.is_empty() { "response_format" } else { "tools" };
    ApiError::Invalid { message, param: Some(param.to_owned()) }
}
