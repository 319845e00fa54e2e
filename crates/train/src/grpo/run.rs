//! A run of GRPO: questions, answers, rewards, a step; again and again.

use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cuvier_encoding::{Generation, Tokenizer};
use cuvier_engine::EngineError;
use cuvier_kernels::{Compute, KvFormat};
use cuvier_model::{LogitGradients, Parameters, Transformer};
use cuvier_types::TokenId;
use cuvier_weights::{Checkpoint, ModelConfig, Precision};
use serde::{Deserialize, Serialize};

use super::policy::{Policy, advantages, is_off_policy};
use super::rollout::{Drawing, Question, Rollout, draw, questions};
use crate::config::{GrpoConfig, LossWeights, Reward};
use crate::data::{DataError, Encoder, Rng};
use crate::optim::schedule::{Schedule, ScheduleOptions, Stage, StageAttention};
use crate::optim::{Optimizer, OptimizerOptions};
use crate::routers::Routers;
use crate::save::{SaveError, read_official, write_official};
use crate::trainer::{MODEL, TrainError, Trainer, TrainerParts, load_model, refuse_done, target_logprobs};

/// What a run writes beside its checkpoint: one line per step.
pub const GRPO_METRICS: &str = "grpo.jsonl";

/// One step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GrpoMetrics {
    /// Which, from 0.
    pub step: u64,
    /// Mean reward of the answers.
    pub reward: f64,
    /// Share of answers that the verifier finds right.
    pub right: f64,
    /// Share of held-out questions that one answer at temperature 1 gets right, where that was asked after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
    /// Mean tokens of an answer.
    pub length: f64,
    /// Entropy of the next token, in nats, estimated by the tokens drawn.
    pub entropy: f64,
    /// Distance to the reference, in nats per token.
    pub distance: f64,
    /// Share of questions whose answers are all worth the same: they teach nothing.
    pub flat_groups: f64,
    /// Share of tokens whose ratio stopped to count.
    pub clipped: f64,
    /// Share of answers that were left out.
    pub masked: f64,
    /// The largest difference between a token's log-probability when it was drawn and in the training pass, in nats.
    pub mismatch: f64,
    /// Norm of all gradients before they were clipped.
    pub grad_norm: f64,
    /// Seconds since the run began.
    pub seconds: f64,
}

/// What a run tells while it goes on.
#[derive(Clone, Debug)]
pub enum GrpoEvent {
    /// The share of held-out questions answered rightly before the first step.
    Began {
        /// That share.
        held_out: f64,
        /// Questions to learn from.
        questions: usize,
    },
    /// A step is done.
    Step(GrpoMetrics),
}

/// Runs it. The folder that comes back is a checkpoint in the format of the releases. `stop` is looked at between steps;
/// what was learned until then is written.
///
/// # Errors
/// If the configuration's files are not there or not right, or the disk refuses.
pub fn run(
    config: &GrpoConfig,
    compute: &Compute,
    stop: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(GrpoEvent),
) -> Result<PathBuf, TrainError> {
    refuse_done(&config.out)?;
    let mut run = Run::new(config, compute)?;
    let metrics_file = config.out.join(GRPO_METRICS);
    let io = |doing| SaveError::io(&metrics_file, doing);
    let mut log = std::fs::File::create(&metrics_file).map_err(io("creating"))?;
    let held_out = run.ask_held_out(0)?;
    tell(GrpoEvent::Began { held_out, questions: run.train.len() });
    for step in 0..config.steps {
        let mut metrics = run.step(step, compute)?;
        if (step + 1).is_multiple_of(config.held_out_every_steps) || step + 1 == config.steps {
            metrics.held_out = Some(run.ask_held_out(step + 1)?);
        }
        let line = serde_json::to_string(&metrics)
            .map_err(|source| SaveError::Json { file: metrics_file.clone(), source })?;
        writeln!(log, "{line}").map_err(io("appending"))?;
        tell(GrpoEvent::Step(metrics));
        if stop() {
            break;
        }
    }
    let folder = config.out.join(MODEL);
    let (parameters, routers) = (run.trainer.parameters(), run.trainer.routers());
    write_official(&folder, &run.shape, parameters, routers, Precision::Official, &config.data)?;
    Ok(folder)
}

/// The steps in a file that a run wrote.
///
/// # Errors
/// If it cannot be read, or a line is not a step.
pub fn read_grpo_metrics(file: &Path) -> Result<Vec<GrpoMetrics>, SaveError> {
    let text = std::fs::read_to_string(file).map_err(SaveError::io(file, "reading"))?;
    let json = |source| SaveError::Json { file: file.to_owned(), source };
    text.lines().map(|line| serde_json::from_str(line).map_err(json)).collect()
}

struct Run<'a> {
    config: &'a GrpoConfig,
    shape: ModelConfig,
    tokenizer: Tokenizer,
    train: Vec<Question>,
    held_out: Vec<Question>,
    trainer: Trainer,
    reference: Transformer,
    threads: NonZeroUsize,
    compute: &'a Compute,
    began: Instant,
}

