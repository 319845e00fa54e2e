//! A model that says what it is told to, in its own prompt: every answer is known beforehand, and so is its pace.
//!
//! A prompt that holds `SCRIPT:` is answered by the JSON behind it: a list of answers, one for each turn of the
//! assistant since, each a list of steps:
//!
//! ```text
//! {"think": "..."}     reasoning; left out where the request turned thinking off
//! {"say": "..."}       content
//! {"call": "f", "arguments": {...}}   a tool call; left out where the prompt has no tools
//! {"raw": "..."}       any text, control tokens included
//! {"hostile": n}       n tokens at the whim of a hash: what a mask must hold off
//! {"fail": "..."}      the model breaks here
//! {"token_ms": n}      from here on a token takes so long
//! {"prefill_ms": n}    every later chunk of the prompt takes so long
//! ```
//!
//! After its last answer it says `done`. Without a script it says `echo: ` and the last line of the user's.

#![allow(dead_code, reason = "each user takes a part")]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cuvier_encoding::{Control, Tokenizer, to_python_json};
use cuvier_engine::{Logits, Model, RollbackTooFar};
use cuvier_types::{Batch, LogitRows, TokenId};
use serde_json::Value;

/// The tokens that a state can take back.
const ROLLBACK_MAX: usize = 8;
const MARK: &str = "SCRIPT:";

/// The model.
pub struct Scripted {
    tokenizer: Arc<Tokenizer>,
    context_max: usize,
    /// Steps taken so far.
    pub n_steps: Arc<AtomicUsize>,
}

/// What a sequence remembers: its tokens, and what it is about to say.
pub struct State {
    tokens: Vec<TokenId>,
    rollback_max: usize,
    plan: Option<Plan>,
}

/// An answer that is known.
struct Plan {
    /// Tokens before it.
    start: usize,
    moves: Vec<Move>,
}

#[derive(Clone, Debug)]
enum Move {
    Token { token: TokenId, pause: Duration },
    Whim,
    Fail(String),
}

/// The model was told to break, or given bytes that are not its own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

/// The tokenizer of the embedded model.
pub fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(include_bytes!("../../../../models/calf/tokenizer.json"))
        .expect("the embedded model has a tokenizer")
}

impl Scripted {
    /// A model of so many tokens of context.
    pub fn new(context_max: usize) -> Self {
        Self { tokenizer: Arc::new(tokenizer()), context_max, n_steps: Arc::default() }
    }

    fn text(&self, state: &State) -> String {
        self.tokenizer.decode(&state.tokens)
    }

    /// The answer to the prompt that `state` holds.
    fn plan(&self, state: &State) -> Plan {
        let text = self.text(state);
        let mut writer = Writer {
            tokenizer: &self.tokenizer,
            moves: Vec::new(),
            pause: Duration::ZERO,
            is_thinking: text.ends_with(Control::ThinkStart.text()),
            has_tools: text.contains("### Available Tool Schemas"),
            calls: String::new(),
        };
        match answer(&text) {
            Some(Value::Array(steps)) => steps.iter().for_each(|step| writer.step(step)),
            Some(_) => writer.say("done"),
            None => writer.say(&format!("echo: {}", last_line(&text))),
        }
        Plan { start: state.tokens.len(), moves: writer.finish() }
    }

    /// The logits after `state`, and how long they took.
    fn next(&self, state: &mut State, n_new: usize) -> Result<(Vec<f32>, Duration), Broken> {
        let n = state.tokens.len();
        // A plan goes on token by token, whatever was drawn: a mask may have forbidden what it wanted.
        let goes_on = n_new == 1 && state.plan.as_ref().is_some_and(|plan| plan.start < n);
        if !goes_on {
            state.plan = Some(self.plan(state));
        }
        let plan = state.plan.as_ref().expect("it was just made");
        let eos = self.tokenizer.control().eos;
        match plan.moves.get(n - plan.start) {
            Some(Move::Token { token, pause }) => Ok((self.wish(state, Some(*token)), *pause)),
            Some(Move::Whim) => Ok((self.wish(state, None), Duration::ZERO)),
            Some(Move::Fail(message)) => Err(Broken(message.clone())),
            None => Ok((self.wish(state, Some(eos)), Duration::ZERO)),
        }
    }

