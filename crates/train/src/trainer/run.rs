//! A run of training: from a configuration and prepared documents to a checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cuvier_encoding::{Generation, Tokenizer};
use cuvier_engine::EngineError;
use cuvier_kernels::Compute;
use cuvier_model::{ModelError, Parameters, Transformer};
use cuvier_weights::{Checkpoint, ModelConfig, Precision, WeightsError};

use super::step::{StepReport, Trainer, TrainerParts};
use crate::anticipation::{Anticipation, ChosenExperts};
use crate::config::{RunLength, TrainConfig, Vocabulary};
use crate::data::{Batches, DataError, Document, Encoder, read_documents};
use crate::init::initial;
use crate::metrics::{Losses, MetricsError, MetricsLog, StepMetrics};
use crate::optim::schedule::Schedule;
use crate::optim::{Optimizer, StateError};
use crate::routers::Routers;
use crate::save::{Loaded, Progress, SaveError, Saved, config_hash, latest, read_official, write_official};

/// The documents that are learned, in the folder of data.
const TRAIN: &str = "train.jsonl";
/// The documents that are not.
const HELD_OUT: &str = "held_out.jsonl";
/// What a run writes beside its checkpoints: one line per step.
pub const METRICS: &str = "metrics.jsonl";
/// The finished checkpoint in the format of the releases.
pub const MODEL: &str = "model";

/// Steps whose time decides how many fit into the minutes of a run.
const TIMED_STEPS: u64 = 4;
/// Tokens of held-out documents that a validation looks at, at most.
const HELD_OUT_TOKENS_MAX: usize = 32_768;

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The documents or their tokenizer.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The shape, or a checkpoint.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A document that the model cannot take.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A checkpoint of training.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The optimiser's part of it.
    #[error(transparent)]
    State(#[from] StateError),
    /// The metrics file.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The engine that draws answers.
    #[error(transparent)]
    Engine(EngineError),
    /// A run cannot begin here.
    #[error("{}: {problem}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// The loss is no number any more.
    #[error("step {step}: the loss is {loss}; lower the learning rate, and begin from the checkpoint before")]
    Diverged {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f64,
    },
}

/// What a run tells while it goes on.
#[derive(Clone, Debug)]
pub enum Event {
    /// Everything is read; the first step comes.
    Began {
        /// Numbers that are trained.
        parameters: usize,
        /// Documents to learn.
        documents: usize,
        /// Their tokens.
        tokens: usize,
        /// Conversations that are longer than any stage takes, and left out.
        too_long: usize,
        /// The step that comes, 0 unless the run goes on.
        step: u64,
    },
    /// A step is done.
    Step {
        /// How many the run will have; `None` while that is being measured.
        steps: Option<u64>,
        /// Its numbers, as in the metrics file.
        metrics: StepMetrics,
    },
    /// A checkpoint is written.
    Saved(PathBuf),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done; the folder is a checkpoint in the format of the releases.
    Done(PathBuf),
    /// It was stopped, and can go on from this folder.
    Stopped(PathBuf),
}

/// Runs a training. With `resume` it goes on from the run's last checkpoint, to the same weights as if it had never
/// stopped. `text` is the configuration as it was written; `stop` is looked at between steps.
///
/// # Errors
/// If the configuration's files are not there or not right, the disk refuses, or the loss is no number any more.
pub fn run(
    config: &TrainConfig,
    text: &str,
    resume: bool,
    compute: &Compute,
    stop: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(Event),
) -> Result<Outcome, TrainError> {
    let data = Data::read(&config.data)?;
    let origin = Origin::of(config, &data)?;
    let shape = origin.shape.clone();
    let begun = Begun::new(config, text, origin, &data, resume)?;
    let mut run = Run::new(config, shape, data, begun, compute)?;
    tell(Event::Began {
        parameters: run.trainer.parameters().numbers(),
        documents: run.batches.iter().map(Batches::n_documents).max().unwrap_or(0),
        tokens: run.batches.iter().map(Batches::n_tokens).max().unwrap_or(0),
        too_long: run.batches.iter().map(Batches::n_too_long).min().unwrap_or(0),
        step: run.progress.step,
    });
    while run.steps.is_none_or(|steps| run.progress.step < steps) {
        let metrics = run.step(compute)?;
        tell(Event::Step { steps: run.steps, metrics });
        let is_stopped = stop();
        if is_stopped || run.progress.step.is_multiple_of(config.checkpoint_every_steps) {
            let folder = run.save()?;
            tell(Event::Saved(folder.clone()));
            if is_stopped {
                return Ok(Outcome::Stopped(folder));
            }
        }
    }
    let folder = run.save()?;
    tell(Event::Saved(folder));
    Ok(Outcome::Done(run.finish()?))
}

