//! Draws answers from logits that know nothing and wish ill, and reads them as a client would.

#![allow(dead_code, reason = "the test and the example each use a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod cases;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cuvier_encoding::{
    CallChoice, CallOptions, ChatEvent, ChatParser, Completion, Ending, JsonRule, ParserOptions,
    SPELLED_TAGS, Tokenizer, Tool, ToolSchemas, json_grammar, json_or_tool_calls_grammar, tool_calls_grammar,
};
use cuvier_engine::Guide;
use cuvier_engine::guide::{
    Allowed, Answer, AnswerPlan, Grammar, Opening, Rule, Structure, Vocabulary, VocabularyParts,
};
use cuvier_engine::sampler::{Sampler, uniform};
use cuvier_types::{FinishReason, SamplingParams, TokenId};
use serde_json::{Value, json};

use cases::{Case, Choice, Json};

/// A vocabulary, to constrain and to read.
pub struct World {
    pub tokenizer: Tokenizer,
    pub vocabulary: Vocabulary,
}

impl World {
    pub fn new(tokenizer: Tokenizer) -> Self {
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
        });
        let vocabulary = vocabulary.unwrap();
        Self { tokenizer, vocabulary }
    }
}

/// A case, compiled, and what its answers are held against.
pub struct Prepared {
    pub case: Case,
    tools: Vec<Tool>,
    rule: Rule,
    arguments: BTreeMap<String, jsonschema::Validator>,
    content: Option<jsonschema::Validator>,
}

impl Prepared {
    pub fn new(world: &World, case: Case) -> Self {
        let tools: Vec<Tool> =
            case.tools.iter().map(|function| Tool { function: function.clone() }).collect();
        let mark = world.tokenizer.control().dsml;
        let choice = match case.choice {
            Choice::Auto | Choice::Never => CallChoice::Auto,
            Choice::Required => CallChoice::Required,
            Choice::Named(name) => CallChoice::Named(name),
        };
        let options = CallOptions { choice, is_parallel: case.is_parallel, mark };
        let json = case.json.as_ref().map(|json| match json {
            Json::Object => JsonRule::Object,
            Json::Schema(schema, is_strict) => JsonRule::Schema { schema, is_strict: *is_strict },
        });
        let grammar = |text: &str, structure| {
            let grammar = Grammar::new(&world.vocabulary, text, structure);
            Box::new(grammar.unwrap_or_else(|error| panic!("{}: {error}\n{text}", case.name)))
        };
        let rule = match (&json, case.choice) {
            (None, Choice::Never) => Rule::NoCalls,
            (None, Choice::Auto) => {
                Rule::Calls(grammar(&tool_calls_grammar(&tools, &options).unwrap(), Structure::Calls))
            }
            (None, _) => {
                Rule::Whole(grammar(&tool_calls_grammar(&tools, &options).unwrap(), Structure::Text))
            }
            (Some(json), Choice::Never) => {
                Rule::Whole(grammar(&json_grammar(json).unwrap(), Structure::Json))
            }
            (Some(json), _) => {
                let text = json_or_tool_calls_grammar(json, &tools, &options).unwrap();
                Rule::Whole(grammar(&text, Structure::Json))
            }
        };
        let validator =
            |schema: &Value| jsonschema::options().should_validate_formats(true).build(schema).unwrap();
        let arguments = case.tools.iter().map(|function| {
            let name = function["name"].as_str().unwrap().to_owned();
            let none = json!({ "type": "object", "additionalProperties": false });
            let schema = if function["parameters"].is_null() { &none } else { &function["parameters"] };
            (name, validator(schema))
        });
        let arguments = arguments.collect();
        let content = case.json.as_ref().map(|json| match json {
            Json::Object => validator(&json!({ "type": "object" })),
            Json::Schema(schema, _) => validator(schema),
        });
        Self { case, tools, rule, arguments, content }
    }

    fn parser(&self, is_thinking: bool) -> ChatParser {
        let sees_tools = !self.tools.is_empty() && self.case.choice != Choice::Never;
        let tools = sees_tools.then(|| ToolSchemas::new(&self.tools));
        ChatParser::new(ParserOptions::new(is_thinking, tools))
    }
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Calls,
    Json,
    Text,
    /// It was cut, and nothing in it can be executed that should not be.
    Cut,
}

