//! From the keys of a configuration to one that is possible.

use std::path::PathBuf;

use cuvier_types::TokenId;
use cuvier_weights::{Precision, WeightsError};
use serde_json::Map;
use toml::Spanned;

use super::raw::{Raw, RawAnticipation, RawLoss, RawOptimizer, RawQat, RawSchedule, RawStage};
use super::source::Source;
use super::{ConfigError, LossWeights, ModelChoice, Preset, Qat, RunLength, TrainConfig, Vocabulary};
use crate::anticipation::AnticipationOptions;
use crate::optim::schedule::{Ramp, ScheduleOptions, Stage, StageAttention};
use crate::optim::{AdamWOptions, MatrixRule, MuonOptions, OptimizerOptions};

/// What of a shape a configuration may change. The vocabulary is the tokenizer's.
const MODEL_KEYS: [&str; 27] = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "qk_rope_head_dim",
    "q_lora_rank",
    "o_groups",
    "o_lora_rank",
    "sliding_window",
    "compress_ratios",
    "compress_rope_theta",
    "rope_theta",
    "rope_scaling",
    "max_position_embeddings",
    "index_n_heads",
    "index_head_dim",
    "index_topk",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "num_hash_layers",
    "routed_scaling_factor",
    "swiglu_limit",
    "hc_mult",
    "hc_sinkhorn_iters",
    "rms_norm_eps",
    "num_nextn_predict_layers",
];

/// More steps, tokens or tokens per step than any run has; sums of them stay within 64 bits.
const COUNT_MAX: u64 = 1 << 50;

pub(super) fn read(text: &str, file: &str) -> Result<TrainConfig, ConfigError> {
    let source = Source { text, file };
    let raw: Raw = toml::from_str(text).map_err(|error| source.toml(&error))?;
    let model = model(&source, &raw)?;
    let from = from(&source, &raw)?;
    let (optimizer, rate, clip) = optimizer(&source, &raw.optimizer)?;
    let max_len = source.within("max_len", &raw.max_len, 512, 16..=1 << 30)?;
    let schedule = ScheduleOptions {
        rate,
        tokens_per_step: source.within("tokens_per_step", &raw.tokens_per_step, 16_384, 1..=COUNT_MAX)?,
        stages: stages(&source, &raw.stage, max_len)?,
        bias_speed: source.within("balance.speed", &raw.balance.speed, 0.01, 0.0..=1.0)? as f32,
        ..schedule(&source, &raw.schedule, &raw.loss)?
    };
    check_batches(&source, &raw, &schedule)?;
    Ok(TrainConfig {
        model,
        from,
        data: source.folder("data", &raw.data, "the folder of prepared documents")?,
        out: source.folder("out", &raw.out, "the folder for checkpoints and metrics")?,
        length: length(&source, &raw)?,
        seed: raw.seed.as_ref().map_or(0, |seed| *seed.get_ref()),
        optimizer,
        clip,
        schedule,
        loss: LossWeights {
            balance: source.within("loss.balance", &raw.loss.balance, 1e-4, 0.0..=10.0)? as f32,
            indexer: source.within("loss.indexer", &raw.loss.indexer, 1.0, 0.0..=100.0)? as f32,
        },
        qat: raw.qat.as_ref().map(|qat| self::qat(&source, qat)).transpose()?,
        anticipation: raw.anticipation.as_ref().map(|raw| anticipation(&source, raw)).transpose()?,
        checkpoint_every_steps: source.within(
            "checkpoint.every_steps",
            &raw.checkpoint.every_steps,
            500,
            1..=COUNT_MAX,
        )?,
        precision: precision(&source, &raw.checkpoint.precision)?,
    })
}

fn from(source: &Source<'_>, raw: &Raw) -> Result<Option<PathBuf>, ConfigError> {
    let shape = raw.preset.as_ref().map(Spanned::span).or_else(|| raw.model.keys().next().map(Spanned::span));
    match (&raw.from, shape) {
        (None, _) => Ok(None),
        (Some(_), Some(span)) => Err(source
            .at(span, "a checkpoint `from` which to begin has its own shape; leave this out".to_owned())),
        (from, None) => source.folder("from", from, "the folder of a checkpoint").map(Some),
    }
}

fn model(source: &Source<'_>, raw: &Raw) -> Result<ModelChoice, ConfigError> {
    let names = Preset::ALL.map(Preset::name);
    let preset = match &raw.preset {
        None => Preset::Nano,
        Some(name) => Preset::from_name(name.get_ref())
            .ok_or_else(|| source.not_one_of("preset", name.span(), name.get_ref(), &names))?,
    };
    let mut overrides = Map::new();
    for (key, value) in &raw.model {
        let name = key.get_ref();
        if !MODEL_KEYS.contains(&name.as_str()) {
            let keys = MODEL_KEYS.join("`, `");
            let problem = format!("`model.{name}` cannot be changed; of `config.json` these can: `{keys}`");
            return Err(source.at(key.span(), problem));
        }
        let json = serde_json::to_value(value)
            .map_err(|error| source.at(key.span(), format!("`model.{name}`: {error}")))?;
        overrides.insert(name.clone(), json);
    }
    let choice = ModelChoice { preset, overrides };
    // With a vocabulary of two, which no bound of another key depends on: what is wrong then always is.
    let two = Vocabulary { size: 2, bos: TokenId(0), eos: TokenId(1) };
    let line_of = |field: &str| {
        let key = raw.model.keys().find(|key| field.split('.').next() == Some(key.get_ref().as_str()));
        key.or_else(|| raw.model.keys().next()).map_or(0..0, Spanned::span)
    };
    match choice.config(two) {
        Ok(_) => Ok(choice),
        Err(WeightsError::Config { field, problem, .. }) => {
            Err(source.at(line_of(&field), format!("`model.{field}` {problem}")))
        }
        Err(error) => Err(source.at(line_of(""), error.to_string())),
    }
}