/// Prepared documents.
struct Data {
    folder: PathBuf,
    tokenizer: Tokenizer,
    train: Vec<Document>,
    held_out: Vec<Document>,
}

impl Data {
    fn read(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join("tokenizer.json");
        let tokenizer =
            Tokenizer::from_file(&path).map_err(|source| DataError::Tokenizer { path, source })?;
        let encoder = Encoder { tokenizer: &tokenizer, generation: Generation::Revised0731 };
        let train = read_documents(&folder.join(TRAIN), encoder)?;
        let held_out = read_documents(&folder.join(HELD_OUT), encoder)?;
        if train.is_empty() {
            let problem = "there is no document to learn in train.jsonl";
            return Err(TrainError::Folder { folder: folder.to_owned(), problem });
        }
        Ok(Self { folder: folder.to_owned(), tokenizer, train, held_out })
    }

    fn vocabulary(&self) -> Vocabulary {
        let control = self.tokenizer.control();
        Vocabulary { size: self.tokenizer.vocab_size(), bos: control.bos, eos: control.eos }
    }

    /// How often each token comes.
    fn token_counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.tokenizer.vocab_size()];
        for token in self.train.iter().flat_map(|document| &document.tokens) {
            counts[token.0 as usize] += 1;
        }
        counts
    }
}

/// Where the weights of a new run come from.
struct Origin {
    shape: ModelConfig,
    /// `None`: they are made anew.
    weights: Option<(Parameters, Routers)>,
}

impl Origin {
    fn of(config: &TrainConfig, data: &Data) -> Result<Self, TrainError> {
        let vocabulary = data.vocabulary();
        let Some(folder) = &config.from else {
            return Ok(Self { shape: config.model.config(vocabulary)?, weights: None });
        };
        let checkpoint = Checkpoint::open(folder)?;
        let shape = checkpoint.config().clone();
        if shape.vocab_size != vocabulary.size {
            let problem = "its vocabulary is not as large as that of the data";
            return Err(TrainError::Folder { folder: folder.clone(), problem });
        }
        Ok(Self { shape, weights: Some(read_official(&checkpoint)?) })
    }
}

/// Everything that a checkpoint of training holds, new or read.
struct Begun {
    parameters: Parameters,
    routers: Routers,
    optimizer: Optimizer,
    anticipation: Anticipation,
    progress: Progress,
}

impl Begun {
    fn new(
        config: &TrainConfig,
        text: &str,
        origin: Origin,
        data: &Data,
        resume: bool,
    ) -> Result<Self, TrainError> {
        let folder = latest(&config.out)?;
        let refuse = |problem| Err(TrainError::Folder { folder: config.out.clone(), problem });
        match (folder, resume) {
            (Some(folder), true) => Self::read(config, text, &origin.shape, &folder),
            (None, true) => refuse("there is no checkpoint to go on from"),
            (Some(_), false) => refuse("there is a run already; go on with --resume, or name another folder"),
            (None, false) => Ok(Self::first(config, text, origin, data)),
        }
    }

    fn first(config: &TrainConfig, text: &str, origin: Origin, data: &Data) -> Self {
        let shape = &origin.shape;
        let made = || {
            let routers = Routers::initial(shape, &data.token_counts(), config.seed);
            (initial(shape, config.seed), routers)
        };
        let (parameters, routers) = origin.weights.unwrap_or_else(made);
        let steps = match config.length {
            RunLength::Steps(steps) => steps,
            RunLength::Tokens(tokens) => Schedule::steps_for_tokens(&config.schedule, tokens),
            RunLength::Minutes(_) => 0,
        };
        Self {
            routers,
            optimizer: Optimizer::new(config.optimizer, &parameters),
            parameters,
            anticipation: Anticipation::default(),
            progress: Progress {
                step: 0,
                tokens: 0,
                steps,
                seed: config.seed,
                config_hash: config_hash(text),
                data: serde_json::Value::Null,
            },
        }
    }

