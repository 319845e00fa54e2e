//! Law 1 through the engine, with the model itself: random or toy weights, the state's true formats. Prompts are
//! longer than the window and many compression groups, and end at awkward places.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use cuvier_engine::{Engine, EngineConfig, EngineHandle, EventStream, Request, TransformerModel};
use cuvier_model::{Compute, Isa, KvFormat, Transformer};
use cuvier_types::{Event, SamplingParams, TokenId};
use cuvier_weights::Checkpoint;

const N_DRAW: usize = 12;

fn calf() -> Arc<Transformer> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/calf"));
    let compute = Compute::new(Isa::best(), NonZeroUsize::MIN).unwrap();
    Arc::new(Transformer::load(&Checkpoint::open(folder).unwrap(), &compute).unwrap())
}

fn start(transformer: &Arc<Transformer>, batch_tokens_max: usize, sequences_max: usize) -> EngineHandle {
    let compute = Compute::new(Isa::best(), NonZeroUsize::MIN).unwrap();
    let model = TransformerModel::new(transformer.clone(), compute, KvFormat::Fp8);
    let config = EngineConfig { batch_tokens_max, sequences_max, ..EngineConfig::default() };
    Engine::start(model, config).unwrap()
}

fn prompt(seed: u32, n: usize) -> Vec<TokenId> {
    (0..n as u32).map(|i| TokenId((i * i * 31 + i * seed * 7 + seed * 13) % 1000)).collect()
}

fn request(prompt: Vec<TokenId>) -> Request {
    let sampling = SamplingParams { seed: 5, logprobs: Some(3), ..SamplingParams::default() };
    Request { sampling, max_tokens: Some(N_DRAW), ..Request::new(prompt) }
}

/// Tokens with their log-probabilities, which show the last bit of the logits.
fn answer(stream: EventStream) -> Vec<(TokenId, Vec<u32>)> {
    let mut answer = Vec::new();
    for event in stream {
        match event {
            Event::Token { token, logprobs } => {
                let logprobs = logprobs.unwrap();
                let top = logprobs.top.iter().map(|(_, logprob)| logprob.to_bits());
                answer.push((token, std::iter::once(logprobs.logprob.to_bits()).chain(top).collect()));
            }
            Event::Failed { message } => panic!("{message}"),
            Event::Prefill { .. } | Event::Finished { .. } => {}
        }
    }
    assert_eq!(answer.len(), N_DRAW);
    answer
}

fn alone(transformer: &Arc<Transformer>, prompt: Vec<TokenId>) -> Vec<(TokenId, Vec<u32>)> {
    answer(start(transformer, 512, 1).submit(request(prompt)).unwrap())
}

#[test]
fn the_model_answers_the_same_alone_and_in_a_crowd_at_any_chunk_size() {
    let transformer = calf();
    let prompts: Vec<_> =
        [1, 127, 130, 257, 384].into_iter().enumerate().map(|(i, n)| prompt(i as u32, n)).collect();
    let want: Vec<_> = prompts.iter().map(|prompt| alone(&transformer, prompt.clone())).collect();
    for (batch_tokens_max, sequences_max) in [(7, 5), (64, 3), (512, 5)] {
        let engine = start(&transformer, batch_tokens_max, sequences_max);
        let streams: Vec<_> = prompts.iter().map(|p| engine.submit(request(p.clone())).unwrap()).collect();
        for (stream, want) in streams.into_iter().zip(&want) {
            assert_eq!(&answer(stream), want, "steps of {batch_tokens_max}, {sequences_max} slots");
        }
    }
}

#[test]
fn the_model_answers_the_same_after_forks_rollbacks_restores_and_from_a_kept_prefix() {
    let transformer = calf();
    let engine = start(&transformer, 64, 4);
    let (first, second) = (prompt(1, 259), prompt(2, 6));
    let conversation = engine.open().unwrap();
    let drawn = answer(conversation.send(request(first.clone())).unwrap());
    let history: Vec<TokenId> = first.into_iter().chain(drawn.iter().map(|(token, _)| *token)).collect();
    let whole = [history.clone(), second.clone()].concat();
    let want = alone(&transformer, whole.clone());

    let fork = conversation.fork().unwrap();
    let saved = conversation.save().unwrap();
    assert_eq!(answer(conversation.send(request(second.clone())).unwrap()), want, "gone on");
    assert_eq!(answer(fork.send(request(second.clone())).unwrap()), want, "forked");
    for n_back in [N_DRAW, N_DRAW + second.len(), whole.len() + N_DRAW] {
        conversation.rollback(n_back).unwrap();
        let rest = whole[whole.len() + N_DRAW - n_back..].to_vec();
        assert_eq!(answer(conversation.send(request(rest)).unwrap()), want, "{n_back} tokens taken back");
    }
    let busy =
        [engine.submit(request(prompt(8, 300))).unwrap(), engine.submit(request(prompt(9, 9))).unwrap()];
    let restored = engine.restore(saved.clone()).unwrap();
    assert_eq!(restored.save().unwrap(), saved);
    assert_eq!(answer(restored.send(request(second)).unwrap()), want, "restored");
    busy.into_iter().for_each(|stream| assert_eq!(answer(stream).len(), N_DRAW));

    let cold = answer(engine.submit(request(whole.clone())).unwrap());
    let mut warm = engine.submit(request(whole.clone())).unwrap();
    assert_eq!(warm.next(), Some(Event::Prefill { done: whole.len() - 1, total: whole.len() }));
    assert_eq!((cold, answer(warm)), (want.clone(), want));
}