pub(super) fn optimizer(
    source: &Source<'_>,
    raw: &RawOptimizer,
) -> Result<(OptimizerOptions, f32, f64), ConfigError> {
    let matrices = match &raw.matrices {
        None => MatrixRule::Muon,
        Some(name) => match name.get_ref().as_str() {
            "muon" => MatrixRule::Muon,
            "adamw" => MatrixRule::AdamW,
            other => {
                let names = ["muon", "adamw"];
                return Err(source.not_one_of("optimizer.matrices", name.span(), other, &names));
            }
        },
    };
    let (muon, adamw) = (MuonOptions::default(), AdamWOptions::default());
    let share = |key, value, default: f32| -> Result<f32, ConfigError> {
        Ok(source.within(key, value, f64::from(default), 0.0..=0.999_999)? as f32)
    };
    let iterations = |key, value, default: usize| -> Result<usize, ConfigError> {
        Ok(source.within(key, value, default as u64, 0..=100)? as usize)
    };
    // One decay for both, as in the report.
    let decay = source.within("optimizer.decay", &raw.decay, 0.1, 0.0..=10.0)? as f32;
    let rms = source.within("optimizer.update_rms", &raw.update_rms, 0.18, 1e-6..=100.0)?;
    let options = OptimizerOptions {
        matrices,
        muon: MuonOptions {
            momentum: share("optimizer.momentum", &raw.momentum, muon.momentum)?,
            decay,
            update_rms: rms as f32,
            coarse_iterations: iterations(
                "optimizer.coarse_iterations",
                &raw.coarse_iterations,
                muon.coarse_iterations,
            )?,
            fine_iterations: iterations(
                "optimizer.fine_iterations",
                &raw.fine_iterations,
                muon.fine_iterations,
            )?,
        },
        adamw: AdamWOptions {
            beta1: share("optimizer.beta1", &raw.beta1, adamw.beta1)?,
            beta2: share("optimizer.beta2", &raw.beta2, adamw.beta2)?,
            eps: source.within("optimizer.eps", &raw.eps, 1e-20, 1e-37..=1.0)? as f32,
            decay,
        },
    };
    let rate = source.within("optimizer.rate", &raw.rate, 3e-3, 1e-9..=1.0)? as f32;
    let clip = source.within("optimizer.clip", &raw.clip, 1.0, 1e-6..=1e9)?;
    Ok((options, rate, clip))
}

/// What of the schedule stands in its own table and among the losses; the rest is the caller's.
fn schedule(source: &Source<'_>, raw: &RawSchedule, loss: &RawLoss) -> Result<ScheduleOptions, ConfigError> {
    let share = |key, value, default| source.within(key, value, default, 0.0..=1.0);
    let ramp = match &raw.ramp_from {
        None => None,
        from => Some(Ramp {
            from: source.within("schedule.ramp_from", from, 1, 1..=COUNT_MAX)?,
            share: share("schedule.ramp_share", &raw.ramp_share, 0.1)?,
        }),
    };
    if let (None, Some(alone)) = (&raw.ramp_from, &raw.ramp_share) {
        let problem = "`schedule.ramp_share` needs `schedule.ramp_from`, the tokens of the first step";
        return Err(source.at(alone.span(), problem.to_owned()));
    }
    let weight = |key, value, default| -> Result<f32, ConfigError> {
        Ok(source.within(key, value, default, 0.0..=10.0)? as f32)
    };
    Ok(ScheduleOptions {
        rate: 0.0,
        warmup_steps: source.within("schedule.warmup_steps", &raw.warmup_steps, 100, 0..=COUNT_MAX)?,
        decay_share: share("schedule.decay_share", &raw.decay_share, 0.25)?,
        end_share: share("schedule.end_share", &raw.end_share, 0.1)?,
        tokens_per_step: 0,
        ramp,
        mtp_weight: [weight("loss.mtp", &loss.mtp, 0.3)?, weight("loss.mtp_decay", &loss.mtp_decay, 0.1)?],
        bias_speed: 0.0,
        stages: Vec::new(),
    })
}

