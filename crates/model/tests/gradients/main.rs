//! The backward pass of a whole tiny model against two that share no code with it: the automatic one of `transformers`,
//! and central differences of formulas in double precision. What they are stands in `fixtures/gradients/README.md`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cuvier_kernels::cross_entropy;
use cuvier_model::{
    Compute, Isa, KvFormat, LogitGradients, Matrix, Objective, Parameters, TokenId, TrainingPass, Transformer,
};
use cuvier_weights::synth::{self, SynthOptions};
use cuvier_weights::{Checkpoint, ModelConfig, Precision};
use safetensors::SafeTensors;

/// What the gradients of one tensor may be off by, relative to their length.
const TOLERANCE: f64 = 1e-3;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gradients")
}

fn facts() -> serde_json::Value {
    let text = std::fs::read_to_string(fixtures().join("facts.json")).expect("facts.json is there");
    serde_json::from_str(&text).expect("facts.json is JSON")
}

struct Case {
    model: Transformer,
    documents: Vec<Vec<TokenId>>,
    _folder: tempfile::TempDir,
}

impl Case {
    fn load(kind: &str) -> Self {
        let facts = facts();
        let config = std::fs::read_to_string(fixtures().join("config.json")).expect("config");
        let mut config = ModelConfig::parse(&config, "gradients").expect("the config is valid");
        config.index_topk = facts["index_topk"][kind].as_u64().expect("a count") as usize;
        let seed = facts["seed"].as_u64().expect("a seed");
        let folder = tempfile::tempdir().expect("a folder for the checkpoint");
        let directory = folder.path().join("checkpoint");
        let options = SynthOptions { seed, precision: Precision::F32, ..SynthOptions::new(config.clone()) };
        synth::write(&directory, &options, &mut |_, _| {}).expect("the checkpoint is written");
        let checkpoint = Checkpoint::open(&directory).expect("the checkpoint opens");
        let model = Transformer::load(&checkpoint, &compute(1)).expect("the model loads");
        let ids = |ids: &serde_json::Value| {
            let ids = ids.as_array().expect("ids").iter();
            ids.map(|id| TokenId(id.as_u64().expect("an id") as u32)).collect()
        };
        let documents = facts["documents"].as_array().expect("documents").iter().map(ids).collect();
        Self { model, documents, _folder: folder }
    }
}

fn compute(threads: usize) -> Compute {
    Compute::new(Isa::best(), NonZeroUsize::new(threads).expect("positive")).expect("threads start")
}

/// The loss and its gradients: mean cross entropy of the next token, plus `mtp` times that of the one after it.
fn gradients(case: &mut Case, mtp: f32, compute: &Compute) -> (f64, Parameters) {
    let documents: Vec<&[TokenId]> = case.documents.iter().map(Vec::as_slice).collect();
    let mut sums = case.model.parameters(compute).zeros_like();
    let pass =
        case.model.training_pass(&documents, mtp > 0.0, KvFormat::F32, None, compute).expect("the pass runs");
    let (loss, dlogits) = loss(&documents, pass_logits(&pass), mtp, compute);
    case.model.backward(&pass, dlogits, &Objective::default(), &mut sums, compute);
    (loss, sums)
}

fn pass_logits(pass: &TrainingPass) -> (Matrix, Option<Matrix>) {
    ((*pass.logits).clone(), pass.mtp_logits.as_ref().map(|logits| (**logits).clone()))
}

fn loss(
    documents: &[&[TokenId]],
    (mut logits, mut ahead): (Matrix, Option<Matrix>),
    mtp: f32,
    compute: &Compute,
) -> (f64, LogitGradients) {
    let mut total = mean_cross_entropy(documents, 1, &mut logits, 1.0, compute);
    if let Some(ahead) = &mut ahead {
        total += mean_cross_entropy(documents, 2, ahead, mtp, compute);
    }
    (total, LogitGradients { logits: logits.into(), mtp_logits: ahead.map(Into::into) })
}

/// `factor` times the mean cross entropy of the tokens `ahead` of each row, whose logits become its gradient.
fn mean_cross_entropy(
    documents: &[&[TokenId]],
    ahead: usize,
    logits: &mut Matrix,
    factor: f32,
    compute: &Compute,
) -> f64 {
    let count: usize = documents.iter().map(|tokens| tokens.len() - ahead).sum();
    let (mut targets, mut weights) = (Vec::new(), Vec::new());
    for tokens in documents {
        for row in 0..tokens.len() - (ahead - 1) {
            let target = tokens.get(row + ahead);
            targets.push(target.map_or(0, |token| token.0));
            weights.push(if target.is_some() { factor / count as f32 } else { 0.0 });
        }
    }
    let losses = cross_entropy(compute, logits.view_mut(), &targets, &weights);
    losses.iter().zip(&weights).map(|(&loss, &weight)| f64::from(loss) * f64::from(weight)).sum()
}

