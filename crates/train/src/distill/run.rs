//! A run of distillation: questions of all domains, the student's answers, the teachers' opinion of them, a step.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use cuvier_encoding::{Generation, Tokenizer};
use cuvier_kernels::{Compute, KvFormat, Lent, divergence};
use cuvier_model::{LogitGradients, Transformer};
use cuvier_tensor::Matrix;
use cuvier_types::TokenId;
use cuvier_weights::{Checkpoint, ModelConfig, Precision};
use serde::{Deserialize, Serialize};

use crate::config::{DistillConfig, Teacher};
use crate::data::{DataError, Encoder, Rng};
use crate::grpo::rollout::questions;
use crate::grpo::{Drawing, Learning, Question, Rollout, draw, spans};
use crate::save::{SaveError, read_official, write_official};
use crate::trainer::{MODEL, TrainError, Trainer, load_model, refuse_done};

/// What a run writes beside its checkpoint: one line per step.
pub const DISTILL_METRICS: &str = "distill.jsonl";

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DistillMetrics {
    /// Which, from 0.
    pub step: u64,
    /// By domain, in the order of the configuration.
    pub domains: Vec<DomainMetrics>,
    /// Mean tokens of an answer.
    pub length: f64,
    /// Norm of all gradients before they were clipped.
    pub grad_norm: f64,
    /// Seconds since the run began.
    pub seconds: f64,
}

/// One domain in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainMetrics {
    /// Divergence from the teacher, in nats per token of the student's answers.
    pub divergence: f64,
    /// Share of answers that the verifier finds right.
    pub right: f64,
    /// Share of held-out questions that one answer at temperature 1 gets right, where that was asked after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
}

/// What a run tells while it goes on.
#[derive(Clone, Debug)]
pub enum DistillEvent {
    /// Before the first step, by domain: the share of held-out questions that the student answers rightly, and that its
    /// teacher does.
    Began {
        /// The student.
        student: Vec<f64>,
        /// The teachers.
        teachers: Vec<f64>,
    },
    /// A step is done.
    Step(DistillMetrics),
}

/// Runs it. The folder that comes back is a checkpoint in the format of the releases. `stop` is looked at between steps;
/// what was learned until then is written.
///
/// # Errors
/// If the configuration's files are not there or do not belong together, or the disk refuses.
pub fn run(
    config: &DistillConfig,
    compute: &Compute,
    stop: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(DistillEvent),
) -> Result<PathBuf, TrainError> {
    refuse_done(&config.out)?;
    let mut run = Run::new(config, compute)?;
    let metrics_file = config.out.join(DISTILL_METRICS);
    let io = |doing| SaveError::io(&metrics_file, doing);
    let mut log = std::fs::File::create(&metrics_file).map_err(io("creating"))?;
    let teachers = run.domains.iter().map(|domain| run.ask(&domain.teacher, domain, 0));
    let teachers = teachers.collect::<Result<_, _>>()?;
    tell(DistillEvent::Began { student: run.ask_student(0)?, teachers });
    for step in 0..config.steps {
        let mut metrics = run.step(step)?;
        if (step + 1).is_multiple_of(config.held_out_every_steps) || step + 1 == config.steps {
            for (domain, right) in metrics.domains.iter_mut().zip(run.ask_student(step + 1)?) {
                domain.held_out = Some(right);
            }
        }
        let line = serde_json::to_string(&metrics)
            .map_err(|source| SaveError::Json { file: metrics_file.clone(), source })?;
        writeln!(log, "{line}").map_err(io("appending"))?;
        tell(DistillEvent::Step(metrics));
        if stop() {
            break;
        }
    }
    let folder = config.out.join(MODEL);
    let (parameters, routers) = (run.student.parameters(), run.student.routers());
    let tokenizer = &config.teachers[0].data;
    write_official(&folder, &run.shape, parameters, routers, Precision::Official, tokenizer)?;
    Ok(folder)
}

struct Run<'a> {
    config: &'a DistillConfig,
    shape: ModelConfig,
    tokenizer: Tokenizer,
    domains: Vec<Domain>,
    student: Trainer,
    threads: NonZeroUsize,
    compute: &'a Compute,
    began: Instant,
}

/// Questions, and who knows about them.
struct Domain {
    teacher: Arc<Transformer>,
    train: Vec<Question>,
    held_out: Vec<Question>,
    /// Its share of the loss and of the questions.
    share: f64,
}

