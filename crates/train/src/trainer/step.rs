//! One step of training.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use cuvier_kernels::{Compute, KvFormat};
use cuvier_model::{LogitGradients, ModelError, Objective, Parameters, TokenId, TrainingPass, Transformer};
use cuvier_tensor::Matrix;

use super::loss::{Targets, cross_entropy_of};
use super::micro::parts;
use super::rounding::as_stored;
use crate::anticipation::ChosenExperts;
use crate::config::{LossWeights, Qat};
use crate::data::Document;
use crate::optim::schedule::{Schedule, StageAttention};
use crate::optim::{Optimizer, clip};
use crate::routers::{Routers, max_violation};

/// What a trainer starts from.
pub struct TrainerParts {
    /// A model of the shape; its weights are replaced.
    pub model: Arc<Transformer>,
    /// The weights.
    pub parameters: Parameters,
    /// Biases and tables; the model has the same tables.
    pub routers: Routers,
    /// In the state that belongs to the weights.
    pub optimizer: Optimizer,
    /// What changes over the steps.
    pub schedule: Schedule,
    /// Weights of the losses.
    pub loss: LossWeights,
    /// Gradients are scaled down to this norm.
    pub clip: f64,
    /// Rounding in the forward pass.
    pub qat: Option<Qat>,
    /// The step that comes first.
    pub next_step: u64,
}

/// A model in training.
pub struct Trainer {
    parts: TrainerParts,
    gradients: Parameters,
    index_topk: usize,
}

/// What a step was like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Tokens of the batch.
    pub tokens: u64,
    /// Mean cross entropy of the next token, in nats.
    pub next: f64,
    /// Mean cross entropy of the MTP block, in nats; 0 without.
    pub mtp: f64,
    /// Mean balance loss of the layers that route by score: 1 is perfect.
    pub balance: f64,
    /// Mean loss of the indexers per token and layer, in nats.
    pub indexer: f64,
    /// Norm of the gradients before they were clipped.
    pub grad_norm: f64,
    /// Violation of balance in this batch, mean over the layers that route by score.
    pub max_violation: f64,
    /// The same of hash layers.
    pub max_violation_hash: f64,
    /// Learning rate.
    pub rate: f32,
    /// All losses with their weights.
    pub total: f64,
}

impl Trainer {
    /// Puts the weights into the model.
    ///
    /// # Panics
    /// If the parts are not of one shape.
    pub fn new(parts: TrainerParts) -> Self {
        let gradients = parts.parameters.zeros_like();
        let index_topk = parts.model.config().index_topk;
        let mut trainer = Self { parts, gradients, index_topk };
        trainer.place(trainer.parts.next_step);
        trainer
    }