/// One answer.
pub struct Drawn {
    pub verdict: Result<Verdict, String>,
    pub text: String,
    pub n_tokens: usize,
    /// What some of the masks took where a grammar governs.
    pub masks: Vec<Duration>,
}

/// Numbers from a seed.
pub struct Dice {
    seed: u64,
    n: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { seed, n: 0 }
    }

    pub fn real(&mut self) -> f64 {
        self.n += 1;
        uniform(self.seed, self.n)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.real() * n as f64) as usize
    }
}

/// What the logits like, on top of noise.
const LIKED: [&[&str]; 9] = [
    &[],
    &["</", "<", "\n</", "\n\n", "\n", "\">", ">", "｜DSML｜", "tool_calls", "invoke", "parameter"],
    &["\"", "\\", "'", "\",", "\"}", "\":", "}"],
    &["[", "{", "[[", "{\"", "]", "}"],
    &[" ", "\n", "\t", "  ", "\n\n", "0", "1", "9"],
    &[
        "<｜end▁of▁sentence｜>",
        "</think>",
        "<think>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<｜begin▁of▁sentence｜>",
    ],
    &["}", "]", "\"", "</", "｜DSML｜", "<｜end▁of▁sentence｜>", ">"],
    &["D", "S", "M", "L", "DSML", "｜", "tool", "_calls", "<", "/", ">"],
    &["<", "\n\n", "｜DSML｜", "</think>"],
];

/// Texts that a hostile answer tries to spell, token by token.
const SPELLED: [&str; 6] = [
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
    "</DSML｜parameter></DSML｜invoke></DSML｜tool_calls>",
    "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"x\">\n",
    "\n<tool_calls>\n<invoke name=\"x\">",
    "</think>\n\n<DSML｜tool_calls>\n",
    "\" string=\"true\">",
];

/// Draws answer number `seed` of a case.
pub fn draw(world: &World, prepared: &Prepared, seed: u64) -> Drawn {
    let mut dice = Dice::new(seed);
    let is_thinking = dice.below(2) == 0;
    let tokens_max = if dice.below(4) == 0 { 1 + dice.below(60) } else { 400 };
    let is_greedy = dice.below(3) == 0;
    let sampling =
        SamplingParams { seed, temperature: if is_greedy { 0.0 } else { 1.0 }, ..Default::default() };
    let plan = AnswerPlan {
        opening: if is_thinking { Opening::Reasoning } else { Opening::Content },
        rule: prepared.rule.clone(),
        thinking_max: Some(dice.below(20)),
        tokens_max: Some(tokens_max),
        reserve: 8,
    };
    let mut guide = Answer::new(&world.vocabulary, plan);
    let mut sampler = Sampler::new(sampling, &[]);
    let mut parser = prepared.parser(is_thinking);
    let mut logits = Hostile::new(world, dice);
    let mut completion = Completion::default();
    let mut out = Drawn { verdict: Ok(Verdict::Cut), text: String::new(), n_tokens: 0, masks: Vec::new() };
    let mut ids = Vec::new();
    let mut reason = FinishReason::Length;
    let mut add = |events: Vec<ChatEvent>| events.iter().for_each(|event| completion.add(event));
    while ids.len() < tokens_max {
        let row = logits.row();
        let start = Instant::now();
        if ids.len() % 8 == 0 {
            let allowed = guide.allowed();
            if matches!(allowed, Ok(Allowed::Only(_))) {
                out.masks.push(start.elapsed());
            }
        }
        match sampler.draw_guided(&row, Some(&mut guide)) {
            Ok(drawn) => {
                ids.push(drawn.token);
                logits.note(drawn.token);
                if drawn.token == world.tokenizer.control().eos {
                    reason = FinishReason::Stop;
                    break;
                }
                add(parser.push_token(&world.tokenizer, drawn.token));
            }
            Err(error) => {
                out.verdict = Err(error.to_string());
                break;
            }
        }
    }
    add(parser.finish(reason));
    out.n_tokens = ids.len();
    out.text = world.tokenizer.decode(&ids);
    if out.verdict.is_ok() {
        out.verdict = judge(prepared, &completion, reason, &out.text);
    }
    out
}

