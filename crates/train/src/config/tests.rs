use super::*;
use crate::anticipation::AnticipationOptions;
use crate::optim::schedule::{Ramp, StageAttention};
use crate::optim::{AdamWOptions, MatrixRule, MuonOptions};
use cuvier_types::TokenId;
use cuvier_weights::{Precision, inventory};

const LEAST: &str = "data = \"corpus\"\nout = \"run\"\nsteps = 10\n";

fn vocabulary() -> Vocabulary {
    Vocabulary { size: 320, bos: TokenId(0), eos: TokenId(1) }
}

fn parsed(more: &str) -> TrainConfig {
    TrainConfig::parse(&format!("{LEAST}{more}"), "run.toml").expect("a configuration")
}

/// The error of `LEAST`, which has three lines, and `more`.
fn refused(more: &str) -> String {
    TrainConfig::parse(&format!("{LEAST}{more}"), "run.toml").expect_err("not one").to_string()
}

#[test]
fn what_is_not_said_is_as_deepseek_v4_was_trained() {
    let config = parsed("");
    assert_eq!(config.model, ModelChoice::preset(Preset::Nano));
    assert_eq!(config.length, RunLength::Steps(10));
    assert_eq!(config.optimizer.matrices, MatrixRule::Muon);
    assert_eq!(
        (config.optimizer.muon, config.optimizer.adamw),
        (MuonOptions::default(), AdamWOptions::default())
    );
    assert_eq!((config.clip, config.schedule.mtp_weight, config.loss.balance), (1.0, [0.3, 0.1], 1e-4));
    assert_eq!((config.qat, config.anticipation), (None, None));
    let attention: Vec<_> =
        config.schedule.stages.iter().map(|s| (s.until, s.max_len, s.attention)).collect();
    assert_eq!(attention, [(0.6, 512, StageAttention::Dense), (1.0, 512, StageAttention::Sparse)]);
}

#[test]
fn every_key_is_read() {
    let config = TrainConfig::parse(
        r#"
preset = "small"
data = "corpus"
out = "runs/small"
tokens = 5_000_000
tokens_per_step = 32768
max_len = 256
seed = 7

[model]
hidden_size = 192
compress_ratios = [4, 128, 0, 0, 0, 0, 4, 4]

[optimizer]
matrices = "adamw"
rate = 1e-3
decay = 0.2
momentum = 0.9
update_rms = 0.2
coarse_iterations = 5
fine_iterations = 0
beta1 = 0.8
beta2 = 0.99
eps = 1e-8
clip = 2

[schedule]
warmup_steps = 50
decay_share = 0.5
end_share = 0.0
ramp_from = 4096
ramp_share = 0.2

[[stage]]
until = 0.5
attention = "dense"

[[stage]]
until = 1
max_len = 1024
attention = "sparse"

[loss]
mtp = 0.2
mtp_decay = 0.05
balance = 0
indexer = 0.5

[balance]
speed = 0.001

[qat]
begin = 0.8
indexer = false

[anticipation]
window_steps = 30
spike = 5.0
delay_steps = 8
for_steps = 200

[checkpoint]
every_steps = 100
"#,
        "run.toml",
    )
    .expect("a configuration");
    assert_eq!((config.length, config.seed, config.clip), (RunLength::Tokens(5_000_000), 7, 2.0));
    let model = config.model.config(vocabulary()).expect("a shape");
    assert_eq!((model.hidden_size, model.num_attention_heads, model.vocab_size), (192, 4, 320));
    assert_eq!(model.compress_ratios, [4, 128, 0, 0, 0, 0, 4, 4]);
    let optimizer = &config.optimizer;
    let muon =
        MuonOptions { momentum: 0.9, decay: 0.2, update_rms: 0.2, coarse_iterations: 5, fine_iterations: 0 };
    assert_eq!((optimizer.matrices, optimizer.muon), (MatrixRule::AdamW, muon));
    assert_eq!(optimizer.adamw, AdamWOptions { beta1: 0.8, beta2: 0.99, eps: 1e-8, decay: 0.2 });
    let schedule = &config.schedule;
    assert_eq!((schedule.rate, schedule.warmup_steps, schedule.decay_share), (1e-3, 50, 0.5));
    assert_eq!((schedule.end_share, schedule.tokens_per_step, schedule.bias_speed), (0.0, 32768, 0.001));
    assert_eq!(schedule.ramp, Some(Ramp { from: 4096, share: 0.2 }));
    assert_eq!(schedule.mtp_weight, [0.2, 0.05]);
    let lens: Vec<usize> = schedule.stages.iter().map(|stage| stage.max_len).collect();
    assert_eq!(lens, [256, 1024]);
    assert_eq!(config.loss, LossWeights { balance: 0.0, indexer: 0.5 });
    assert_eq!(config.qat, Some(Qat { begin: 0.8, experts: true, indexer: false, linears: false }));
    let anticipation = AnticipationOptions { window_steps: 30, spike: 5.0, delay_steps: 8, for_steps: 200 };
    assert_eq!(config.anticipation, Some(anticipation));
    assert_eq!(config.checkpoint_every_steps, 100);
}