fn norm(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn the_gradients_of_every_tensor_are_those_of_autograd_sparse_and_dense() {
    for kind in ["sparse", "dense"] {
        let mut case = Case::load(kind);
        let (loss, ours) = gradients(&mut case, 0.0, &compute(2));
        let want = facts()[kind]["loss"].as_f64().expect("a loss");
        assert!((loss - want).abs() < 1e-5, "{kind}: loss {loss}, not {want}");
        let truth = std::fs::read(fixtures().join(format!("{kind}.safetensors"))).expect("the truth");
        let truth = SafeTensors::deserialize(&truth).expect("the truth is a safetensors file");
        let mut worst = (0.0, String::new());
        for name in truth.names() {
            let want = truth.tensor(name).expect("it is there").data().as_chunks::<4>().0;
            let want: Vec<f64> = want.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect();
            let got = ours.get(name).unwrap_or_else(|| panic!("{kind}: no gradient of {name}"));
            assert_eq!(got.data().len(), want.len(), "{kind}: {name}");
            let length = norm(want.iter().copied());
            let off = norm(got.data().iter().zip(&want).map(|(&got, want)| f64::from(got) - want));
            eprintln!("{kind} {name}: {:.1e} of {length:.1e}", off / length.max(1e-12));
            if off / length.max(1e-9) > worst.0 {
                worst = (off / length.max(1e-9), name.to_string());
            }
        }
        eprintln!("{kind}: worst relative error {:.1e} at {}", worst.0, worst.1);
        assert!(worst.0 <= TOLERANCE, "{kind}: {worst:?}");
    }
}

#[test]
fn the_gradients_along_a_direction_of_every_tensor_are_those_of_the_formulas_mtp_included() {
    let mut case = Case::load("sparse");
    let mtp = facts()["mtp_weight"].as_f64().expect("a weight") as f32;
    let (loss, ours) = gradients(&mut case, mtp, &compute(2));
    let truth = std::fs::read(fixtures().join("differences.safetensors")).expect("the truth");
    let truth = SafeTensors::deserialize(&truth).expect("the truth is a safetensors file");
    let number = |name: &str| {
        let bytes = truth.tensor(name).expect("it is there").data().as_chunks::<8>().0[0];
        f64::from_le_bytes(bytes)
    };
    assert!((loss - number("loss")).abs() < 1e-5, "loss {loss}, not {}", number("loss"));
    let mut worst = (0.0, String::new());
    for (name, gradient) in ours.iter() {
        let along = (0..gradient.data().len()).map(|i| (1.7 * i as f64 + 0.3).cos());
        let got: f64 =
            gradient.data().iter().zip(along.clone()).map(|(&g, along)| f64::from(g) * along).sum();
        let length = norm(gradient.data().iter().map(|&g| f64::from(g))) * norm(along);
        let off = (got - number(name)).abs() / length.max(1e-6);
        if off > worst.0 {
            worst = (off, name.to_owned());
        }
    }
    eprintln!("worst error {:.1e} of the gradient's and the direction's length, at {}", worst.0, worst.1);
    assert!(worst.0 <= TOLERANCE, "{worst:?}");
}

#[test]
fn gradients_are_the_same_bits_on_any_number_of_threads() {
    let mut case = Case::load("sparse");
    let one = gradients(&mut case, 0.3, &compute(1));
    let three = gradients(&mut case, 0.3, &compute(3));
    assert_eq!(one.0.to_bits(), three.0.to_bits());
    assert!(one.1 == three.1, "gradients differ");
}

#[test]
fn later_tokens_and_other_documents_change_no_earlier_logits() {
    let case = Case::load("sparse");
    let compute = compute(2);
    let vocab = case.model.config().vocab_size;
    let pass = |documents: &[Vec<TokenId>]| {
        let documents: Vec<&[TokenId]> = documents.iter().map(Vec::as_slice).collect();
        pass_logits(
            &case
                .model
                .training_pass(&documents, true, KvFormat::F32, None, &compute)
                .expect("the pass runs"),
        )
    };
    let (before, ahead_before) = pass(&case.documents);
    for changed in [1, 4, 64, 127, 128, 149] {
        let mut documents = case.documents.clone();
        documents[0][changed].0 = (documents[0][changed].0 + 1) % vocab as u32;
        let (after, ahead_after) = pass(&documents);
        let first = case.documents[0].len();
        for row in (0..changed).chain(first..first + case.documents[1].len()) {
            assert_eq!(before.row(row), after.row(row), "token {changed} reaches row {row}");
        }
        assert_ne!(before.row(changed), after.row(changed), "token {changed} reaches its own row");
        // The MTP block has a row less per document, and sees the next token.
        let (before, after) = (ahead_before.as_ref().expect("MTP"), ahead_after.as_ref().expect("MTP"));
        for row in (0..changed - 1).chain(first - 1..before.rows()) {
            assert_eq!(before.row(row), after.row(row), "token {changed} reaches row {row} of the MTP block");
        }
    }
}

#[test]
fn experts_that_were_chosen_before_are_taken_and_weighed_by_the_scores_of_now() {
    let case = Case::load("sparse");
    let compute = compute(1);
    let documents: Vec<&[TokenId]> = case.documents.iter().map(Vec::as_slice).collect();
    let pass = |chosen: Option<&[Matrix<u16>]>| {
        case.model.training_pass(&documents, true, KvFormat::F32, chosen, &compute).expect("the pass runs")
    };
    let free = pass(None);
    let chosen = free.chosen(&case.model);
    let bound = pass(Some(&chosen));
    assert!(pass_logits(&bound) == pass_logits(&free), "the same experts give other logits");

    // Everyone's experts, one number further.
    let n_experts = case.model.config().n_routed_experts as u16;
    let mut others = chosen;
    others.iter_mut().flat_map(Matrix::data_mut).for_each(|id| *id = (*id + 1) % n_experts);
    let other = pass(Some(&others));
    assert!(pass_logits(&other) != pass_logits(&free), "other experts give the same logits");
    for ((name, before), (_, after)) in free.loads(&case.model).into_iter().zip(other.loads(&case.model)) {
        let mut want = before.clone();
        if name.ends_with(".bias") {
            want.rotate_right(1);
        }
        assert_eq!(after, want, "{name}");
    }
}
