//! Whole runs of a small model on made-up documents.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cuvier_kernels::{Compute, Isa};
use cuvier_train::config::{DistillConfig, TrainConfig};
use cuvier_train::data::{Making, Recipe, TokenizerFiles};
use cuvier_train::distill::{self, DistillEvent};
use cuvier_train::metrics::read_metrics;
use cuvier_train::save::{Loaded, latest};
use cuvier_train::trainer::{self, METRICS, Outcome};
use cuvier_weights::Checkpoint;
use tempfile::TempDir;

const RECIPE: &str =
    "seed = 3\n[[source]]\ntask = \"arithmetic\"\nsamples = 120\nheld_out = 10\ndigits = [1]\n";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn data(folder: &Path) -> PathBuf {
    let file = folder.join("recipe.toml");
    std::fs::write(&file, RECIPE).expect("the recipe is written");
    let read = |name: &str| std::fs::read(repository().join("models/calf").join(name)).expect("the calf's");
    let files = TokenizerFiles { tokenizer: read("tokenizer.json"), config: read("tokenizer_config.json") };
    let recipe = Recipe::read(&file, None).expect("a recipe");
    let out = folder.join("data");
    let making = Making::new(&recipe, files).expect("a tokenizer");
    making.write(&out, false, &mut |_| {}).expect("documents are written");
    out
}

/// In every step behind the third, the experts are those that weights of up to two steps before chose.
const ANTICIPATION: &str =
    "[anticipation]\nwindow_steps = 3\nspike = -1000.0\ndelay_steps = 2\nfor_steps = 100\n";

fn config(folder: &Path, data: &Path, out: &str) -> (TrainConfig, String) {
    let mut text = format!(
        "preset = \"nano\"\ndata = {:?}\nout = {:?}\nsteps = 6\ntokens_per_step = 500\nmax_len = 200\nseed = 5\n\
         [schedule]\nwarmup_steps = 2\n[checkpoint]\nevery_steps = 4\n",
        data.display(),
        folder.join(out).display(),
    );
    if out.starts_with("anticipating") {
        text = text.replace("steps = 6", "steps = 8") + ANTICIPATION;
    }
    let mut config = TrainConfig::parse(&text, "test.toml").expect("a configuration");
    // Runs that are compared have one text; only the folder differs.
    let text = text.replace(out, "run");
    config.out = folder.join(out);
    (config, text)
}

fn run(folder: &Path, data: &Path, out: &str, threads: usize, resume: bool, stop_after: u64) -> Outcome {
    let compute = Compute::new(Isa::best(), NonZeroUsize::new(threads).expect("positive")).expect("threads");
    let (config, text) = config(folder, data, out);
    std::fs::create_dir_all(&config.out).expect("a folder");
    let steps = AtomicU64::new(0);
    let stop = || steps.load(Ordering::Relaxed) >= stop_after;
    let mut tell = |event| {
        if let trainer::Event::Step { .. } = event {
            steps.fetch_add(1, Ordering::Relaxed);
        }
    };
    trainer::run(&config, &text, resume, &compute, &stop, &mut tell).expect("the run ends well")
}

fn last(folder: &Path, out: &str) -> Loaded {
    let folder = latest(&folder.join(out)).expect("the folder is readable").expect("a checkpoint");
    Loaded::read(&folder).expect("the checkpoint is whole")
}

#[test]
fn a_run_is_the_same_bits_again_on_other_threads_and_after_a_stop() {
    let folder = TempDir::new().expect("a folder");
    let data = data(folder.path());
    let done = run(folder.path(), &data, "run", 1, false, u64::MAX);
    let want = last(folder.path(), "run");
    assert_eq!(want.progress.step, 6);

    run(folder.path(), &data, "threads", 2, false, u64::MAX);
    assert!(last(folder.path(), "threads") == want, "two threads give other weights than one");

    for stop_after in [1, 3, 5] {
        let out = format!("stopped{stop_after}");
        let stopped = run(folder.path(), &data, &out, 2, false, stop_after);
        assert!(matches!(stopped, Outcome::Stopped(_)), "{stopped:?}");
        assert_eq!(last(folder.path(), &out).progress.step, stop_after);
        let resumed = run(folder.path(), &data, &out, 1, true, u64::MAX);
        assert!(matches!(resumed, Outcome::Done(_)));
        assert!(last(folder.path(), &out) == want, "stopped after {stop_after}, the weights are others");
        let losses = |out: &str| -> Vec<(u64, f64)> {
            let metrics = read_metrics(&folder.path().join(out).join(METRICS)).expect("metrics");
            metrics.iter().map(|step| (step.step, step.loss.total)).collect()
        };
        assert_eq!(losses(&out), losses("run"));
    }

    let Outcome::Done(model) = done else { panic!("{done:?}") };
    let checkpoint = Checkpoint::open(&model).expect("every verb opens it");
    assert_eq!(checkpoint.config().num_hidden_layers, 6);
}