#[test]
fn values_out_of_range_are_refused_with_line_key_and_range() {
    for (more, error) in [
        ("max_len = 2", "run.toml:4: `max_len` is 2; it can be 16 to 1073741824"),
        ("\n[optimizer]\nrate = 0", "run.toml:6: `optimizer.rate` is 0; it can be 0.000000001 to 1"),
        ("[optimizer]\nmomentum = nan", "run.toml:5: `optimizer.momentum` is NaN; it can be 0 to 0.999999"),
        ("[loss]\nmtp = -0.1", "run.toml:5: `loss.mtp` is -0.1; it can be 0 to 10"),
        ("preset = \"tiny\"", "run.toml:4: `preset` is \"tiny\"; it can be \"nano\", \"small\", \"base\""),
        (
            "tokens_per_step = 100",
            "run.toml:4: `tokens_per_step` is 100; it can be 512, the longest `max_len`, or more",
        ),
        (
            "[schedule]\nramp_from = 20000",
            "run.toml:5: `schedule.ramp_from` is 20000; it can be 1 to 16384, the `tokens_per_step`",
        ),
        (
            "[schedule]\nramp_share = 0.5",
            "run.toml:5: `schedule.ramp_share` needs `schedule.ramp_from`, the tokens of the first step",
        ),
        (
            "[anticipation]\ndelay_steps = 0",
            "run.toml:5: `anticipation.delay_steps` is 0; it can be 1 to 1000",
        ),
        ("tokens = 5", "run.toml:4: only one of `steps`, `tokens` and `minutes` is possible"),
        (
            "[[stage]]\nuntil = 0.9\nattention = \"dense\"",
            "run.toml:5: `stage.until` is 0.9; it can be 1, as the last stage's",
        ),
        (
            "[[stage]]\nuntil = 1.0\nattention = \"full\"",
            "run.toml:6: `stage.attention` is \"full\"; it can be \"dense\", \"sparse\"",
        ),
    ] {
        assert_eq!(refused(more), error, "{more}");
    }
}

#[test]
fn keys_of_another_type_unknown_or_missing_are_refused_by_name() {
    let unknown = refused("[optimizer]\nlr = 1");
    assert!(unknown.starts_with("run.toml:5: `lr`: unknown field `lr`, expected one of `matrices`, `rate`"));
    let word = refused("max_len = \"long\"");
    assert!(word.starts_with("run.toml:4: `max_len`: invalid type: string \"long\""), "{word}");
    let negative = refused("seed = -1");
    assert!(negative.starts_with("run.toml:4: `seed`: "), "{negative}");
    let broken = refused("seed = ");
    assert!(broken.starts_with("run.toml:4: `seed`: "), "{broken}");
    let missing = TrainConfig::parse("out = \"a\"\nsteps = 1", "run.toml").expect_err("no data").to_string();
    assert_eq!(missing, "run.toml: `data` is missing: the folder of prepared documents");
    let endless =
        TrainConfig::parse("out = \"a\"\ndata = \"b\"", "run.toml").expect_err("no end").to_string();
    assert_eq!(endless, "run.toml: one of `steps`, `tokens` and `minutes` is needed");
}

#[test]
fn a_shape_that_contradicts_itself_is_refused_at_the_line_of_its_key() {
    let odd = refused("[model]\nhidden_size = 64\nindex_head_dim = 24");
    assert_eq!(odd, "run.toml:6: `model.index_head_dim` is 24, not a power of two");
    let unknown = refused("[model]\nvocab_size = 9");
    assert!(unknown.starts_with("run.toml:5: `model.vocab_size` cannot be changed; of `config.json`"));
    let ratio = refused("[model]\ncompress_ratios = [0, 0, 4, 32, 4, 32]");
    assert!(
        ratio.starts_with("run.toml:5: `model.compress_ratios` is 32 at layer 3; it can be 0, 4 or 128"),
        "{ratio}"
    );
}

#[test]
fn presets_have_the_sizes_that_are_promised() {
    for (preset, millions) in [(Preset::Nano, 1.1), (Preset::Small, 7.0), (Preset::Base, 23.0)] {
        let config = preset.config(vocabulary()).expect("a shape");
        let numbers: usize = inventory(&config, true)
            .iter()
            .filter(|spec| !spec.name.ends_with("tid2eid"))
            .map(|spec| spec.elements())
            .sum();
        let got = numbers as f64 / 1e6;
        assert!((got / millions - 1.0).abs() < 0.12, "{}: {got}", preset.name());
        assert_eq!(Preset::from_name(preset.name()), Some(preset));
        // FP4 experts need whole blocks.
        let fp4 =
            inventory(&config, true).iter().find(|spec| spec.name.contains(".experts.0.w1")).expect("one");
        assert!(
            fp4.stored(Precision::Official).1.is_some_and(|scale| scale.shape[1] * 32 == config.hidden_size)
        );
    }
}
