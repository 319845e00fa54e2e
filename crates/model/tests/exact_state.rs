//! Law 1 on random shapes: every way to compute a sequence gives the same bits.

use cuvier_model::exact_state::{Sweep, sweep};
use cuvier_model::{
    Batch, Chunk, Compute, Ctx, Isa, KvFormat, LogitRows, ROLLBACK_MAX, SEGMENT_TOKENS, SequenceState,
    TokenId, Transformer,
};
use cuvier_types::SequenceId;
use cuvier_weights::synth::{self, SynthOptions};
use cuvier_weights::{Checkpoint, ModelConfig, Precision};

/// A random model of a shape in `fixtures/parity/configs`.
fn model(name: &str, precision: Precision) -> (tempfile::TempDir, Transformer) {
    let folder = tempfile::tempdir().expect("a folder for the checkpoint");
    let file = format!("{}/../../fixtures/parity/configs/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let config = ModelConfig::parse(&std::fs::read_to_string(file).expect("config"), name).expect("valid");
    let options = SynthOptions { seed: 3, precision, ..SynthOptions::new(config) };
    let directory = folder.path().join("checkpoint");
    synth::write(&directory, &options, &mut |_, _| {}).expect("the checkpoint is written");
    let checkpoint = Checkpoint::open(&directory).expect("it opens");
    let model = Transformer::load(&checkpoint, &compute()).expect("it loads");
    (folder, model)
}

fn check(model: &Transformer, plan: &Sweep) {
    let mut heard = 0;
    let cases = sweep(model, plan, &mut |n| {
        heard += n;
        true
    });
    let cases = cases.expect("the sweep runs");
    let total: usize = cases.iter().map(|case| case.cases).sum();
    assert_eq!((total, heard), (plan.comparisons(), plan.comparisons()));
    for case in &cases {
        assert_eq!(
            case.mismatches,
            0,
            "{} on {}: first at {:?}",
            case.name,
            plan.isa.name(),
            case.first_mismatch
        );
    }
}

#[test]
fn states_are_exact_however_they_are_reached() {
    let plan = |isa, kv| Sweep {
        tokens: 300,
        stride: 3,
        isa,
        kv,
        seed: 9,
        chunks: &[1, 5, 128, 131],
        sequences_max: 3,
    };
    let (_folder, mixed) = model("mixed", Precision::Official);
    check(&mixed, &plan(Isa::best(), KvFormat::Fp8));
    check(&mixed, &plan(Isa::best(), KvFormat::F32));
    let (_folder, odd) = model("odd_sizes", Precision::Bf16);
    check(&odd, &plan(Isa::best(), KvFormat::Fp8));
    for isa in Isa::available() {
        let short =
            Sweep { tokens: 140, stride: 47, chunks: &[3], sequences_max: 2, ..plan(isa, KvFormat::Fp8) };
        check(&odd, &short);
    }
}

#[test]
fn a_saved_state_that_is_cut_or_altered_is_refused() {
    let (_folder, model) = model("one_layer", Precision::F32);
    let state = model.filled_state(KvFormat::Fp8, 9, &compute());
    let bytes = state.save();
    assert_eq!(model.restore(&bytes, KvFormat::Fp8).expect("whole").save(), bytes);
    for len in 0..bytes.len() {
        assert!(model.restore(&bytes[..len], KvFormat::Fp8).is_err(), "cut to {len}");
    }
    assert!(model.restore(&bytes, KvFormat::F32).is_err(), "another cache format");
    for at in 0..41 {
        let mut altered = bytes.clone();
        altered[at] ^= 0x81;
        assert!(model.restore(&altered, KvFormat::Fp8).is_err(), "header byte {at}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(model.restore(&longer, KvFormat::Fp8).is_err(), "bytes after the end");
}

#[test]
fn a_rollback_beyond_what_is_kept_changes_nothing() {
    let (_folder, model) = model("mixed", Precision::F32);
    let mut state: SequenceState = model.filled_state(KvFormat::Fp8, 500, &compute());
    let (max, bytes) = (state.rollback_max(), state.save());
    assert!(state.rollback(max + 1).is_err());
    assert_eq!((state.position(), state.save() == bytes), (500, true));
}

/// Tokens `range` of one endless sequence.
fn append(model: &Transformer, state: &mut SequenceState, range: std::ops::Range<usize>) {
    let vocab_size = model.config().vocab_size;
    let tokens = range.map(|i| TokenId(((i * i * 31 + i * 7) % vocab_size) as u32)).collect();
    let chunk = Chunk { sequence: SequenceId(0), tokens, logits: LogitRows::None };
    let batch = Batch { chunks: vec![chunk] };
    model.forward(&batch, &mut [state], &mut Ctx::new(&compute())).expect("the step can be taken");
}

#[test]
fn a_chunk_that_is_held_can_be_taken_back_to_any_place_within_it() {
    let (_folder, model) = model("mixed", Precision::Official);
    let mut cold = model.new_state(KvFormat::Fp8);
    let mut warm = model.new_state(KvFormat::Fp8);
    append(&model, &mut warm, 0..300);
    append(&model, &mut cold, 0..300);
    warm.hold_from(301);
    append(&model, &mut warm, 300..700);
    for end in [301, 319, 383, 384, 385, 511, 512, 513, 699, 700] {
        let at = cold.position();
        append(&model, &mut cold, at..end);
        let back = warm.at(end).expect("it was held");
        assert!(back.save() == cold.save(), "taken back to {end}");
        assert_eq!(back.rollback_max(), 0);
        let (mut back, mut ahead) = (back, cold.clone());
        append(&model, &mut back, end..end + 9);
        append(&model, &mut ahead, end..end + 9);
        assert!(back.save() == ahead.save(), "gone on from {end}");
    }
    assert!(warm.at(300 - ROLLBACK_MAX).is_none() && warm.at(701).is_none());
    let mut settled = warm.clone();
    settled.settle();
    assert_eq!((settled.rollback_max(), warm.rollback_max()), (ROLLBACK_MAX, 399));
    append(&model, &mut warm, 700..701);
    assert_eq!(warm.rollback_max(), ROLLBACK_MAX, "what was held goes with the next step");
}

#[test]
fn a_state_is_the_same_after_it_was_cut_into_segments_and_a_tail() {
    let (_folder, model) = model("mixed", Precision::Official);
    let mut state = model.new_state(KvFormat::Fp8);
    let mut shared = Vec::new();
    for end in [1, 127, 128, 129, 130, 255, 256, 257, 384, 385, 900] {
        let at = state.position();
        append(&model, &mut state, at..end);
        let n_segments = end / SEGMENT_TOKENS;
        let segments = state.segments(0..n_segments);
        assert!(segments.starts_with(&shared), "segments up to {end} begin with those before");
        let len = segments.len().checked_div(n_segments).unwrap_or(1);
        let empty = model.new_state(KvFormat::Fp8);
        let back = empty.assemble(segments.chunks(len), &state.tail()).expect("they fit");
        assert!(back.save() == state.save(), "{end} tokens");
        if n_segments > 0 {
            let assemble = |segments: &[u8], tail: &[u8]| {
                model.new_state(KvFormat::Fp8).assemble(segments.chunks(len), tail).is_err()
            };
            assert!(assemble(&segments[len..], &state.tail()), "a segment is missing");
            assert!(assemble(&segments[1..], &state.tail()), "a segment is short");
            assert!(assemble(&segments, &state.save()), "a tail that holds segments");
            let f32 = model.new_state(KvFormat::F32);
            assert!(f32.assemble(segments.chunks(len), &state.tail()).is_err(), "another format");
        }
        shared = segments;
    }
    assert_ne!(state.identity(), model.new_state(KvFormat::F32).identity());
    assert_eq!(state.identity(), model.new_state(KvFormat::Fp8).identity());
}

#[test]
fn forks_tell_shared_pages_once_and_what_is_their_own() {
    let (_folder, model) = model("mixed", Precision::F32);
    let mut state = model.filled_state(KvFormat::Fp8, 2000, &compute());
    append(&model, &mut state, 2000..2100);
    let bytes = |states: &[&SequenceState]| {
        let mut pages = std::collections::HashMap::new();
        states.iter().for_each(|state| {
            state.memory(&mut |address, bytes| _ = pages.insert(address, bytes));
        });
        pages.values().sum::<usize>()
    };
    assert_eq!(bytes(&[&state]), state.bytes());
    assert_eq!(bytes(&[&state, &state.clone()]), state.bytes());
    let slim = state.at(2100).expect("it is there");
    assert!(bytes(&[&slim]) < state.bytes());
    assert_eq!(bytes(&[&state, &slim]), state.bytes(), "it shares all that it has");
}

fn compute() -> Compute {
    Compute::new(Isa::best(), std::num::NonZeroUsize::MIN).expect("one thread needs no pool")
}
