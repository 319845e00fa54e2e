//! A model larger than memory, through the engine: the same answers, and broken files fail only the requests that need them.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use cuvier_engine::{Engine, EngineConfig, EngineHandle, EventStream, Request, TransformerModel};
use cuvier_model::{Compute, Isa, KvFormat, Streaming, Transformer};
use cuvier_types::{Event, SamplingParams, TokenId};
use cuvier_weights::Checkpoint;

/// The embedded model in a folder of its own, so that its file can be broken.
fn copied() -> tempfile::TempDir {
    let calf = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/calf"));
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(calf.join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn compute() -> Compute {
    Compute::new(Isa::best(), NonZeroUsize::MIN).unwrap()
}

fn start(transformer: Transformer) -> EngineHandle {
    let model = TransformerModel::new(Arc::new(transformer), compute(), KvFormat::Fp8);
    Engine::start(model, EngineConfig::default()).unwrap()
}

fn streamed(folder: &Path, experts: usize) -> EngineHandle {
    let checkpoint = Arc::new(Checkpoint::open_streamed(folder).unwrap());
    let streaming = Streaming { experts, layers: 3 };
    start(Transformer::load_streamed(checkpoint, &compute(), streaming).unwrap())
}

fn request(seed: u32) -> Request {
    let prompt =
        (0..40 + seed * 11).map(|i| TokenId((i * i * 31 + i * seed * 7 + seed * 13) % 1000)).collect();
    let sampling = SamplingParams { seed: seed.into(), ..SamplingParams::default() };
    Request { sampling, max_tokens: Some(10), ..Request::new(prompt) }
}

/// The tokens, or why there are none.
fn answer(stream: EventStream) -> Result<Vec<TokenId>, String> {
    let mut tokens = Vec::new();
    for event in stream {
        match event {
            Event::Token { token, .. } => tokens.push(token),
            Event::Failed { message } => return Err(message),
            Event::Prefill { .. } | Event::Finished { .. } => {}
        }
    }
    Ok(tokens)
}

fn answers(engine: &EngineHandle) -> Vec<Result<Vec<TokenId>, String>> {
    let streams: Vec<_> = (1..6).map(|seed| engine.submit(request(seed)).unwrap()).collect();
    streams.into_iter().map(answer).collect()
}

#[test]
fn several_answers_at_once_are_those_of_a_model_in_memory() {
    let folder = copied();
    let want =
        answers(&start(Transformer::load(&Checkpoint::open(folder.path()).unwrap(), &compute()).unwrap()));
    assert!(want.iter().all(Result::is_ok));
    for experts in [4, 20] {
        let engine = streamed(folder.path(), experts);
        assert_eq!(answers(&engine), want, "{experts} experts in memory");
        let reads = engine.expert_reads();
        assert!(reads.iter().map(|layer| layer.bytes).sum::<u64>() > 100_000, "{reads:?}");
    }
}

#[test]
fn a_broken_file_fails_requests_with_its_name_and_a_mended_one_serves_again() {
    let folder = copied();
    let engine = streamed(folder.path(), 4);
    let want = answers(&engine);
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let modified = path.metadata().unwrap().modified().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 / 2).unwrap();
    for answer in answers(&engine) {
        let message = answer.unwrap_err();
        assert!(message.contains("model.safetensors"), "{message}");
    }
    file.write_all_at(&bytes, 0).unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(answers(&engine), want);
}