/// Without any: dense attention for most of the run, then what the indexer selects.
fn stages(source: &Source<'_>, raw: &[RawStage], max_len: u64) -> Result<Vec<Stage>, ConfigError> {
    if raw.is_empty() {
        let stage = |until, attention| Stage { until, max_len: max_len as usize, attention };
        return Ok(vec![stage(0.6, StageAttention::Dense), stage(1.0, StageAttention::Sparse)]);
    }
    let mut stages: Vec<Stage> = Vec::with_capacity(raw.len());
    for (index, stage) in raw.iter().enumerate() {
        let after = stages.last().map_or(0.0, |last| last.until);
        let (until, span) = (*stage.until.get_ref(), stage.until.span());
        let last = index + 1 == raw.len();
        if !(until > after && until <= 1.0) || (last && until != 1.0) {
            let can =
                if last { "1, as the last stage's".to_owned() } else { format!("above {after}, up to 1") };
            return Err(source.at(span, format!("`stage.until` is {until}; it can be {can}")));
        }
        let attention = match stage.attention.get_ref().as_str() {
            "dense" => StageAttention::Dense,
            "sparse" => StageAttention::Sparse,
            other => {
                let names = ["dense", "sparse"];
                return Err(source.not_one_of("stage.attention", stage.attention.span(), other, &names));
            }
        };
        let max_len = source.within("stage.max_len", &stage.max_len, max_len, 16..=1 << 30)?;
        stages.push(Stage { until, max_len: max_len as usize, attention });
    }
    Ok(stages)
}

/// A step has at least one sequence.
fn check_batches(source: &Source<'_>, raw: &Raw, schedule: &ScheduleOptions) -> Result<(), ConfigError> {
    let longest = schedule.stages.iter().map(|stage| stage.max_len as u64).max().unwrap_or(0);
    let full = schedule.tokens_per_step;
    if full < longest {
        let key = [&raw.tokens_per_step, &raw.max_len].into_iter().flatten().next();
        let span = key.map_or_else(|| raw.stage.first().map_or(0..0, |s| s.until.span()), Spanned::span);
        let problem =
            format!("`tokens_per_step` is {full}; it can be {longest}, the longest `max_len`, or more");
        return Err(source.at(span, problem));
    }
    if let (Some(ramp), Some(from)) = (schedule.ramp, &raw.schedule.ramp_from)
        && ramp.from > full
    {
        let problem =
            format!("`schedule.ramp_from` is {}; it can be 1 to {full}, the `tokens_per_step`", ramp.from);
        return Err(source.at(from.span(), problem));
    }
    Ok(())
}

fn length(source: &Source<'_>, raw: &Raw) -> Result<RunLength, ConfigError> {
    let given = [
        raw.steps.as_ref().map(Spanned::span),
        raw.tokens.as_ref().map(Spanned::span),
        raw.minutes.as_ref().map(Spanned::span),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (None, _) => Err(source.missing("one of `steps`, `tokens` and `minutes` is needed")),
        (Some(_), Some(second)) => {
            Err(source.at(second, "only one of `steps`, `tokens` and `minutes` is possible".to_owned()))
        }
        (Some(_), None) if raw.steps.is_some() => {
            Ok(RunLength::Steps(source.within("steps", &raw.steps, 1, 1..=COUNT_MAX)?))
        }
        (Some(_), None) if raw.tokens.is_some() => {
            Ok(RunLength::Tokens(source.within("tokens", &raw.tokens, 1, 1..=COUNT_MAX)?))
        }
        (Some(_), None) => {
            // A year.
            Ok(RunLength::Minutes(source.within("minutes", &raw.minutes, 1.0, 0.1..=525_600.0)?))
        }
    }
}

fn qat(source: &Source<'_>, raw: &RawQat) -> Result<Qat, ConfigError> {
    let is_on = |key: &Option<Spanned<bool>>, default| key.as_ref().map_or(default, |on| *on.get_ref());
    Ok(Qat {
        begin: source.within("qat.begin", &raw.begin, 0.9, 0.0..=1.0)?,
        experts: is_on(&raw.experts, true),
        indexer: is_on(&raw.indexer, true),
        linears: is_on(&raw.linears, false),
    })
}

fn anticipation(source: &Source<'_>, raw: &RawAnticipation) -> Result<AnticipationOptions, ConfigError> {
    let window = source.within("anticipation.window_steps", &raw.window_steps, 50, 3..=10_000)?;
    Ok(AnticipationOptions {
        window_steps: window as usize,
        spike: source.within("anticipation.spike", &raw.spike, 6.0, -1000.0..=1000.0)?,
        delay_steps: source.within("anticipation.delay_steps", &raw.delay_steps, 4, 1..=1000)?,
        for_steps: source.within("anticipation.for_steps", &raw.for_steps, 100, 1..=COUNT_MAX)?,
    })
}

fn precision(source: &Source<'_>, key: &Option<Spanned<String>>) -> Result<Precision, ConfigError> {
    const NAMES: [&str; 2] = ["official", "f32"];
    match key.as_ref().map(|key| (key.span(), key.get_ref().as_str())) {
        None | Some((_, "official")) => Ok(Precision::Official),
        Some((_, "f32")) => Ok(Precision::F32),
        Some((span, name)) => Err(source.not_one_of("checkpoint.precision", span, name, &NAMES)),
    }
}