fn judge(
    prepared: &Prepared,
    completion: &Completion,
    reason: FinishReason,
    text: &str,
) -> Result<Verdict, String> {
    for call in &completion.tool_calls {
        let name = &call.name;
        let validator = prepared.arguments.get(name).ok_or(format!("no tool `{name}`"))?;
        let arguments: Value =
            serde_json::from_str(&call.arguments).map_err(|error| format!("{error}: {}", call.arguments))?;
        validator.validate(&arguments).map_err(|error| format!("{name}: {error}: {}", call.arguments))?;
        if matches!(prepared.case.choice, Choice::Named(wanted) if wanted != name) {
            return Err(format!("`{name}` was not asked for"));
        }
    }
    let n_calls = completion.tool_calls.len();
    let is_one = !prepared.case.is_parallel || matches!(prepared.case.choice, Choice::Named(_));
    match prepared.case.choice {
        Choice::Never if n_calls > 0 => return Err("a call that was not allowed".to_owned()),
        _ if is_one && n_calls > 1 => return Err(format!("{n_calls} calls")),
        _ => {}
    }
    if reason == FinishReason::Length {
        return Ok(Verdict::Cut);
    }
    if n_calls > 0 {
        return if completion.ending == Some(Ending::ToolCalls) {
            Ok(Verdict::Calls)
        } else {
            Err("calls, and not the ending of calls".to_owned())
        };
    }
    if text.contains("<｜DSML｜tool_calls>\n") && prepared.case.choice != Choice::Never {
        return Err("a block without calls".to_owned());
    }
    if let Some(validator) = &prepared.content {
        let value: Value = serde_json::from_str(&completion.content).map_err(|error| error.to_string())?;
        return validator.validate(&value).map(|()| Verdict::Json).map_err(|error| error.to_string());
    }
    match prepared.case.choice {
        Choice::Required | Choice::Named(_) => Err("no call".to_owned()),
        Choice::Auto | Choice::Never => Ok(Verdict::Text),
    }
}

/// Logits: noise, and a liking that changes from token to token.
struct Hostile<'a> {
    world: &'a World,
    dice: Dice,
    liked: Vec<Vec<TokenId>>,
    /// How often each liking is felt.
    weights: Vec<f64>,
    spelled: Vec<TokenId>,
}

impl<'a> Hostile<'a> {
    fn new(world: &'a World, mut dice: Dice) -> Self {
        let ids = |texts: &&[&str]| {
            texts.iter().flat_map(|text| world.tokenizer.encode_with_control(text)).collect()
        };
        let liked: Vec<Vec<TokenId>> = LIKED.iter().map(ids).collect();
        let weights = (0..liked.len()).map(|_| dice.real().powi(3)).collect();
        Self { world, dice, liked, weights, spelled: Vec::new() }
    }

    fn row(&mut self) -> Vec<f32> {
        let noise_seed = (self.dice.real() * 1e15) as u64;
        let n = self.world.tokenizer.vocab_size();
        let mut row: Vec<f32> = (0..n).map(|i| uniform(noise_seed, i as u64) as f32 * 4.0).collect();
        let total: f64 = self.weights.iter().sum();
        let mut at = self.dice.real() * total;
        let kind = self.weights.iter().position(|weight| {
            at -= weight;
            at < 0.0
        });
        for token in &self.liked[kind.unwrap_or(0)] {
            row[token.0 as usize] += 6.0 * self.dice.real() as f32;
        }
        if self.spelled.is_empty() && self.dice.below(12) == 0 {
            let text = SPELLED[self.dice.below(SPELLED.len())];
            self.spelled = self.world.tokenizer.encode_text(text);
            self.spelled.reverse();
        }
        if let Some(next) = self.spelled.last() {
            row[next.0 as usize] += 20.0;
        }
        row
    }

    fn note(&mut self, token: TokenId) {
        if self.spelled.last() == Some(&token) {
            self.spelled.pop();
        } else {
            self.spelled.clear();
        }
    }
}
