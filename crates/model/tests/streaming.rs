//! Law 1 where weights do not fit into memory: the same bits, whatever is cached, and an error where bytes are missing.

#![cfg(unix)]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cuvier_model::exact_state::{Sweep, sweep};
use cuvier_model::{
    Batch, Chunk, Compute, Ctx, Isa, KvFormat, LogitRows, SequenceState, Streaming, TokenId, Transformer,
};
use cuvier_types::{LayerId, SequenceId};
use cuvier_weights::expert_store::{ExpertStore, LayerReads};
use cuvier_weights::synth::{self, SynthOptions};
use cuvier_weights::{Checkpoint, ModelConfig, Precision};

/// Five layers of all kinds, two of them routed by hash, and an MTP block.
const N_EXPERTS: usize = 12;

fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 96,
        hidden_size: 128,
        num_hidden_layers: 5,
        num_attention_heads: 4,
        head_dim: 32,
        qk_rope_head_dim: 16,
        q_lora_rank: 32,
        o_groups: 2,
        o_lora_rank: 32,
        compress_ratios: vec![0, 4, 128, 4, 128],
        index_n_heads: 2,
        index_head_dim: 32,
        index_topk: 8,
        sliding_window: 32,
        n_routed_experts: N_EXPERTS,
        num_experts_per_tok: 3,
        moe_intermediate_size: 64,
        num_hash_layers: 2,
        max_position_embeddings: 4096,
        ..ModelConfig::flash()
    }
}

struct Written {
    _home: tempfile::TempDir,
    folder: PathBuf,
}

fn written(precision: Precision) -> Written {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("checkpoint");
    let options = SynthOptions { seed: 5, precision, ..SynthOptions::new(config()) };
    synth::write(&folder, &options, &mut |_, _| {}).expect("the checkpoint is written");
    Written { _home: home, folder }
}

fn compute() -> Compute {
    Compute::new(Isa::best(), NonZeroUsize::new(2).expect("two")).expect("threads start")
}

fn loaded(folder: &Path) -> Transformer {
    let checkpoint = Checkpoint::open(folder).expect("it opens");
    Transformer::load(&checkpoint, &compute()).expect("it loads")
}

fn streamed(folder: &Path, experts: usize, layers: usize) -> Transformer {
    let checkpoint = Arc::new(Checkpoint::open_streamed(folder).expect("it opens"));
    Transformer::load_streamed(checkpoint, &compute(), Streaming { experts, layers }).expect("it loads")
}

fn tokens(seed: usize, len: usize) -> Vec<TokenId> {
    (0..len).map(|i| TokenId(((i * i * 31 + i * (7 + seed) + seed) % 96) as u32)).collect()
}

/// The logits of all of these tokens, in one step.
fn logits(model: &Transformer, sequences: &[Vec<TokenId>]) -> Result<Vec<f32>, String> {
    let mut states: Vec<SequenceState> = sequences.iter().map(|_| model.new_state(KvFormat::Fp8)).collect();
    step(model, sequences, &mut states.iter_mut().collect::<Vec<_>>())
}

fn step(
    model: &Transformer,
    sequences: &[Vec<TokenId>],
    states: &mut [&mut SequenceState],
) -> Result<Vec<f32>, String> {
    let chunk = |(i, tokens): (usize, &Vec<TokenId>)| Chunk {
        sequence: SequenceId(i as u64),
        tokens: tokens.clone(),
        logits: LogitRows::All,
    };
    let batch = Batch { chunks: sequences.iter().enumerate().map(chunk).collect() };
    let output =
        model.forward(&batch, states, &mut Ctx::new(&compute())).map_err(|error| error.to_string())?;
    Ok(output.logits.data().to_vec())
}

fn total(model: &Transformer) -> LayerReads {
    model.expert_reads().expect("it streams").into_iter().fold(LayerReads::default(), LayerReads::and)
}

#[test]
fn a_streamed_model_gives_the_bits_of_a_loaded_one_at_every_budget() {
    for precision in [Precision::Official, Precision::Base, Precision::Bf16] {
        let written = written(precision);
        let sequences = [tokens(1, 200), tokens(2, 1), tokens(3, 40)];
        let want = logits(&loaded(&written.folder), &sequences).expect("it runs");
        let all = 6 * N_EXPERTS;
        for experts in [ExpertStore::CAPACITY_MIN, 5, 9, all / 2, all] {
            for layers in [0, 2, 6] {
                let model = streamed(&written.folder, experts, layers);
                for round in 0..3 {
                    let got = logits(&model, &sequences).expect("it runs");
                    assert!(got == want, "{precision:?}, {experts} experts, {layers} layers, round {round}");
                }
            }
        }
    }
}