    /// One token far above all others, which a hash of what was said orders.
    fn wish(&self, state: &State, token: Option<TokenId>) -> Vec<f32> {
        let hash = state.tokens.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, token| {
            (hash ^ u64::from(token.0 + 1)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
        });
        let noise = |token: u64| (hash ^ token).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let mut logits: Vec<f32> =
            (0..self.vocab_size() as u64).map(|token| noise(token) as f32 / 4e6).collect();
        if let Some(token) = token {
            logits[token.0 as usize] = 200.0;
        }
        logits
    }
}

/// The answer that a prompt scripts: `null` past the last one, `None` without a script.
fn answer(text: &str) -> Option<Value> {
    let (_, script) = text.rsplit_once(MARK)?;
    let mut values = serde_json::Deserializer::from_str(script).into_iter::<Value>();
    let answers = values.next()?.ok()?;
    let turns = script.matches(Control::Assistant.text()).count().saturating_sub(1);
    Some(answers.get(turns).cloned().unwrap_or(Value::Null))
}

/// How long a chunk takes that ends here.
fn prefill_pause(text: &str) -> Duration {
    let millis = answer(text).and_then(|answer| {
        let steps = answer.as_array()?.clone();
        steps.iter().find_map(|step| step["prefill_ms"].as_u64())
    });
    Duration::from_millis(millis.unwrap_or(0))
}

fn last_line(text: &str) -> &str {
    let user = text.rsplit(Control::User.text()).next().unwrap_or_default();
    let user = user.split(Control::Assistant.text()).next().unwrap_or_default();
    user.trim().lines().last().unwrap_or_default()
}

/// Writes steps as tokens.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    moves: Vec<Move>,
    pause: Duration,
    is_thinking: bool,
    has_tools: bool,
    /// Calls of the block that is open.
    calls: String,
}

impl Writer<'_> {
    fn step(&mut self, step: &Value) {
        let text = |key: &str| step[key].as_str();
        if let Some(name) = text("call") {
            self.call(name, &step["arguments"]);
            return;
        }
        self.close_calls();
        if let Some(thought) = text("think") {
            if self.is_thinking {
                self.tokens(&self.tokenizer.encode_text(thought));
            }
        } else if let Some(content) = text("say") {
            self.say(content);
        } else if let Some(raw) = text("raw") {
            self.tokens(&self.tokenizer.encode_with_control(raw));
        } else if let Some(n) = step["hostile"].as_u64() {
            self.close_thinking();
            self.moves.extend((0..n).map(|_| Move::Whim));
        } else if let Some(message) = text("fail") {
            self.moves.push(Move::Fail(message.to_owned()));
        } else if let Some(millis) = step["token_ms"].as_u64() {
            self.pause = Duration::from_millis(millis);
        }
    }

    fn say(&mut self, text: &str) {
        self.close_thinking();
        self.tokens(&self.tokenizer.encode_text(text));
    }

    fn call(&mut self, name: &str, arguments: &Value) {
        if !self.has_tools {
            return;
        }
        self.close_thinking();
        self.calls.push_str(&format!("<｜DSML｜invoke name=\"{name}\">\n"));
        for (name, value) in arguments.as_object().into_iter().flatten() {
            let (is_string, text) = match value {
                Value::String(text) => (true, text.clone()),
                value => (false, to_python_json(value)),
            };
            self.calls.push_str(&format!(
                "<｜DSML｜parameter name=\"{name}\" string=\"{is_string}\">{text}</｜DSML｜parameter>\n"
            ));
        }
        self.calls.push_str("</｜DSML｜invoke>\n");
    }

    fn close_calls(&mut self) {
        let calls = std::mem::take(&mut self.calls);
        if !calls.is_empty() {
            let block = format!("\n\n<｜DSML｜tool_calls>\n{calls}</｜DSML｜tool_calls>");
            self.tokens(&self.tokenizer.encode_with_control(&block));
        }
    }

    fn close_thinking(&mut self) {
        if std::mem::take(&mut self.is_thinking) {
            self.tokens(&[self.tokenizer.control().think_end]);
        }
    }

    fn tokens(&mut self, tokens: &[TokenId]) {
        let pause = self.pause;
        self.moves.extend(tokens.iter().map(|&token| Move::Token { token, pause }));
    }

    fn finish(mut self) -> Vec<Move> {
        self.close_calls();
        self.close_thinking();
        self.moves
    }
}

