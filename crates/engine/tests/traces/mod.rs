//! Requests as agents make them, and how many tokens an oracle would compute that remembers all it has seen.

#![allow(dead_code, reason = "each test file uses a part")]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use cuvier_engine::{CacheConfig, DiskCache, Engine, EngineConfig, EngineHandle, Request, TransformerModel};
use cuvier_model::{Compute, Isa, KvFormat, Transformer};
use cuvier_types::{Event, SamplingParams, TokenId};
use cuvier_weights::Checkpoint;

pub fn calf() -> Arc<Transformer> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/calf"));
    let compute = Compute::new(Isa::best(), NonZeroUsize::MIN).unwrap();
    Arc::new(Transformer::load(&Checkpoint::open(folder).unwrap(), &compute).unwrap())
}

pub fn cache(memory_bytes: u64, disk: Option<(&Path, u64)>) -> CacheConfig {
    let disk = disk.map(|(dir, bytes_max)| DiskCache { dir: dir.to_owned(), bytes_max });
    CacheConfig { memory_bytes, disk }
}

pub fn start(transformer: &Arc<Transformer>, cache: CacheConfig) -> EngineHandle {
    let compute = Compute::new(Isa::best(), NonZeroUsize::new(2).unwrap()).unwrap();
    let model = TransformerModel::new(transformer.clone(), compute, KvFormat::Fp8);
    Engine::start(model, EngineConfig { cache, ..EngineConfig::default() }).unwrap()
}

/// `n` tokens of text number `seed`; no two texts begin alike.
pub fn text(seed: u64, n: usize) -> Vec<TokenId> {
    let mix = |i: u64| {
        let x = (seed << 32 | i).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
    };
    (0..n as u64).map(|i| TokenId((2 + mix(i) % 1270) as u32)).collect()
}

/// Tokens with the bits of their log-probabilities.
pub type Answer = Vec<(TokenId, Vec<u32>)>;

/// The answer, and how many tokens of the prompt did not have to be computed.
pub fn ask(engine: &EngineHandle, request: Request) -> (Answer, usize) {
    let n_draw = request.max_tokens.unwrap();
    let mut answer = Vec::new();
    let mut begun = None;
    for event in engine.submit(request).unwrap() {
        match event {
            Event::Prefill { done, .. } => _ = begun.get_or_insert(done),
            Event::Token { token, logprobs } => {
                let logprobs = logprobs.unwrap();
                let top = logprobs.top.iter().map(|(_, logprob)| logprob.to_bits());
                answer.push((token, std::iter::once(logprobs.logprob.to_bits()).chain(top).collect()));
            }
            Event::Failed { message } => panic!("{message}"),
            Event::Finished { .. } => {}
        }
    }
    assert_eq!(answer.len(), n_draw);
    (answer, begun.unwrap())
}

pub fn request(prompt: Vec<TokenId>, n_draw: usize) -> Request {
    let sampling = SamplingParams { seed: 5, logprobs: Some(3), ..SamplingParams::default() };
    Request { sampling, max_tokens: Some(n_draw), ..Request::new(prompt) }
}