#[test]
fn states_of_a_streamed_model_are_exact_however_they_are_reached() {
    let written = written(Precision::Official);
    let model = streamed(&written.folder, 7, 3);
    let plan = Sweep {
        tokens: 140,
        stride: 17,
        isa: Isa::best(),
        kv: KvFormat::Fp8,
        seed: 2,
        chunks: &[1, 5, 128],
        sequences_max: 3,
    };
    for case in sweep(&model, &plan, &mut |_| true).expect("the sweep runs") {
        assert_eq!(case.mismatches, 0, "{}: first at {:?}", case.name, case.first_mismatch);
    }
}

#[test]
fn the_mtp_block_of_a_streamed_model_drafts_the_same() {
    let written = written(Precision::Official);
    let next = tokens(4, 9);
    let draft = |model: &Transformer| {
        let mut state = model.new_state(KvFormat::Fp8);
        let chunk = Chunk { sequence: SequenceId(0), tokens: tokens(1, 9), logits: LogitRows::Last };
        let compute = compute();
        let mut ctx = Ctx::new(&compute);
        let batch = Batch { chunks: vec![chunk] };
        let output = model.forward(&batch, &mut [&mut state], &mut ctx).expect("it runs");
        let mtp = model.mtp().expect("it has one");
        let drafts = mtp.forward(model, &output.streams, &next, &mut state, &mut ctx).expect("it runs");
        drafts.0.data().to_vec()
    };
    let want = draft(&loaded(&written.folder));
    assert!(draft(&streamed(&written.folder, 4, 0)) == want);
    assert!(draft(&streamed(&written.folder, 30, 6)) == want);
}

#[test]
fn what_was_read_once_and_fits_is_not_read_again() {
    let written = written(Precision::Official);
    let model = streamed(&written.folder, 5 * N_EXPERTS, 6);
    logits(&model, &[tokens(1, 300)]).expect("it runs");
    let first = total(&model);
    let (needed, wrong) = (first.hits + first.misses, first.guessed - first.guessed_right);
    assert!(
        (needed..=needed + wrong).contains(&first.reads),
        "each was read once that was needed: {first:?}"
    );
    assert!(first.reads > 4 * N_EXPERTS as u64 && first.bytes >= first.reads * 3 * 64 * 128 / 2);
    logits(&model, &[tokens(1, 300)]).expect("it runs");
    let second = total(&model);
    // A wrong guess may have been too late the first time.
    let wrong = second.guessed - second.guessed_right;
    assert!((first.reads..=needed + wrong).contains(&second.reads), "{second:?}");
    assert_eq!(second.hits - first.hits, needed);
}

#[test]
fn the_experts_of_the_next_layer_are_read_while_one_is_computed() {
    let written = written(Precision::Official);
    let checkpoint = Checkpoint::open_streamed(&written.folder).expect("it opens");
    let store = ExpertStore::new(&checkpoint, 6).expect("it starts");
    let read_of = |layer: usize| store.reads()[layer].reads;
    let wait_for = |layer: usize, reads: u64| {
        let begun = std::time::Instant::now();
        while read_of(layer) < reads && begun.elapsed().as_secs() < 30 {
            std::thread::yield_now();
        }
        assert_eq!(read_of(layer), reads, "of layer {layer}");
    };
    store.begin_step();
    let mut fetch = store.fetch(LayerId(0), 0..4);
    store.foresee(LayerId(1), (0..8).collect());
    // Two have room beside the four that are needed now, whether those were given already or not.
    wait_for(1, 2);
    let mut given = 0;
    while given < 4 {
        let lease = fetch.next().expect("not all were given").expect("it can be read");
        given += lease.range().len();
        wait_for(1, 2 + (given - lease.range().len()) as u64);
    }
    assert!(fetch.next().is_none());
    wait_for(1, 6);
    assert_eq!(
        store
            .fetch(LayerId(1), 0..8)
            .map(|lease| lease.expect("it can be read").range().len())
            .sum::<usize>(),
        8
    );
    assert_eq!((read_of(0), read_of(1)), (4, 8), "each once");
}

#[test]
fn layers_that_do_not_stay_are_read_once_a_step() {
    let written = written(Precision::Official);
    let model = streamed(&written.folder, 5 * N_EXPERTS, 2);
    let other = || model.expert_reads().expect("it streams").into_iter().map(|reads| reads.other_bytes);
    logits(&model, &[tokens(1, 30)]).expect("it runs");
    let once: Vec<u64> = other().collect();
    // The MTP block was not asked for.
    assert!(
        once.iter().enumerate().all(|(layer, &bytes)| (bytes > 0) == (2..5).contains(&layer)),
        "{once:?}"
    );
    logits(&model, &[tokens(2, 30)]).expect("it runs");
    assert!(other().zip(&once).all(|(twice, once)| twice == 2 * once), "{once:?}");
}

