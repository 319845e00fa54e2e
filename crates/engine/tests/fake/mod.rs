//! A model whose logits are a function of the tokens before them, so that answers can be known beforehand.

#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use cuvier_engine::{
    Engine, EngineConfig, EngineHandle, EventStream, Logits, Model, Request, RollbackTooFar,
};
use cuvier_types::{Batch, Event, FinishReason, LogitRows, SamplingParams, TokenId};

pub const VOCAB: usize = 50;
pub const CONTEXT: usize = 400;
pub const ROLLBACK_MAX: usize = 4;

/// A token that the model cannot compute.
pub const POISON: TokenId = TokenId(48);
/// A token after which the logits are not numbers.
pub const NAN: TokenId = TokenId(49);
/// A token at which the model panics.
pub const BOOM: TokenId = TokenId(47);
/// Tokens below this are neither of these, and the only ones the model ever likes.
pub const N_PLAIN: u32 = 40;

#[derive(Default)]
pub struct Fake {
    /// Tokens computed so far.
    pub n_computed: Arc<AtomicUsize>,
    pub fingerprint: u8,
    pub gate: Option<Gate>,
}

/// Lets a test watch every step and hold it until told.
pub struct Gate {
    began: Sender<Batch>,
    go: Receiver<()>,
}

/// The test's end of a gate.
pub struct Steps {
    began: Receiver<Batch>,
    go: Sender<()>,
}

impl Fake {
    /// A model that waits in every step until it is let through.
    pub fn gated() -> (Self, Steps) {
        let (began, began_receiver) = channel();
        let (go_sender, go) = channel();
        let fake = Self { gate: Some(Gate { began, go }), ..Self::default() };
        (fake, Steps { began: began_receiver, go: go_sender })
    }
}

impl Steps {
    /// Waits until the next step is under way and says what it computes.
    pub fn wait(&self) -> Vec<(u64, usize)> {
        let batch = self.began.recv().unwrap();
        batch.chunks.iter().map(|chunk| (chunk.sequence.0, chunk.tokens.len())).collect()
    }

    /// Lets the step under way finish.
    pub fn go(&self) {
        self.go.send(()).unwrap();
    }

    /// Lets every step through from here on.
    pub fn open(self) {}
}

#[derive(Debug, thiserror::Error)]
pub enum FakeError {
    #[error("the model cannot compute this token")]
    Poison,
    #[error("not a state of this model")]
    Foreign,
}

/// Keeps its tokens, and counts on the caller to keep it in step.
pub struct State {
    tokens: Vec<TokenId>,
    rollback_max: usize,
    held_from: Option<usize>,
}

impl Model for Fake {
    type State = State;
    type Error = FakeError;

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn context_max(&self) -> usize {
        CONTEXT
    }

    fn new_state(&self) -> State {
        State { tokens: Vec::new(), rollback_max: 0, held_from: None }
    }

    fn fork(&self, state: &State) -> State {
        State {
            tokens: state.tokens.clone(),
            rollback_max: state.rollback_max.min(ROLLBACK_MAX),
            held_from: None,
        }
    }

    fn position(state: &State) -> usize {
        state.tokens.len()
    }

    fn rollback_max(state: &State) -> usize {
        state.rollback_max
    }

    fn rollback(&self, state: &mut State, tokens: usize) -> Result<(), RollbackTooFar> {
        if tokens > state.rollback_max {
            return Err(RollbackTooFar { asked: tokens, max: state.rollback_max });
        }
        state.tokens.truncate(state.tokens.len() - tokens);
        state.rollback_max -= tokens;
        Ok(())
    }

    fn save(&self, state: &State) -> Vec<u8> {
        let tokens = state.tokens.iter().map(|token| token.0 as u8);
        std::iter::once(self.fingerprint).chain(tokens).collect()
    }

    fn restore(&self, bytes: &[u8]) -> Result<State, FakeError> {
        match bytes.split_first() {
            Some((&fingerprint, tokens)) if fingerprint == self.fingerprint => {
                let tokens = tokens.iter().map(|&t| TokenId(t.into())).collect();
                Ok(State { tokens, rollback_max: 0, held_from: None })
            }
            _ => Err(FakeError::Foreign),
        }
    }

    fn identity(&self) -> u64 {
        self.fingerprint.into()
    }

    fn hold_from(state: &mut State, position: usize) {
        state.held_from = Some(position);
    }

    fn at(state: &State, position: usize) -> Option<State> {
        let n_back = state.tokens.len().checked_sub(position)?;
        let tokens = state.tokens[..position].to_vec();
        (n_back <= state.rollback_max).then_some(State { tokens, rollback_max: 0, held_from: None })
    }

    fn memory(state: &State, shared: &mut dyn FnMut(usize, usize)) -> usize {
        // As if whole segments were shared: their address is a hash of what is in them.
        for end in (128..=state.tokens.len()).step_by(128) {
            let address = state.tokens[..end].iter().fold(end, |sum, t| sum.wrapping_mul(31) + t.0 as usize);
            shared(address, 1024);
        }
        100
    }