/// The answers of a step and what they are worth.
struct Batch {
    rollouts: Vec<Rollout>,
    rewards: Vec<f32>,
    advantages: Vec<f32>,
    right: usize,
    flat_groups: usize,
}

impl<'a> Run<'a> {
    fn new(config: &'a GrpoConfig, compute: &'a Compute) -> Result<Self, TrainError> {
        let path = config.data.join("tokenizer.json");
        let tokenizer =
            Tokenizer::from_file(&path).map_err(|source| DataError::Tokenizer { path, source })?;
        let encoder = Encoder { tokenizer: &tokenizer, generation: Generation::Revised0731 };
        let [train, held_out] = ["train.jsonl", "held_out.jsonl"].map(|file| config.data.join(file));
        let train = questions(&train, encoder)?;
        let mut held_out = questions(&held_out, encoder)?;
        held_out.truncate(config.held_out_questions);
        if train.is_empty() || held_out.is_empty() {
            let problem = "there is no question that a verifier can judge, to learn from or to test with";
            return Err(TrainError::Folder { folder: config.data.clone(), problem });
        }
        let checkpoint = Checkpoint::open(&config.from)?;
        let shape = checkpoint.config().clone();
        let (parameters, routers) = read_official(&checkpoint)?;
        let scratch = config.out.join("shape.part");
        let load = || load_model(&scratch, &shape, &parameters, &routers, &config.data, compute);
        let (model, reference) = (load()?, load()?);
        let learning = Learning {
            optimizer: config.optimizer,
            rate: config.rate,
            clip: config.clip,
            steps: config.steps,
        };
        let trainer = learning.begin(model, parameters, routers);
        let threads = NonZeroUsize::new(compute.threads()).unwrap_or(NonZeroUsize::MIN);
        let began = Instant::now();
        Ok(Self { config, shape, tokenizer, train, held_out, trainer, reference, threads, compute, began })
    }

    /// The share of held-out questions that one answer each gets right.
    fn ask_held_out(&self, step: u64) -> Result<f64, TrainError> {
        let asked: Vec<&Question> = self.held_out.iter().collect();
        let rollouts = self.draw(&asked, 1, self.config.seed ^ (0xF00D + step))?;
        let right =
            rollouts.iter().filter(|rollout| asked[rollout.question].is_right(rollout, &self.tokenizer));
        Ok(right.count() as f64 / asked.len() as f64)
    }

    fn draw(&self, asked: &[&Question], answers: usize, seed: u64) -> Result<Vec<Rollout>, TrainError> {
        let drawing = Drawing { answers, tokens_max: self.config.tokens_max, seed };
        let (stop, isa) = (self.tokenizer.control().eos, self.compute.isa());
        draw(self.trainer.model(), asked, stop, drawing, self.threads, isa).map_err(TrainError::Engine)
    }

    fn step(&mut self, step: u64, compute: &Compute) -> Result<GrpoMetrics, TrainError> {
        let mut rng = Rng::of(self.config.seed, 1, step);
        let chosen: Vec<usize> = (0..self.config.questions).map(|_| rng.index(self.train.len())).collect();
        let asked: Vec<&Question> = chosen.iter().map(|&index| &self.train[index]).collect();
        let rollouts = self.draw(&asked, self.config.answers, self.config.seed ^ (step << 20))?;
        let batch = self.judge(rollouts, &asked, &mut rng);
        let sequences: Vec<Vec<TokenId>> = batch
            .rollouts
            .iter()
            .map(|rollout| [&asked[rollout.question].prompt[..], &rollout.tokens[..]].concat())
            .collect();
        let sequences: Vec<&[TokenId]> = sequences.iter().map(Vec::as_slice).collect();
        let mut sums = Sums::default();
        let policy = self.config.policy;
        let reference = self.under_reference(&sequences)?;
        let grad_norm = self.trainer.step_on(&sequences, step, compute, &mut |part, pass| {
            let spans = spans(&sequences[part.clone()], &batch.rollouts[part.clone()]);
            let reference = reference[part.clone()].concat();
            let mut logits = std::mem::take(&mut pass.logits);
            let new = target_logprobs(compute, &mut logits, &sequences[part.clone()]);
            let slopes = slopes(policy, &batch, part, &spans, &new, &reference, &mut sums);
            for (row, slope) in slopes.into_iter().enumerate() {
                logits.row_mut(row).iter_mut().for_each(|d| *d *= slope);
            }
            LogitGradients { logits, mtp_logits: None }
        })?;
        Ok(self.metrics(step, &batch, &sums, grad_norm))
    }

    /// Of each sequence, the log-probabilities of its tokens under the reference, row by row.
    fn under_reference(&self, sequences: &[&[TokenId]]) -> Result<Vec<Vec<f32>>, TrainError> {
        let of = |&sequence: &&[TokenId]| {
            let mut pass =
                self.reference.training_pass(&[sequence], false, KvFormat::F32, None, self.compute)?;
            Ok(target_logprobs(self.compute, &mut pass.logits, &[sequence]))
        };
        sequences.iter().map(of).collect()
    }