    /// The weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parts.parameters
    }

    /// Biases and tables.
    pub fn routers(&self) -> &Routers {
        &self.parts.routers
    }

    /// The optimiser.
    pub fn optimizer(&self) -> &Optimizer {
        &self.parts.optimizer
    }

    /// The schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.parts.schedule
    }

    /// Another schedule from now on: once the length of a run is known.
    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.parts.schedule = schedule;
    }

    /// The model with the weights of now.
    pub fn model(&self) -> &Arc<Transformer> {
        &self.parts.model
    }

    /// A step on any loss: `loss` gets the sequences of a part of the batch and what the model says of them, and gives
    /// the gradients of the logits. Returns the norm of the gradients before they were clipped.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    ///
    /// # Panics
    /// If the model is shared with someone.
    pub fn step_on(
        &mut self,
        sequences: &[&[TokenId]],
        step: u64,
        c: &Compute,
        loss: &mut dyn FnMut(Range<usize>, &mut TrainingPass) -> LogitGradients,
    ) -> Result<f64, ModelError> {
        self.gradients.iter_mut().for_each(|(_, gradient)| gradient.data_mut().fill(0.0));
        for part in parts(sequences) {
            let mut pass =
                self.parts.model.training_pass(&sequences[part.clone()], false, self.kv(step), None, c)?;
            let dlogits = loss(part, &mut pass);
            self.parts.model.backward(&pass, dlogits, &Objective::default(), &mut self.gradients, c);
        }
        Ok(self.apply(step, c))
    }

    /// The experts that the weights of now choose for the documents of step number `step`.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn choose(
        &mut self,
        documents: &[&Document],
        step: u64,
        c: &Compute,
    ) -> Result<ChosenExperts, ModelError> {
        self.set_attention(step);
        let kv = self.kv(self.parts.next_step);
        let (model, with_mtp) = (&self.parts.model, self.with_mtp(step));
        let of_part = |part: Range<usize>| {
            Ok(model.training_pass(&sequences(&documents[part]), with_mtp, kv, None, c)?.chosen(model))
        };
        parts(&sequences(documents)).into_iter().map(of_part).collect()
    }

    /// Whether these are experts that [`Trainer::choose`] could have given for these documents.
    pub fn could_choose(&self, documents: &[&Document], step: u64, chosen: &ChosenExperts) -> bool {
        let config = self.parts.model.config();
        let rows_of_routers = |part: Range<usize>| -> Vec<usize> {
            let lens = documents[part].iter().map(|document| document.len());
            let with_next: usize = lens.clone().map(|len| len.saturating_sub(1)).sum();
            let has_mtp = self.with_mtp(step) && with_next > 0;
            let rows = |name: &String| match name.starts_with("mtp.") {
                true => has_mtp.then_some(with_next),
                false => Some(lens.clone().sum()),
            };
            self.parts.routers.biases.keys().filter_map(rows).collect()
        };
        let is_choice = |ids: &Matrix<u16>, rows: usize| {
            (ids.rows(), ids.cols()) == (rows, config.num_experts_per_tok)
                && ids.data().iter().all(|&id| usize::from(id) < config.n_routed_experts)
        };
        let parts = parts(&sequences(documents));
        let fits = |(part, chosen): (Range<usize>, &Vec<Matrix<u16>>)| {
            let rows = rows_of_routers(part);
            rows.len() == chosen.len() && chosen.iter().zip(rows).all(|(ids, rows)| is_choice(ids, rows))
        };
        parts.len() == chosen.len() && parts.into_iter().zip(chosen).all(fits)
    }

    /// Step number `step` on a batch of documents. With `chosen`, routers by score take these experts instead of
    /// choosing.
    ///
    /// # Errors
    /// If a document is empty, or does not fit the vocabulary or the context. Nothing has changed then.
    ///
    /// # Panics
    /// If these experts cannot be those of the documents: see [`Trainer::could_choose`].
    pub fn step(
        &mut self,
        documents: &[&Document],
        step: u64,
        chosen: Option<&ChosenExperts>,
        c: &Compute,
    ) -> Result<StepReport, ModelError> {
        self.set_attention(step);
        let mtp_weight = self.parts.schedule.mtp_weight(step);
        let counts = Counts::of(documents);
        let (report, loads) = self.gradients(documents, chosen, &counts, mtp_weight, c)?;
        self.parts.routers.balance(&loads, self.parts.schedule.bias_speed(step));
        let grad_norm = self.apply(step, c);
        let rate = self.parts.schedule.rate(step);
        let violation = |suffix: &str| {
            let of = loads.iter().filter(|(name, _)| name.ends_with(suffix));
            let (sum, count) = of.fold((0.0, 0), |(sum, n), (_, loads)| (sum + max_violation(loads), n + 1));
            sum / f64::from(count.max(1))
        };
        let (max_violation, max_violation_hash) = (violation(".bias"), violation(".tid2eid"));
        let loss = self.parts.loss;
        let total = report.next
            + f64::from(mtp_weight) * report.mtp
            + f64::from(loss.balance) * report.balance
            + f64::from(loss.indexer) * report.indexer;
        Ok(StepReport { grad_norm, max_violation, max_violation_hash, rate, total, ..report })
    }

    /// Mean cross entropy of the next token on other documents, in nats, and how many tokens it is the mean of.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn held_out(&mut self, documents: &[&Document], c: &Compute) -> Result<(f64, usize), ModelError> {
        let kv = self.kv(self.parts.next_step);
        let (mut sum, mut count) = (0.0, 0);
        for part in parts(&sequences(documents)) {
            let documents = &documents[part];
            let targets = Targets::next(documents);
            let mut pass = self.parts.model.training_pass(&sequences(documents), false, kv, None, c)?;
            sum += cross_entropy_of(c, &mut pass.logits, &targets, 0.0);
            count += targets.count();
        }
        Ok((sum / count.max(1) as f64, count))
    }

    /// Fills the gradients with those of the batch, and counts where its tokens went.
    fn gradients(
        &mut self,
        documents: &[&Document],
        chosen: Option<&ChosenExperts>,
        counts: &Counts,
        mtp_weight: f32,
        c: &Compute,
    ) -> Result<(StepReport, BTreeMap<String, Vec<u64>>), ModelError> {
        self.gradients.iter_mut().for_each(|(_, gradient)| gradient.data_mut().fill(0.0));
        let kv = self.kv(self.parts.next_step);
        let model = &self.parts.model;
        let loss = self.parts.loss;
        let with_mtp = self.with_mtp(self.parts.next_step);
        let objective = Objective {
            balance_per_token: loss.balance / counts.tokens as f32,
            indexer_per_token: (loss.indexer > 0.0).then(|| loss.indexer / counts.tokens as f32),
        };
        let mut report = StepReport { tokens: counts.tokens, ..StepReport::default() };
        let mut loads: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (index, part) in parts(&sequences(documents)).into_iter().enumerate() {
            let documents = &documents[part];
            let chosen = chosen.map(|chosen| &chosen[index][..]);
            let mut pass = model.training_pass(&sequences(documents), with_mtp, kv, chosen, c)?;
            add_loads(&mut loads, pass.loads(model));
            let per_token = 1.0 / counts.next.max(1) as f32;
            let mut logits = std::mem::take(&mut pass.logits);
            report.next += cross_entropy_of(c, &mut logits, &Targets::next(documents), per_token);
            let mtp_logits = pass.mtp_logits.take().map(|mut logits| {
                let per_token = mtp_weight / counts.after_next.max(1) as f32;
                report.mtp += cross_entropy_of(c, &mut logits, &Targets::after_next(documents), per_token);
                logits
            });
            let dlogits = LogitGradients { logits, mtp_logits };
            let losses = model.backward(&pass, dlogits, &objective, &mut self.gradients, c);
            report.balance += losses.balance;
            report.indexer += losses.indexer;
        }
        let csa_layers =
            model.config().layers().filter(|&layer| model.config().layer_kind(layer).ratio() == 4);
        report.next /= counts.next.max(1) as f64;
        report.mtp /= counts.after_next.max(1) as f64;
        let by_score = loads.keys().filter(|name| name.ends_with(".bias")).count();
        report.balance /= (counts.tokens * by_score.max(1) as u64) as f64;
        report.indexer /= (counts.tokens * csa_layers.count().max(1) as u64) as f64;
        Ok((report, loads))
    }

    /// Lets the optimiser make its step by the gradients. Returns their norm before they were clipped.
    fn apply(&mut self, step: u64, c: &Compute) -> f64 {
        let grad_norm = clip(c, &mut self.gradients, self.parts.clip);
        let rate = self.parts.schedule.rate(step);
        self.parts.optimizer.step(c, rate, &mut self.parts.parameters, &self.gradients);
        self.place(step + 1);
        grad_norm
    }

    /// Whether the MTP block takes part in a step.
    fn with_mtp(&self, step: u64) -> bool {
        self.parts.model.mtp().is_some() && self.parts.schedule.mtp_weight(step) > 0.0
    }

    /// The model, which nobody else holds while it learns.
    fn model_mut(&mut self) -> &mut Transformer {
        Arc::get_mut(&mut self.parts.model).expect("a model that learns is not shared")
    }

    /// Whether rounding has begun at a step.
    fn rounding(&self, step: u64) -> Option<Qat> {
        let begins = |qat: &Qat| step as f64 >= qat.begin * self.parts.schedule.steps() as f64;
        self.parts.qat.filter(begins)
    }

    fn kv(&self, step: u64) -> KvFormat {
        match self.rounding(step) {
            Some(Qat { indexer: true, .. }) => KvFormat::Fp8,
            _ => KvFormat::F32,
        }
    }

    /// Puts weights and biases into the model, as step `next_step` uses them.
    fn place(&mut self, next_step: u64) {
        let qat = self.rounding(next_step).filter(|qat| qat.experts || qat.linears);
        let rounded = qat.map(|qat| as_stored(&self.parts.parameters, self.parts.model.config(), &qat));
        self.parts.next_step = next_step;
        let model = Arc::get_mut(&mut self.parts.model).expect("a model that learns is not shared");
        model.set_parameters(rounded.as_ref().unwrap_or(&self.parts.parameters));
        for (name, bias) in model.router_biases() {
            bias.copy_from_slice(&self.parts.routers.biases[&name]);
        }
    }

    fn set_attention(&mut self, step: u64) {
        let (_, stage) = self.parts.schedule.stage(step);
        let index_topk = match stage.attention {
            StageAttention::Dense => usize::MAX,
            StageAttention::Sparse => self.index_topk,
        };
        self.model_mut().set_index_topk(index_topk);
    }
}

/// What means are taken over.
struct Counts {
    tokens: u64,
    next: usize,
    after_next: usize,
}

impl Counts {
    fn of(documents: &[&Document]) -> Self {
        Self {
            tokens: documents.iter().map(|document| document.len() as u64).sum::<u64>().max(1),
            next: Targets::next(documents).count(),
            after_next: Targets::after_next(documents).count(),
        }
    }
}

fn sequences<'a>(documents: &[&'a Document]) -> Vec<&'a [TokenId]> {
    documents.iter().map(|document| &document.tokens[..]).collect()
}

fn add_loads(sums: &mut BTreeMap<String, Vec<u64>>, loads: Vec<(String, Vec<u64>)>) {
    for (name, loads) in loads {
        let sums = sums.entry(name).or_insert_with(|| vec![0; loads.len()]);
        sums.iter_mut().zip(loads).for_each(|(sum, load)| *sum += load);
    }
}
