//! A recorded truth, and the model it is about.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cuvier_model::{
    Batch, Chunk, Compute, Ctx, Isa, KvFormat, LogitRows, Matrix, SequenceState, TokenId, Transformer,
};
use cuvier_types::SequenceId;
use cuvier_weights::synth::{self, SynthOptions};
use cuvier_weights::{Checkpoint, ModelConfig, Precision};
use safetensors::SafeTensors;

/// One case of `fixtures/parity`.
pub struct Case {
    pub name: String,
    pub model: Transformer,
    pub ids: Vec<TokenId>,
    pub truth: Vec<u8>,
    // The mapped files live in here.
    _folder: tempfile::TempDir,
}

/// What a run gave: logits of every position, and the streams behind them.
pub struct Run {
    pub logits: Matrix,
    pub streams: Matrix,
    pub state: SequenceState,
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/parity")
}

/// The names of all cases, in the order of the file.
pub fn names() -> Vec<String> {
    cases()["cases"].as_object().expect("cases.json has cases").keys().cloned().collect()
}

fn cases() -> serde_json::Value {
    let text = std::fs::read_to_string(fixtures().join("cases.json")).expect("cases.json is there");
    serde_json::from_str(&text).expect("cases.json is JSON")
}

impl Case {
    /// Makes the checkpoint of a case from its config and seed, and opens it.
    pub fn load(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the checkpoint");
        let directory = folder.path().join("checkpoint");
        let config =
            std::fs::read_to_string(fixtures().join(format!("configs/{name}.json"))).expect("config");
        let config = ModelConfig::parse(&config, name).expect("the config is valid");
        let seed = cases()["cases"][name]["seed"].as_u64().expect("a case has a seed");
        let options = SynthOptions { seed, precision: Precision::F32, ..SynthOptions::new(config) };
        synth::write(&directory, &options, &mut |_, _| {}).expect("the checkpoint is written");
        let checkpoint = Checkpoint::open(&directory).expect("the checkpoint opens");
        let truth =
            std::fs::read(fixtures().join(format!("{name}.safetensors"))).expect("the truth is there");
        let ids = ints(&truth, "ids").into_iter().map(|id| TokenId(id as u32)).collect();
        let model = Transformer::load(&checkpoint, &one_thread(Isa::best())).expect("the model loads");
        Self { name: name.to_owned(), model, ids, truth, _folder: folder }
    }

    /// Computes all tokens in chunks of the given sizes, over and over.
    pub fn run(&self, isa: Isa, kv: KvFormat, chunks: &[usize]) -> Run {
        run(&self.model, &self.ids, isa, kv, chunks)
    }
}

/// The instruction set `isa` on the caller's thread.
pub fn one_thread(isa: Isa) -> Compute {
    Compute::new(isa, NonZeroUsize::MIN).expect("one thread needs no pool")
}

/// Computes `ids` in chunks of the given sizes, over and over.
pub fn run(model: &Transformer, ids: &[TokenId], isa: Isa, kv: KvFormat, chunks: &[usize]) -> Run {
    let compute = one_thread(isa);
    let mut state = model.new_state(kv);
    let (mut logits, mut streams, mut cols) = (Vec::new(), Vec::new(), 1);
    let mut sizes = chunks.iter().cycle();
    let mut rest = ids;
    while !rest.is_empty() {
        let size = rest.len().min(*sizes.next().expect("there is a chunk size"));
        let (now, later) = rest.split_at(size);
        let chunk = Chunk { sequence: SequenceId(0), tokens: now.to_vec(), logits: LogitRows::All };
        let batch = Batch { chunks: vec![chunk] };
        let output =
            model.forward(&batch, &mut [&mut state], &mut Ctx::new(&compute)).expect("the step runs");
        logits.extend_from_slice(output.logits.data());
        streams.extend_from_slice(output.streams.data());
        cols = output.streams.cols();
        rest = later;
    }
    let logits = Matrix::from_vec(logits, model.config().vocab_size);
    Run { logits, streams: Matrix::from_vec(streams, cols), state }
}

/// An I32 tensor of a truth.
pub fn ints(truth: &[u8], name: &str) -> Vec<i32> {
    words(truth, name).map(i32::from_le_bytes).collect()
}

/// An F32 tensor of a truth.
pub fn floats(truth: &[u8], name: &str) -> Vec<f32> {
    words(truth, name).map(f32::from_le_bytes).collect()
}

/// An I64 tensor of a truth.
pub fn longs(truth: &[u8], name: &str) -> Vec<i64> {
    words(truth, name).map(i64::from_le_bytes).collect()
}

fn words<'a, const N: usize>(truth: &'a [u8], name: &str) -> impl Iterator<Item = [u8; N]> + use<'a, N> {
    let tensors = SafeTensors::deserialize(truth).expect("the truth is a safetensors file");
    let data = tensors.tensor(name).expect("the truth has this tensor").data();
    data.as_chunks::<N>().0.iter().copied()
}