#[test]
fn more_memory_never_reads_more() {
    let written = written(Precision::Official);
    let reads = |experts: usize| {
        let model = streamed(&written.folder, experts, 6);
        let mut state = model.new_state(KvFormat::Fp8);
        for token in tokens(6, 60) {
            step(&model, &[vec![token]], &mut [&mut state]).expect("it runs");
        }
        total(&model).reads
    };
    let reads = [8, 16, 24, 32, 48, 60].map(reads);
    assert!(reads.is_sorted_by(|less, more| less >= more), "{reads:?}");
    assert!(reads[5] <= 60 && reads[0] > 200, "{reads:?}");
}

/// The shard that ends with a routed expert's weights, and the range of that expert in it.
fn shard(folder: &Path) -> PathBuf {
    let mut shards: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    shards.sort();
    shards.remove(0)
}

#[test]
fn a_file_that_is_cut_is_an_error_that_names_it_and_later_steps_try_again() {
    for layers in [0, 3, 6] {
        what_is_cut_is_named_and_read_again(layers);
    }
}

fn what_is_cut_is_named_and_read_again(layers: usize) {
    let written = written(Precision::Official);
    let model = streamed(&written.folder, 8, layers);
    let sequences = [tokens(1, 30)];
    let want = logits(&model, &sequences).expect("it is whole");
    let shard = shard(&written.folder);
    let name = shard.file_name().expect("a name").to_string_lossy().into_owned();
    let bytes = std::fs::read(&shard).expect("it is there");
    let modified = std::fs::metadata(&shard).and_then(|metadata| metadata.modified()).expect("a time");
    let file = File::options().write(true).open(&shard).expect("it opens");
    file.set_len(9000).expect("it is cut");
    let other = [tokens(9, 200)];
    for _ in 0..2 {
        let error = logits(&model, &other).expect_err("bytes are missing");
        assert!(error.contains(&name), "{error}");
    }
    // As it was, in length, content and time: as far as can be told, the same file.
    file.write_all_at(&bytes, 0).expect("it is mended");
    file.set_modified(modified).expect("it has the time it had");
    assert!(logits(&model, &sequences).expect("it is whole again") == want);
}

#[test]
fn a_file_that_was_changed_or_holds_a_scale_that_is_no_number_is_an_error() {
    let written = written(Precision::Official);
    let shard = shard(&written.folder);
    let file = File::options().read(true).write(true).open(&shard).expect("it opens");
    let model = streamed(&written.folder, 8, 6);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).expect("it is there");
    file.write_all_at(&byte, 5000).expect("touched");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("its time can be set");
    let error = logits(&model, &[tokens(1, 100)]).expect_err("it was changed");
    assert!(error.contains("changed since it was opened"), "{error}");

    let checkpoint = Checkpoint::open(&written.folder).expect("it opens");
    let name = "layers.3.ffn.experts.4.w2.scale";
    let scale = checkpoint.tensor(name).expect("it is there");
    let bytes = std::fs::read(&shard).expect("it is there");
    let at = bytes.windows(scale.bytes().len()).position(|window| window == scale.bytes());
    file.write_all_at(&[0xFF], at.expect("its bytes are in the only shard") as u64).expect("broken");
    let model = streamed(&written.folder, 60, 6);
    let error = logits(&model, &[tokens(1, 300)]).expect_err("a scale is no number");
    assert!(error.contains(name) && error.contains("not a finite number"), "{error}");
}

#[test]
fn several_threads_share_one_streamed_model() {
    let written = written(Precision::Official);
    let want: Vec<_> =
        (0..4).map(|i| logits(&loaded(&written.folder), &[tokens(i, 60)]).expect("it runs")).collect();
    // Where layers are read as well, threads take from each other what was read ahead.
    for layers in [6, 1] {
        let model = streamed(&written.folder, ExpertStore::CAPACITY_MIN, layers);
        run_in_threads(&model, &want);
    }
}

fn run_in_threads(model: &Transformer, want: &[Vec<f32>]) {
    std::thread::scope(|scope| {
        let run = |i: usize| {
            let want = &want[i];
            scope.spawn(move || {
                for _ in 0..3 {
                    assert!(&logits(model, &[tokens(i, 60)]).expect("it runs") == want);
                }
            })
        };
        let runs: Vec<_> = (0..4).map(run).collect();
        runs.into_iter().for_each(|run| run.join().expect("the same bits"));
    });
}