    fn segments(state: &State, range: std::ops::Range<usize>) -> Vec<u8> {
        state.tokens[128 * range.start..128 * range.end].iter().map(|token| token.0 as u8).collect()
    }

    fn tail(state: &State) -> Vec<u8> {
        std::iter::once(7)
            .chain(state.tokens[state.tokens.len() / 128 * 128..].iter().map(|t| t.0 as u8))
            .collect()
    }

    fn assemble(_: &State, segments: &[&[u8]], tail: &[u8]) -> Result<State, FakeError> {
        let (&[7], tail) = tail.split_at_checked(1).ok_or(FakeError::Foreign)? else {
            return Err(FakeError::Foreign);
        };
        let tokens = segments.iter().copied().chain([tail]).flatten().map(|&t| TokenId(t.into())).collect();
        Ok(State { tokens, rollback_max: 0, held_from: None })
    }

    fn forward(&mut self, batch: &Batch, states: &mut [&mut State]) -> Result<Logits, FakeError> {
        let gate = self.gate.take().filter(|gate| {
            // A test that has let go of its end, or has failed, wants to hear no more.
            gate.began.send(batch.clone()).is_ok() && gate.go.recv_timeout(Duration::from_secs(30)).is_ok()
        });
        self.gate = gate;
        assert_eq!(batch.chunks.len(), states.len());
        let mut data = Vec::new();
        for (chunk, state) in batch.chunks.iter().zip(states) {
            assert!(!chunk.tokens.contains(&BOOM), "boom");
            for (index, &token) in chunk.tokens.iter().enumerate() {
                // By now the states of earlier chunks have grown: an error leaves a mess behind.
                if token == POISON {
                    return Err(FakeError::Poison);
                }
                state.tokens.push(token);
                let is_last = index + 1 == chunk.tokens.len();
                if chunk.logits == LogitRows::All || (chunk.logits == LogitRows::Last && is_last) {
                    data.extend(logits(&state.tokens));
                }
            }
            let held = state.held_from.take().map_or(0, |from| state.tokens.len() - from);
            state.rollback_max = (state.rollback_max + chunk.tokens.len()).min(ROLLBACK_MAX).max(held);
            self.n_computed.fetch_add(chunk.tokens.len(), Ordering::SeqCst);
        }
        Ok(Logits::new(VOCAB, data))
    }
}

/// The logits after these tokens: each depends on every token and its place.
pub fn logits(tokens: &[TokenId]) -> Vec<f32> {
    if tokens.last() == Some(&NAN) {
        return vec![f32::NAN; VOCAB];
    }
    let hash = tokens.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, token| {
        (hash ^ u64::from(token.0 + 1)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
    });
    let logit = |token: u32| {
        let mixed = (hash ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if token < N_PLAIN { (mixed >> 40) as f32 / 4e6 } else { -80.0 }
    };
    (0..VOCAB as u32).map(logit).collect()
}

/// The answer by definition: one sequence, no engine.
pub fn expected(prompt: &[TokenId], sampling: &SamplingParams, n: usize) -> Vec<TokenId> {
    let mut sampler = cuvier_engine::sampler::Sampler::new(sampling.clone(), prompt);
    let mut tokens = prompt.to_vec();
    for _ in 0..n {
        tokens.push(sampler.draw(&logits(&tokens)).unwrap().token);
    }
    tokens.split_off(prompt.len())
}

pub fn start(model: Fake, batch_tokens_max: usize, sequences_max: usize) -> EngineHandle {
    let config = EngineConfig { batch_tokens_max, sequences_max, ..EngineConfig::default() };
    Engine::start(model, config).unwrap()
}

pub fn plain() -> EngineHandle {
    start(Fake::default(), 16, 4)
}

/// `n` tokens that depend on `seed`.
pub fn prompt(seed: u32, n: usize) -> Vec<TokenId> {
    (0..n as u32).map(|i| TokenId((i * i * 7 + i * seed + seed * 13) % N_PLAIN)).collect()
}

/// Sampled, with every knob turned.
pub fn sampled(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: 1.3,
        top_p: 0.97,
        top_k: 30,
        min_p: 0.01,
        repetition_penalty: 1.2,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
        seed,
        ..SamplingParams::default()
    }
}

pub fn request(prompt: Vec<TokenId>, seed: u64, n: usize) -> Request {
    Request { sampling: sampled(seed), max_tokens: Some(n), ..Request::new(prompt) }
}

/// The tokens and the last event.
pub fn collect(stream: EventStream) -> (Vec<TokenId>, Event) {
    let mut tokens = Vec::new();
    let mut last = None;
    for event in stream {
        assert_eq!(last, None, "nothing follows the last event");
        match event {
            Event::Prefill { .. } => assert!(tokens.is_empty(), "progress comes before tokens"),
            Event::Token { token, .. } => tokens.push(token),
            end => last = Some(end),
        }
    }
    (tokens, last.unwrap())
}

/// The tokens of an answer that must end for this reason.
pub fn tokens(stream: EventStream, reason: FinishReason) -> Vec<TokenId> {
    let (tokens, end) = collect(stream);
    assert_eq!(end, Event::Finished { reason });
    tokens
}