    fn judge(&self, rollouts: Vec<Rollout>, asked: &[&Question], rng: &mut Rng) -> Batch {
        let is_right: Vec<bool> = rollouts
            .iter()
            .map(|rollout| asked[rollout.question].is_right(rollout, &self.tokenizer))
            .collect();
        let rewards: Vec<f32> = match self.config.reward {
            Reward::Verifier => is_right.iter().map(|&right| f32::from(u8::from(right))).collect(),
            Reward::Random => rollouts.iter().map(|_| f32::from(u8::from(rng.percent(50)))).collect(),
        };
        let groups = rewards.chunks(self.config.answers);
        let flat_groups =
            groups.clone().filter(|group| group.iter().all(|reward| *reward == group[0])).count();
        Batch {
            advantages: groups.flat_map(advantages).collect(),
            right: is_right.into_iter().filter(|&right| right).count(),
            rewards,
            rollouts,
            flat_groups,
        }
    }

    fn metrics(&self, step: u64, batch: &Batch, sums: &Sums, grad_norm: f64) -> GrpoMetrics {
        let answers = batch.rollouts.len().max(1) as f64;
        let tokens = sums.tokens.max(1) as f64;
        GrpoMetrics {
            step,
            reward: batch.rewards.iter().map(|&reward| f64::from(reward)).sum::<f64>() / answers,
            right: batch.right as f64 / answers,
            held_out: None,
            length: sums.tokens as f64 / answers,
            entropy: sums.entropy / tokens,
            distance: sums.distance / tokens,
            flat_groups: batch.flat_groups as f64 / self.config.questions as f64,
            clipped: sums.clipped as f64 / tokens,
            masked: sums.masked as f64 / answers,
            mismatch: sums.mismatch,
            grad_norm,
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }
}

/// What a step adds up.
#[derive(Default)]
struct Sums {
    tokens: usize,
    entropy: f64,
    distance: f64,
    clipped: usize,
    masked: usize,
    mismatch: f64,
}

/// Of each sequence of a part: the rows that foretell its answer.
pub(crate) fn spans(sequences: &[&[TokenId]], rollouts: &[Rollout]) -> Vec<Range<usize>> {
    let mut first = 0;
    let mut spans = Vec::with_capacity(rollouts.len());
    for (sequence, rollout) in sequences.iter().zip(rollouts) {
        let end = first + sequence.len();
        spans.push(end - 1 - rollout.tokens.len()..end - 1);
        first = end;
    }
    spans
}

/// Per row of a part: what its gradient of `-log p` is multiplied by, so that the objective grows.
fn slopes(
    policy: Policy,
    batch: &Batch,
    part: Range<usize>,
    spans: &[Range<usize>],
    new: &[f32],
    reference: &[f32],
    sums: &mut Sums,
) -> Vec<f32> {
    let mut slopes = vec![0.0; new.len()];
    for (index, span) in part.zip(spans) {
        let (rollout, advantage) = (&batch.rollouts[index], batch.advantages[index]);
        let of_answer = &new[span.clone()];
        let is_masked = is_off_policy(policy, advantage, &rollout.logprobs, of_answer);
        sums.masked += usize::from(is_masked);
        // Each answer counts the same, however long it is.
        let share = 1.0 / (batch.rollouts.len() * rollout.tokens.len().max(1)) as f32;
        for ((row, &old), &new) in span.clone().zip(&rollout.logprobs).zip(of_answer) {
            let term = policy.term(advantage, old, new, reference[row]);
            sums.tokens += 1;
            sums.entropy -= f64::from(new);
            sums.distance += f64::from(term.distance);
            sums.clipped += usize::from(term.is_clipped);
            sums.mismatch = sums.mismatch.max(f64::from((new - old).abs()));
            if !is_masked {
                slopes[row] = share * term.slope;
            }
        }
    }
    slopes
}

/// How a model learns from its own answers.
pub(crate) struct Learning {
    pub(crate) optimizer: OptimizerOptions,
    pub(crate) rate: f32,
    pub(crate) clip: f64,
    pub(crate) steps: u64,
}

impl Learning {
    /// A trainer without losses of its own, at the first step.
    pub(crate) fn begin(self, model: Transformer, parameters: Parameters, routers: Routers) -> Trainer {
        Trainer::new(TrainerParts {
            model: Arc::new(model),
            optimizer: Optimizer::new(self.optimizer, &parameters),
            parameters,
            routers,
            schedule: constant(self.rate, self.steps),
            loss: LossWeights { balance: 0.0, indexer: 0.0 },
            clip: self.clip,
            qat: None,
            next_step: 0,
        })
    }
}

/// A constant rate; sparse attention, as when answers are drawn.
fn constant(rate: f32, steps: u64) -> Schedule {
    let stage = Stage { until: 1.0, max_len: usize::MAX, attention: StageAttention::Sparse };
    let options = ScheduleOptions {
        rate,
        warmup_steps: 0,
        decay_share: 0.0,
        end_share: 1.0,
        tokens_per_step: 1,
        ramp: None,
        mtp_weight: [0.0; 2],
        bias_speed: 0.0,
        stages: vec![stage],
    };
    Schedule::new(options, steps)
}

impl From<EngineError> for TrainError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}