/// The questions of a step and the answers to them.
struct Batch {
    /// The domain of each question.
    domains: Vec<usize>,
    asked: Vec<Question>,
    /// In the order of the questions.
    rollouts: Vec<Rollout>,
}

impl<'a> Run<'a> {
    fn new(config: &'a DistillConfig, compute: &'a Compute) -> Result<Self, TrainError> {
        let path = config.teachers[0].data.join("tokenizer.json");
        let tokenizer =
            Tokenizer::from_file(&path).map_err(|source| DataError::Tokenizer { path, source })?;
        let checkpoint = Checkpoint::open(&config.from)?;
        let shape = checkpoint.config().clone();
        let (parameters, routers) = read_official(&checkpoint)?;
        let scratch = config.out.join("shape.part");
        let model = load_model(&scratch, &shape, &parameters, &routers, &config.teachers[0].data, compute)?;
        let learning = Learning {
            optimizer: config.optimizer,
            rate: config.rate,
            clip: config.clip,
            steps: config.steps,
        };
        let student = learning.begin(model, parameters, routers);
        let total: f64 = config.teachers.iter().map(|teacher| teacher.weight).sum();
        let domain = |index: usize| domain(config, index, &shape, &tokenizer, total, compute);
        let domains = (0..config.teachers.len()).map(domain).collect::<Result<_, _>>()?;
        let threads = NonZeroUsize::new(compute.threads()).unwrap_or(NonZeroUsize::MIN);
        Ok(Self { config, shape, tokenizer, domains, student, threads, compute, began: Instant::now() })
    }

    fn ask_student(&self, step: u64) -> Result<Vec<f64>, TrainError> {
        self.domains.iter().map(|domain| self.ask(self.student.model(), domain, step)).collect()
    }

    /// The share of a domain's held-out questions that one answer each of `model` gets right.
    fn ask(&self, model: &Arc<Transformer>, domain: &Domain, step: u64) -> Result<f64, TrainError> {
        let asked: Vec<&Question> = domain.held_out.iter().collect();
        let rollouts = self.draw(model, &asked, self.config.seed ^ (0xF00D + step))?;
        let is_right = |rollout: &&Rollout| asked[rollout.question].is_right(rollout, &self.tokenizer);
        Ok(rollouts.iter().filter(is_right).count() as f64 / asked.len() as f64)
    }

    fn draw(
        &self,
        model: &Arc<Transformer>,
        asked: &[&Question],
        seed: u64,
    ) -> Result<Vec<Rollout>, TrainError> {
        let drawing = Drawing { answers: 1, tokens_max: self.config.tokens_max, seed };
        let (stop, isa) = (self.tokenizer.control().eos, self.compute.isa());
        draw(model, asked, stop, drawing, self.threads, isa).map_err(TrainError::Engine)
    }

    fn step(&mut self, step: u64) -> Result<DistillMetrics, TrainError> {
        let batch = self.answers(step)?;
        let sequences: Vec<Vec<TokenId>> = batch
            .rollouts
            .iter()
            .map(|rollout| [&batch.asked[rollout.question].prompt[..], &rollout.tokens[..]].concat())
            .collect();
        let sequences: Vec<&[TokenId]> = sequences.iter().map(Vec::as_slice).collect();
        let said = self.teachers_say(&batch, &sequences)?;
        let mut metrics = self.judged(step, &batch);
        let shares = self.shares(&batch);
        let compute = self.compute;
        metrics.grad_norm = self.student.step_on(&sequences, step, compute, &mut |part, pass| {
            let spans = spans(&sequences[part.clone()], &batch.rollouts[part.clone()]);
            let mut logits = std::mem::take(&mut pass.logits);
            let mut weights = vec![0.0; logits.rows()];
            for (index, span) in part.clone().zip(&spans) {
                weights[span.clone()].fill(shares[batch.domains[index]]);
            }
            let teacher: Vec<f32> = said[part.clone()].iter().flat_map(|said| said.data()).copied().collect();
            let teacher = Matrix::from_vec(teacher, logits.cols());
            let apart = divergence(compute, logits.view_mut(), teacher.view(), &weights);
            for (index, span) in part.zip(spans) {
                let sum: f32 = apart[span].iter().sum();
                metrics.domains[batch.domains[index]].divergence += f64::from(sum);
            }
            LogitGradients { logits, mtp_logits: None }
        })?;
        for (index, domain) in metrics.domains.iter_mut().enumerate() {
            domain.divergence /= batch.tokens(index).max(1) as f64;
        }
        metrics.seconds = self.began.elapsed().as_secs_f64();
        Ok(metrics)
    }

