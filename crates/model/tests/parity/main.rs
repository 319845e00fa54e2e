//! The model against an independent implementation, on random checkpoints of every shape the architecture allows.
//! What the truths are and how they were made stands in `fixtures/parity/README.md`.

mod case;
mod multiplied_out;

use case::{Case, Run, fixtures, floats, ints, longs, names, one_thread, run};
use cuvier_model::{Compute, Ctx, Isa, KvFormat, Matrix, TokenId, Transformer};
use cuvier_weights::Checkpoint;

/// Two f32 programs that sum in different orders differ by up to 1e-5 here.
const TOLERANCE: f32 = 5e-5;

/// The largest difference between recorded rows and ours.
fn max_error(truth: &[u8], positions: &str, logits: &str, ours: &Matrix) -> f32 {
    let rows = ints(truth, positions);
    let want = floats(truth, logits);
    assert_eq!(want.len(), rows.len() * ours.cols());
    let rows = rows.into_iter().zip(want.chunks_exact(ours.cols()));
    let errors =
        rows.flat_map(|(row, want)| want.iter().zip(ours.row(row as usize)).map(|(a, b)| (a - b).abs()));
    errors.fold(0.0, |max, error| if error <= max { max } else { error })
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

fn assert_same_bits(a: &Run, b: &Run, what: &str) {
    let differs = (0..a.logits.rows()).find(|&row| {
        a.logits.row(row).iter().zip(b.logits.row(row)).any(|(a, b)| a.to_bits() != b.to_bits())
    });
    assert_eq!(differs, None, "{what}: first differing position");
    assert!(a.state.save() == b.state.save(), "{what}: the states differ");
}

#[test]
fn logits_are_those_of_the_reference_for_every_shape_and_any_chunking() {
    for name in names() {
        let case = Case::load(&name);
        let whole = case.run(Isa::best(), KvFormat::F32, &[case.ids.len()]);
        let error = max_error(&case.truth, "positions", "logits", &whole.logits);
        eprintln!("{name}: {} tokens, max error {error:.1e}", case.ids.len());
        assert!(error <= TOLERANCE, "{name}: {error:e}");
        let margin = floats(&case.truth, "margin");
        for (position, want) in ints(&case.truth, "argmax").into_iter().enumerate() {
            if margin[position] > 2.0 * TOLERANCE {
                assert_eq!(argmax(whole.logits.row(position)), want as usize, "{name}: argmax at {position}");
            }
        }
        let irregular = case.run(Isa::best(), KvFormat::F32, &[3, 1, 130, 2, 7, 255, 4, 64]);
        assert_same_bits(&whole, &irregular, &format!("{name} in irregular chunks"));
        let single = case.run(Isa::best(), KvFormat::F32, &[1]);
        assert_same_bits(&whole, &single, &format!("{name} one by one"));
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for name in ["mixed", "odd_sizes", "true_heads"] {
        let mut case = Case::load(name);
        case.ids.truncate(300);
        for kv in [KvFormat::F32, KvFormat::Fp8] {
            let best = case.run(Isa::best(), kv, &[77]);
            for isa in Isa::available() {
                let other = case.run(isa, kv, &[101]);
                assert_same_bits(&best, &other, &format!("{} on {}", case.name, isa.name()));
            }
        }
    }
}

#[test]
fn the_draft_of_the_mtp_block_is_that_of_the_formulas() {
    let compute = Compute::new(Isa::best(), std::num::NonZeroUsize::MIN).expect("one thread needs no pool");
    for name in ["mixed", "true_heads", "two_streams"] {
        let case = Case::load(name);
        let mut run = case.run(Isa::best(), KvFormat::F32, &[50]);
        let mtp = case.model.mtp().expect("the case has an MTP block");
        let last = 1 + *ints(&case.truth, "mtp_positions").iter().max().expect("positions") as usize;
        let mut drafts = Vec::new();
        let mut start = 0;
        for size in [1, 60, 3].into_iter().cycle() {
            let end = last.min(start + size);
            let cols = run.streams.cols();
            let streams = Matrix::from_vec(run.streams.data()[start * cols..end * cols].to_vec(), cols);
            let next = &case.ids[start + 1..=end];
            let drafted = mtp.forward(&case.model, &streams, next, &mut run.state, &mut Ctx::new(&compute));
            drafts.extend_from_slice(drafted.expect("the draft runs").0.data());
            start = end;
            if start == last {
                break;
            }
        }
        let drafts = Matrix::from_vec(drafts, case.model.config().vocab_size);
        let error = max_error(&case.truth, "mtp_positions", "mtp_logits", &drafts);
        eprintln!("{name}: {last} drafts, max error {error:.1e}");
        assert!(error <= TOLERANCE, "{name}: {error:e}");
    }
}

/// An input moved by 1e-7 flips a few roundings and so moves half of the positions by more than 2e-3; leaving the
/// cache formats out moves half of them by more than 0.14. The median between tells the two apart.
#[test]
fn the_official_cache_formats_move_logits_as_the_formulas_say() {
    let case = Case::load("true_heads");
    let ours = case.run(Isa::best(), KvFormat::Fp8, &[64]).logits;
    let want = floats(&case.truth, "simulated_logits");
    let mut errors: Vec<f32> = ints(&case.truth, "positions")
        .into_iter()
        .zip(want.chunks_exact(ours.cols()))
        .map(|(row, want)| {
            want.iter().zip(ours.row(row as usize)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        })
        .collect();
    errors.sort_by(f32::total_cmp);
    let median = errors[errors.len() / 2];
    eprintln!("true_heads with official cache formats: median error {median:.1e}");
    assert!(median <= 1e-2, "{median:e}");
}

#[test]
fn a_checkpoint_written_by_save_pretrained_is_read_as_it_is() {
    let folder = fixtures().join("save_pretrained");
    let checkpoint = Checkpoint::open(&folder).expect("the checkpoint opens");
    let model = Transformer::load(&checkpoint, &one_thread(Isa::best())).expect("the model loads");
    let truth = std::fs::read(folder.join("truth.safetensors")).expect("the truth is there");
    let ids: Vec<_> = ints(&truth, "ids").into_iter().map(|id| TokenId(id as u32)).collect();
    let ours = run(&model, &ids, Isa::best(), KvFormat::F32, &[23]).logits;
    let want = floats(&truth, "logits");
    let error = want.iter().zip(ours.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert_eq!(want.len(), ours.data().len());
    assert!(error <= TOLERANCE, "{error:e}");
}

/// The reference multiplied its FP8 and FP4 weights out, and so does this test. Logits of a trained model are wider
/// than those of random ones, and the tolerance with them.
#[test]
fn the_trained_calf_gives_the_logits_of_the_reference() {
    let root = fixtures().join("../..");
    let checkpoint = multiplied_out::open(&root.join("models/calf"));
    let model = Transformer::load(&checkpoint, &one_thread(Isa::best())).expect("the calf loads");
    let truth = std::fs::read(root.join("fixtures/calf/golden.safetensors")).expect("the truth is there");
    for name in ["sum", "recall", "window", "far"] {
        let ids: Vec<_> =
            longs(&truth, &format!("{name}.ids")).into_iter().map(|id| TokenId(id as u32)).collect();
        let ours = run(&model, &ids, Isa::best(), KvFormat::F32, &[100]).logits;
        let want = floats(&truth, &format!("{name}.logits"));
        let spread = (want.iter().map(|x| x * x).sum::<f32>() / want.len() as f32).sqrt();
        let rows =
            longs(&truth, &format!("{name}.positions")).into_iter().zip(want.chunks_exact(ours.cols()));
        let mut worst = 0.0f32;
        for (position, want) in rows {
            let row = ours.row(position as usize);
            worst = want.iter().zip(row).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
            assert_eq!(argmax(want), argmax(row), "{name}: argmax at {position}");
        }
        eprintln!("calf, {name}: max error {worst:.1e}, logits spread over {spread:.1}");
        assert!(worst <= TOLERANCE * spread.max(1.0), "{name}: {worst:e}");
    }
}