    fn read(
        config: &TrainConfig,
        text: &str,
        shape: &ModelConfig,
        folder: &Path,
    ) -> Result<Self, TrainError> {
        let Loaded { config: saved, parameters, optimizer: state, routers, anticipation, progress } =
            Loaded::read(folder)?;
        if progress.config_hash != config_hash(text) || saved != *shape {
            let problem = "the run was begun with another configuration or vocabulary";
            return Err(TrainError::Folder { folder: folder.to_owned(), problem });
        }
        let optimizer = Optimizer::restore(config.optimizer, &parameters, &state)?;
        Ok(Self { parameters, routers, optimizer, anticipation, progress })
    }
}

/// A run in progress.
struct Run<'a> {
    config: &'a TrainConfig,
    shape: ModelConfig,
    data_folder: PathBuf,
    trainer: Trainer,
    /// Per stage of the schedule.
    batches: Vec<Batches>,
    held_out: Vec<Document>,
    anticipation: Anticipation,
    progress: Progress,
    /// `None` while the first steps are timed.
    steps: Option<u64>,
    metrics: MetricsLog,
    began: Instant,
}

impl<'a> Run<'a> {
    fn new(
        config: &'a TrainConfig,
        shape: ModelConfig,
        data: Data,
        begun: Begun,
        compute: &Compute,
    ) -> Result<Self, TrainError> {
        let Begun { parameters, routers, optimizer, anticipation, progress } = begun;
        let steps = (progress.steps > 0).then_some(progress.steps);
        let folder = config.out.join("shape.part");
        let model = load_model(&folder, &shape, &parameters, &routers, &data.folder, compute)?;
        let trainer = Trainer::new(TrainerParts {
            model: Arc::new(model),
            parameters,
            routers,
            optimizer,
            schedule: Schedule::new(config.schedule.clone(), steps.unwrap_or(u64::MAX)),
            loss: config.loss,
            clip: config.clip,
            qat: config.qat,
            next_step: progress.step,
        });
        let tokens_per_step = config.schedule.tokens_per_step as usize;
        let stages = config.schedule.stages.iter().zip(0..);
        let batches = stages.map(|(stage, index)| {
            let seed = config.seed.wrapping_add(index);
            Batches::new(data.train.clone(), seed, tokens_per_step, stage.max_len)
        });
        Ok(Self {
            batches: batches.collect(),
            metrics: MetricsLog::open(&config.out.join(METRICS), progress.step)?,
            began: Instant::now(),
            data_folder: data.folder,
            held_out: held_out(data.held_out, &config.schedule.stages.iter().map(|s| s.max_len).max()),
            config,
            shape,
            trainer,
            anticipation,
            progress,
            steps,
        })
    }

    fn step(&mut self, compute: &Compute) -> Result<StepMetrics, TrainError> {
        let step = self.progress.step;
        let before = Instant::now();
        let chosen = self.chosen(step, compute)?;
        let documents = documents(&self.batches, &self.trainer, step);
        let report = self.trainer.step(&documents, step, chosen.as_ref(), compute)?;
        if !report.total.is_finite() {
            return Err(TrainError::Diverged { step, loss: report.total });
        }
        if let Some(options) = &self.config.anticipation {
            self.anticipation.saw(options, step, report.next);
        }
        self.progress.step += 1;
        self.progress.tokens += report.tokens;
        let seconds = before.elapsed().as_secs_f64();
        self.fix_length();
        let is_last = self.steps == Some(self.progress.step);
        let validation = if is_last || self.progress.step.is_multiple_of(self.config.checkpoint_every_steps) {
            let documents: Vec<&Document> = self.held_out.iter().collect();
            let (loss, count) = self.trainer.held_out(&documents, compute)?;
            (count > 0).then_some(loss)
        } else {
            None
        };
        let metrics = self.metrics_of(step, &report, chosen.is_some(), validation, seconds);
        self.metrics.append(&metrics)?;
        Ok(metrics)
    }

    /// The experts of a step, if they are chosen early. Lets the weights of now choose what is due.
    fn chosen(&mut self, step: u64, compute: &Compute) -> Result<Option<ChosenExperts>, TrainError> {
        let Some(options) = self.config.anticipation else { return Ok(None) };
        for due in self.anticipation.due(&options, step) {
            let documents = documents(&self.batches, &self.trainer, due);
            self.anticipation.put(due, self.trainer.choose(&documents, due, compute)?);
        }
        let chosen = self.anticipation.take(step);
        let documents = documents(&self.batches, &self.trainer, step);
        // A checkpoint is a file that somebody may have changed.
        let could_be = match &chosen {
            Some(chosen) => self.trainer.could_choose(&documents, step, chosen),
            None => !self.anticipation.is_on(step),
        };
        if could_be {
            return Ok(chosen);
        }
        let problem =
            "the last checkpoint has other experts for its next steps than their documents could get";
        Err(TrainError::Folder { folder: self.config.out.clone(), problem })
    }