/// Waits until all that was given to be written to disk is.
pub fn settle(engine: &EngineHandle) {
    for _ in 0..6_000 {
        if engine.cache_stats().disk_waiting == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{:?}", engine.cache_stats());
}

/// An engine whose every prompt is counted against the oracle.
pub struct Replay {
    engine: Option<EngineHandle>,
    transformer: Arc<Transformer>,
    cache: CacheConfig,
    seen: Vec<Vec<TokenId>>,
    pub counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Tokens of all prompts.
    pub prompts: usize,
    /// Tokens computed of them.
    pub computed: usize,
    /// Tokens that the oracle computes.
    pub oracle: usize,
}

impl Counts {
    pub fn ratio(&self) -> f64 {
        self.computed as f64 / self.oracle as f64
    }
}

impl Replay {
    pub fn new(transformer: &Arc<Transformer>, cache: CacheConfig) -> Self {
        let engine = Some(start(transformer, cache.clone()));
        let (seen, counts) = (Vec::new(), Counts::default());
        Self { engine, transformer: transformer.clone(), cache, seen, counts }
    }

    /// Ends the process, as far as the cache can see, and begins anew; counts from here on.
    pub fn restart(&mut self) {
        self.engine = None;
        self.engine = Some(start(&self.transformer, self.cache.clone()));
        self.counts = Counts::default();
    }

    pub fn engine(&self) -> &EngineHandle {
        self.engine.as_ref().unwrap()
    }

    /// The prompt with its answer.
    pub fn turn(&mut self, prompt: &[TokenId], n_draw: usize, marks: &[usize]) -> Vec<TokenId> {
        let request = Request { marks: marks.to_vec(), ..request(prompt.to_vec(), n_draw) };
        let (answer, begun) = ask(self.engine(), request);
        settle(self.engine());
        self.count(prompt, begun);
        let whole: Vec<TokenId> =
            prompt.iter().copied().chain(answer.iter().map(|(token, _)| *token)).collect();
        self.seen.push(whole.clone());
        whole
    }

    /// A prompt whose caller goes away after so many tokens of it are computed, or a few more.
    pub fn abandon(&mut self, prompt: &[TokenId], after: usize) {
        let stream = self.engine().submit(request(prompt.to_vec(), 50)).unwrap();
        let (mut begun, mut reached) = (None, 0);
        for event in stream {
            if let Event::Prefill { done, .. } = event {
                begun.get_or_insert(done);
                reached = done;
                if done >= after {
                    break;
                }
            }
        }
        settle(self.engine());
        let begun = begun.unwrap();
        self.count(&prompt[..reached.max(begun + 1)], begun);
        self.seen.push(prompt[..reached].to_vec());
    }

    fn count(&mut self, prompt: &[TokenId], begun: usize) {
        let common = |seen: &Vec<TokenId>| seen.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let known = self.seen.iter().map(common).max().unwrap_or(0).min(prompt.len() - 1);
        self.counts.prompts += prompt.len();
        self.counts.computed += prompt.len() - begun;
        self.counts.oracle += prompt.len() - known;
    }
}

/// A trace in two parts, with a restart between them where one is wanted.
pub type Trace = (&'static str, fn(&mut Replay, &mut dyn FnMut(&mut Replay)));

pub const TRACES: [Trace; 8] = [
    ("growing conversation with tool calls", growing),
    ("five sub-agents with one system prompt", sub_agents),
    ("edit and retry of a middle message", edit),
    ("compaction that keeps the head", compaction),
    ("abandoned and sent again", abandoned),
    ("regenerated answers and a branch", branches),
    ("a head that nobody marked", unmarked),
    ("a long document, asked many things", document),
];

const HEAD: usize = 1_100;

fn growing(replay: &mut Replay, restart: &mut dyn FnMut(&mut Replay)) {
    let mut history = text(1, HEAD);
    for turn in 0..14 {
        if turn == 7 {
            restart(replay);
        }
        history.extend(text(100 + turn, 40 + 13 * turn as usize));
        history = replay.turn(&history, 25, &[HEAD]);
        // The result of the tool that was called.
        history.extend(text(200 + turn, 60 + turn as usize % 4 * 150));
        history = replay.turn(&history, 12, &[HEAD]);
    }
}

fn sub_agents(replay: &mut Replay, restart: &mut dyn FnMut(&mut Replay)) {
    for agent in 0..5 {
        if agent == 2 {
            restart(replay);
        }
        let mut history = [text(2, HEAD), text(300 + agent, 150)].concat();
        for turn in 0..3 {
            history = replay.turn(&history, 20, &[HEAD]);
            history.extend(text(400 + 10 * agent + turn, 90 + 60 * turn as usize));
        }
    }
}

fn edit(replay: &mut Replay, restart: &mut dyn FnMut(&mut Replay)) {
    let mut history = text(3, HEAD);
    let mut ends = Vec::new();
    for turn in 0..10 {
        history.extend(text(500 + turn, 180));
        history = replay.turn(&history, 30, &[HEAD]);
        ends.push(history.len());
    }
    restart(replay);
    // Another word in the middle of the fourth and of the eighth message; what came after is said again, or not.
    for (turn, at) in [(3, 20), (7, 70)] {
        let place = ends[turn - 1] + at;
        let mut edited = history.clone();
        edited.splice(place..place + 3, text(600 + turn as u64, 5));
        replay.turn(&edited, 10, &[HEAD]);
        let cut = [&history[..place], &text(650 + turn as u64, 120)].concat();
        let answered = replay.turn(&cut, 30, &[HEAD]);
        replay.turn(&[answered, text(680 + turn as u64, 200)].concat(), 10, &[HEAD]);
    }
}

fn compaction(replay: &mut Replay, restart: &mut dyn FnMut(&mut Replay)) {
    let mut history = text(4, HEAD);
    for turn in 0..8 {
        history.extend(text(700 + turn, 250));
        history = replay.turn(&history, 20, &[HEAD]);
    }
    restart(replay);
    let mut history = [text(4, HEAD), text(750, 300)].concat();
    for turn in 0..4 {
        history = replay.turn(&history, 20, &[HEAD]);
        history.extend(text(760 + turn, 150));
    }
}

fn abandoned(replay: &mut Replay, restart: &mut dyn FnMut(&mut Replay)) {
    let prompt = text(5, 3_000);
    replay.abandon(&prompt, 1_000);
    replay.abandon(&prompt, 2_000);
    restart(replay);
    let history = replay.turn(&prompt, 10, &[]);
    replay.turn(&prompt, 10, &[]);
    replay.turn(&[history, text(800, 100)].concat(), 10, &[]);
}

fn branches(replay: &mut Replay, restart: &mut dyn FnMut(&mut Replay)) {
    let prompt = text(6, 1_500);
    let first = replay.turn(&prompt, 200, &[]);
    replay.turn(&prompt, 200, &[]);
    restart(replay);
    replay.turn(&prompt, 100, &[]);
    replay.turn(&[&first[..], &text(810, 300)].concat(), 20, &[]);
    replay.turn(&[&first[..1_600], &text(811, 900)].concat(), 20, &[]);
    replay.turn(&prompt, 10, &[]);
}

fn unmarked(replay: &mut Replay, restart: &mut dyn FnMut(&mut Replay)) {
    for agent in 0..8 {
        if agent == 4 {
            restart(replay);
        }
        replay.turn(&[text(8, HEAD + 70), text(900 + agent, 150)].concat(), 20, &[]);
    }
}

fn document(replay: &mut Replay, restart: &mut dyn FnMut(&mut Replay)) {
    let document = text(7, 4_000);
    for question in 0..3 {
        replay.turn(&[document.clone(), text(820 + question, 60)].concat(), 40, &[4_000]);
    }
    restart(replay);
    for question in 3..6 {
        replay.turn(&[document.clone(), text(820 + question, 60)].concat(), 40, &[4_000]);
    }
}
