//! Law 1 on random shapes: every way to compute a sequence gives the same bits.

use cuvier_model::exact_state::{Sweep, sweep};
use cuvier_model::{Compute, Isa, KvFormat, SequenceState, Transformer};
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

fn compute() -> Compute {
    Compute::new(Isa::best(), std::num::NonZeroUsize::MIN).expect("one thread needs no pool")
}