#[test]
fn a_run_that_anticipates_its_experts_goes_on_with_the_ones_it_had_chosen() {
    let folder = TempDir::new().expect("a folder");
    let data = data(folder.path());
    run(folder.path(), &data, "anticipating", 1, false, u64::MAX);
    let want = last(folder.path(), "anticipating");
    let metrics = read_metrics(&folder.path().join("anticipating").join(METRICS)).expect("metrics");
    let is_anticipated: Vec<bool> = metrics.iter().map(|step| step.is_anticipated).collect();
    assert_eq!(is_anticipated, [false, false, false, false, true, true, true, true]);
    for stop_after in [2, 4, 5, 7] {
        let out = format!("anticipating{stop_after}");
        run(folder.path(), &data, &out, 2, false, stop_after);
        run(folder.path(), &data, &out, 2, true, u64::MAX);
        assert!(last(folder.path(), &out) == want, "stopped after {stop_after}, the run is another");
    }
}

#[test]
fn a_run_does_not_begin_where_one_is_nor_go_on_with_another_configuration() {
    let folder = TempDir::new().expect("a folder");
    let data = data(folder.path());
    run(folder.path(), &data, "run", 1, false, 1);
    let compute = Compute::new(Isa::best(), NonZeroUsize::MIN).expect("one thread");
    let (config, text) = config(folder.path(), &data, "run");
    let error = |text: &str, resume| {
        let stop = || true;
        let result = trainer::run(&config, text, resume, &compute, &stop, &mut |_| {});
        result.expect_err("the run is refused").to_string()
    };
    assert!(error(&text, false).contains("--resume"), "{}", error(&text, false));
    assert!(error("steps = 7", true).contains("another configuration"), "{}", error("steps = 7", true));
}

#[test]
fn a_student_is_at_no_distance_from_itself_and_comes_nearer_to_another_teacher() {
    let folder = TempDir::new().expect("a folder");
    let data = data(folder.path());
    run(folder.path(), &data, "run", 1, false, u64::MAX);
    let (mut other, text) = config(folder.path(), &data, "other");
    other.seed += 1;
    let compute = Compute::new(Isa::best(), NonZeroUsize::MIN).expect("a thread");
    std::fs::create_dir_all(&other.out).expect("a folder");
    trainer::run(&other, &text, false, &compute, &|| false, &mut |_| {}).expect("the run ends well");
    let divergences = |teacher: &str, steps: usize| -> Vec<f64> {
        let path = |name: &str| folder.path().join(name);
        let text = format!(
            "from = {:?}\nout = {:?}\nsteps = {steps}\nquestions = 8\ntokens_max = 6\n[optimizer]\nmatrices = \"adamw\"\n\
             rate = 1e-3\n[held_out]\nquestions = 2\n[[teacher]]\nmodel = {:?}\ndata = {:?}\n",
            path("run/model").display(),
            path(&format!("from-{teacher}")).display(),
            path(teacher).join("model").display(),
            data.display(),
        );
        let config = DistillConfig::parse(&text, "test.toml").expect("a configuration");
        std::fs::create_dir_all(&config.out).expect("a folder");
        let mut divergences = Vec::new();
        let mut tell = |event| {
            if let DistillEvent::Step(metrics) = event {
                divergences.push(metrics.domains[0].divergence);
            }
        };
        let model = distill::run(&config, &compute, &|| false, &mut tell).expect("the run ends well");
        Checkpoint::open(&model).expect("what was learned is a checkpoint");
        let again = distill::run(&config, &compute, &|| false, &mut |_| panic!("it is refused at once"));
        let error = again.expect_err("what was learned is still there").to_string();
        assert!(error.contains("learned already"), "{error}");
        divergences
    };
    assert!(divergences("run", 1)[0].abs() < 1e-6);
    let to_other = divergences("other", 12);
    assert!(to_other[0] > 1e-3 && to_other[11] < 0.8 * to_other[0], "{to_other:?}");
}