    /// Questions of all domains, as many of each as its share says, and the student's answers.
    fn answers(&self, step: u64) -> Result<Batch, TrainError> {
        let mut rng = Rng::of(self.config.seed, 1, step);
        let (mut domains, mut asked, mut owed) = (Vec::new(), Vec::new(), 0.0);
        for (index, domain) in self.domains.iter().enumerate() {
            owed += domain.share * self.config.questions as f64;
            while (asked.len() as f64) < owed.round() {
                domains.push(index);
                asked.push(domain.train[rng.index(domain.train.len())].clone());
            }
        }
        let questions: Vec<&Question> = asked.iter().collect();
        let rollouts = self.draw(self.student.model(), &questions, self.config.seed ^ (step << 20))?;
        Ok(Batch { domains, asked, rollouts })
    }

    /// Of each answer, the logits of the teacher of its domain, `[tokens, vocab_size]`.
    fn teachers_say(&self, batch: &Batch, sequences: &[&[TokenId]]) -> Result<Vec<Lent>, TrainError> {
        let say = |(&domain, &sequence): (&usize, &&[TokenId])| {
            let teacher = &self.domains[domain].teacher;
            Ok(teacher.training_pass(&[sequence], false, KvFormat::F32, None, self.compute)?.logits)
        };
        batch.domains.iter().zip(sequences).map(say).collect()
    }

    /// What a token of each domain counts: the domain's share, over its tokens in the batch.
    fn shares(&self, batch: &Batch) -> Vec<f32> {
        let share = |(index, domain): (usize, &Domain)| domain.share / batch.tokens(index).max(1) as f64;
        self.domains.iter().enumerate().map(|domain| share(domain) as f32).collect()
    }

    /// What the verifiers say of a batch.
    fn judged(&self, step: u64, batch: &Batch) -> DistillMetrics {
        let mut domains = vec![DomainMetrics::default(); self.domains.len()];
        let mut asked = vec![0; domains.len()];
        for (&domain, rollout) in batch.domains.iter().zip(&batch.rollouts) {
            let is_right = batch.asked[rollout.question].is_right(rollout, &self.tokenizer);
            domains[domain].right += f64::from(u8::from(is_right));
            asked[domain] += 1;
        }
        for (domain, asked) in domains.iter_mut().zip(asked) {
            domain.right /= f64::from(asked.max(1));
        }
        let tokens: usize = batch.rollouts.iter().map(|rollout| rollout.tokens.len()).sum();
        let length = tokens as f64 / batch.rollouts.len().max(1) as f64;
        DistillMetrics { step, domains, length, ..DistillMetrics::default() }
    }
}

impl Batch {
    /// Tokens of the answers in a domain.
    fn tokens(&self, domain: usize) -> usize {
        let of_domain = self.domains.iter().zip(&self.rollouts).filter(|(of, _)| **of == domain);
        of_domain.map(|(_, rollout)| rollout.tokens.len()).sum()
    }
}

/// The domain of the teacher of that number.
fn domain(
    config: &DistillConfig,
    index: usize,
    student: &ModelConfig,
    tokenizer: &Tokenizer,
    total_weight: f64,
    compute: &Compute,
) -> Result<Domain, TrainError> {
    let Teacher { model, data, weight } = &config.teachers[index];
    let encoder = Encoder { tokenizer, generation: Generation::Revised0731 };
    let [train, mut held_out] =
        [questions(&data.join("train.jsonl"), encoder)?, questions(&data.join("held_out.jsonl"), encoder)?];
    held_out.truncate(config.held_out_questions);
    if train.is_empty() || held_out.is_empty() {
        let problem = "there is no question that a verifier can judge, to learn from or to test with";
        return Err(TrainError::Folder { folder: data.clone(), problem });
    }
    let checkpoint = Checkpoint::open(model)?;
    if checkpoint.config().vocab_size != student.vocab_size {
        let problem = "the teacher has another vocabulary than the student";
        return Err(TrainError::Folder { folder: model.clone(), problem });
    }
    // By way of exact weights, as the student's: what is rounded differently would be learned.
    let (parameters, routers) = read_official(&checkpoint)?;
    let scratch = config.out.join("shape.part");
    let teacher = load_model(&scratch, checkpoint.config(), &parameters, &routers, data, compute)?;
    Ok(Domain { teacher: Arc::new(teacher), train, held_out, share: weight / total_weight })
}