    fn metrics_of(
        &self,
        step: u64,
        report: &StepReport,
        is_anticipated: bool,
        validation: Option<f64>,
        seconds: f64,
    ) -> StepMetrics {
        StepMetrics {
            step,
            tokens: self.progress.tokens,
            loss: Losses {
                total: report.total,
                next: report.next,
                mtp: report.mtp,
                balance: report.balance,
                indexer: report.indexer,
            },
            validation,
            rate: f64::from(report.rate),
            grad_norm: report.grad_norm,
            max_violation: report.max_violation,
            max_violation_hash: report.max_violation_hash,
            is_anticipated,
            tokens_per_second: report.tokens as f64 / seconds,
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }

    /// Decides how many steps fit into the minutes, once the first ones are timed: the warm-up that they belong to is
    /// the same for any length.
    fn fix_length(&mut self) {
        if let (RunLength::Minutes(minutes), None) = (self.config.length, self.steps)
            && self.progress.step >= TIMED_STEPS
        {
            let per_step = self.began.elapsed().as_secs_f64() / self.progress.step as f64;
            let steps = ((minutes * 60.0 / per_step) as u64).max(self.progress.step + 1);
            (self.steps, self.progress.steps) = (Some(steps), steps);
            self.trainer.set_schedule(Schedule::new(self.config.schedule.clone(), steps));
        }
    }

    fn save(&self) -> Result<PathBuf, TrainError> {
        let saved = Saved {
            config: &self.shape,
            parameters: self.trainer.parameters(),
            optimizer: &self.trainer.optimizer().state(),
            routers: self.trainer.routers(),
            anticipation: &self.anticipation,
            progress: &self.progress,
        };
        Ok(saved.write(&self.config.out)?)
    }

    /// Writes the checkpoint that other verbs read.
    fn finish(&self) -> Result<PathBuf, TrainError> {
        let folder = self.config.out.join(MODEL);
        let (parameters, routers) = (self.trainer.parameters(), self.trainer.routers());
        write_official(&folder, &self.shape, parameters, routers, self.config.precision, &self.data_folder)?;
        Ok(folder)
    }
}

/// The documents of a step.
fn documents<'a>(batches: &'a [Batches], trainer: &Trainer, step: u64) -> Vec<&'a Document> {
    let (stage, _) = trainer.schedule().stage(step);
    let mut documents = batches[stage].step(step);
    // While the batch grows, the rest of its documents wait for the next epoch.
    let wanted = trainer.schedule().tokens(step);
    let mut tokens = 0;
    documents.retain(|document| {
        let is_wanted = tokens < wanted;
        tokens += document.len() as u64;
        is_wanted
    });
    documents
}

/// Refuses a folder that already has what a run writes last: to find that out at the end would lose what was learned.
pub(crate) fn refuse_done(out: &Path) -> Result<(), TrainError> {
    if out.join(MODEL).exists() {
        let problem = "there is what a run learned already; name another folder";
        return Err(TrainError::Folder { folder: out.to_owned(), problem });
    }
    Ok(())
}

/// A model of `shape` with exact weights, by way of a checkpoint in `folder` that is gone afterwards.
pub(crate) fn load_model(
    folder: &Path,
    shape: &ModelConfig,
    parameters: &Parameters,
    routers: &Routers,
    tokenizer: &Path,
    compute: &Compute,
) -> Result<Transformer, TrainError> {
    let io = |doing| SaveError::io(folder, doing);
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(io("removing what an earlier run left"))?;
    }
    write_official(folder, shape, parameters, routers, Precision::F32, tokenizer)?;
    let model = Transformer::load(&Checkpoint::open(folder)?, compute)?;
    std::fs::remove_dir_all(folder).map_err(io("removing"))?;
    Ok(model)
}

/// The first documents that are short enough and together not too many.
fn held_out(documents: Vec<Document>, max_len: &Option<usize>) -> Vec<Document> {
    let max_len = max_len.unwrap_or(0);
    let mut tokens = 0;
    let fits = documents.into_iter().filter(|document| document.len() <= max_len);
    fits.take_while(|document| {
        tokens += document.len();
        tokens <= HELD_OUT_TOKENS_MAX
    })
    .collect()
}