fn bytes(tokens: &[TokenId]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.0.to_le_bytes()).collect()
}

impl Model for Scripted {
    type State = State;
    type Error = Broken;

    fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn context_max(&self) -> usize {
        self.context_max
    }

    fn new_state(&self) -> State {
        State { tokens: Vec::new(), rollback_max: 0, plan: None }
    }

    fn fork(&self, state: &State) -> State {
        State { tokens: state.tokens.clone(), rollback_max: state.rollback_max, plan: None }
    }

    fn position(state: &State) -> usize {
        state.tokens.len()
    }

    fn rollback(&self, state: &mut State, tokens: usize) -> Result<(), RollbackTooFar> {
        if tokens > state.rollback_max {
            return Err(RollbackTooFar { asked: tokens, max: state.rollback_max });
        }
        state.tokens.truncate(state.tokens.len() - tokens);
        state.rollback_max -= tokens;
        state.plan = None;
        Ok(())
    }

    fn save(&self, state: &State) -> Vec<u8> {
        bytes(&state.tokens)
    }

    fn restore(&self, bytes: &[u8]) -> Result<State, Broken> {
        let (words, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(Broken("not a state of this model".to_owned()));
        }
        let tokens = words.iter().map(|&word| TokenId(u32::from_le_bytes(word))).collect();
        Ok(State { tokens, rollback_max: 0, plan: None })
    }

    fn rollback_max(state: &State) -> usize {
        state.rollback_max
    }

    fn identity(&self) -> u64 {
        1
    }

    fn hold_from(_: &mut State, _: usize) {}

    /// All of its past is in its tokens, so it can be taken back to any place.
    fn at(state: &State, position: usize) -> Option<State> {
        Some(State { tokens: state.tokens.get(..position)?.to_vec(), rollback_max: 0, plan: None })
    }

    fn memory(state: &State, _: &mut dyn FnMut(usize, usize)) -> usize {
        4 * state.tokens.len()
    }

    fn segments(state: &State, range: Range<usize>) -> Vec<u8> {
        bytes(&state.tokens[128 * range.start..128 * range.end])
    }

    fn tail(state: &State) -> Vec<u8> {
        bytes(&state.tokens[state.tokens.len() / 128 * 128..])
    }

    fn assemble(_: &State, segments: &[&[u8]], tail: &[u8]) -> Result<State, Broken> {
        let all: Vec<u8> = segments.iter().copied().chain([tail]).flatten().copied().collect();
        let (words, _) = all.as_chunks::<4>();
        let tokens = words.iter().map(|&word| TokenId(u32::from_le_bytes(word))).collect();
        Ok(State { tokens, rollback_max: 0, plan: None })
    }

    fn forward(&mut self, batch: &Batch, states: &mut [&mut State]) -> Result<Logits, Broken> {
        self.n_steps.fetch_add(1, Ordering::SeqCst);
        let mut data = Vec::new();
        // Sequences are computed side by side: a step lasts as long as its slowest.
        let mut pause = Duration::ZERO;
        for (chunk, state) in batch.chunks.iter().zip(states) {
            state.tokens.extend(&chunk.tokens);
            state.rollback_max = (state.rollback_max + chunk.tokens.len()).min(ROLLBACK_MAX);
            if chunk.tokens.len() > 1 {
                pause = pause.max(prefill_pause(&self.text(state)));
            }
            if chunk.logits != LogitRows::None {
                let (row, row_pause) = self.next(state, chunk.tokens.len())?;
                data.extend(row);
                pause = pause.max(row_pause);
            }
        }
        std::thread::sleep(pause);
        Ok(Logits::new(self.vocab_size(), data))
    }
}
