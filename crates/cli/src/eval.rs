//! `cuvier eval`: what a model can do.

mod flags;

use std::io::Write;
use std::sync::Arc;

use cuvier_encoding::{Generation, Tokenizer};
use cuvier_engine::{Engine, EngineConfig, TransformerModel};
use cuvier_eval::{
    Asker, EvalError, Passages, Reader, Report, Tell, abstain, arithmetic, balance, bpb, gain, mtp, needle,
    tools,
};
use cuvier_model::plan::StepSize;
use cuvier_model::{Compute, Transformer};
use cuvier_train::data::{self, Encoder};
use cuvier_weights::accounting::parameters;
use cuvier_weights::{ExpertDtype, Precision};
use serde_json::{Value, json};

use crate::needs::{self, Needs};
use crate::options::{ComputeArgs, Kv};
use crate::progress;
use crate::session::{Opened, open_model};

pub use flags::Args;
use flags::{AskArgs, Common, DataArgs, Name, NeedleArgs, TaskArgs};

/// Samples of each task that are made where no file is named.
const MADE: u32 = 50;
/// Tokens of a document where nothing is said.
const CONTEXT: usize = 4096;
/// The shortest text, and by how much each is longer than the one before.
const LENGTH_MIN: usize = 1024;
const LENGTH_FACTOR: usize = 4;

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let common = args.common();
    let opened = open_model(common.model.model.as_deref())?;
    let compute = common.compute.compute()?;
    let facts = facts(&opened, &common.compute, &compute)?;
    let bar = progress::count(0, args.verb());
    let mut tell = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let report = args.report(&opened, compute, &mut tell)?;
    bar.finish_and_clear();
    print(&report, &facts, common.json)
}

impl Args {
    fn common(&self) -> &Common {
        match &self.name {
            Name::Bpb(args) | Name::Balance(args) | Name::Gain(args) => &args.common,
            Name::Arithmetic(args) => &args.common,
            Name::Needle(args) => &args.common,
            Name::Tools(args) | Name::Abstain(args) => &args.common,
            Name::Mtp(args) => &args.data.common,
        }
    }

    /// What the progress bar says.
    fn verb(&self) -> &'static str {
        match &self.name {
            Name::Bpb(_) | Name::Balance(_) | Name::Gain(_) | Name::Mtp(_) => "reading",
            Name::Needle(_) | Name::Arithmetic(_) | Name::Tools(_) | Name::Abstain(_) => "asking",
        }
    }

    fn report(&self, opened: &Opened, compute: Compute, tell: Tell<'_>) -> anyhow::Result<Report> {
        match &self.name {
            Name::Bpb(args) => args.read(opened, compute, |reader, passages, tokenizer| {
                bpb::run(reader, passages, tokenizer, tell)
            }),
            Name::Balance(args) => {
                args.read(opened, compute, |reader, passages, _| balance::run(reader, passages, tell))
            }
            Name::Gain(args) => {
                args.read(opened, compute, |reader, passages, _| gain::run(reader, passages, tell))
            }
            Name::Mtp(args) => args.data.read(opened, compute, |reader, passages, tokenizer| {
                let ends = tokenizer.control().ends();
                mtp::run(reader, passages, &ends, args.max_tokens as usize, tell)
            }),
            Name::Arithmetic(args) => args.ask.ask(opened, &args.common, compute, |asker| {
                let think = args.think.iter().map(|&think| think.into()).collect();
                let samples = args.samples as usize;
                arithmetic::run(asker, &arithmetic::Options { samples, seed: args.common.seed, think }, tell)
            }),
            Name::Needle(args) => args.ask.ask(opened, &args.common, compute, |asker| args.run(asker, tell)),
            Name::Tools(args) => args.ask.ask(opened, &args.common, compute, |asker| {
                let (samples, seed, think) = args.task();
                tools::run(asker, &tools::Options { samples, seed, think }, tell)
            }),
            Name::Abstain(args) => args.ask.ask(opened, &args.common, compute, |asker| {
                let (samples, seed, think) = args.task();
                abstain::run(asker, &abstain::Options { samples, seed, think }, tell)
            }),
        }
    }
}

impl AskArgs {
    /// Starts an engine with the model and asks it.
    fn ask(
        &self,
        opened: &Opened,
        common: &Common,
        compute: Compute,
        run: impl FnOnce(&Asker<'_>) -> Result<Report, EvalError>,
    ) -> anyhow::Result<Report> {
        let tokenizer = opened.tokenizer()?;
        let slots = self.slots as usize;
        let defaults = EngineConfig::default();
        let needs = Needs {
            context: None,
            slots,
            chunk: StepSize::Chosen,
            logit_rows: 0,
            prefix_cache: defaults.cache.memory_bytes,
            flags: &[needs::SLOTS],
        };
        let plan = opened.plan(&common.compute, needs)?;
        let transformer = opened.transformer_as(&plan, &compute)?;
        let model = TransformerModel::new(Arc::new(transformer), compute, common.compute.kv.into());
        let config = EngineConfig {
            batch_tokens_max: plan.chunk,
            batch_tokens_answering: plan.chunk_answering,
            sequences_max: slots,
            context_max: Some(plan.wish.context),
            ..defaults
        };
        let engine = Engine::start(model, config)?;
        let encoder = Encoder { tokenizer: &tokenizer, generation: opened.generation()? };
        let max_tokens = self.max_tokens.map(|tokens| tokens as usize);
        Ok(run(&Asker { engine: &engine, encoder, in_flight: 2 * slots, max_tokens })?)
    }
}

impl TaskArgs {
    fn task(&self) -> (usize, u64, data::Think) {
        (self.samples as usize, self.common.seed, self.think.into())
    }
}

impl NeedleArgs {
    fn run(&self, asker: &Asker<'_>, tell: Tell<'_>) -> Result<Report, EvalError> {
        let context_max = asker.engine.context_max();
        let by_context = || {
            let lengths = std::iter::successors(Some(LENGTH_MIN), |length| length.checked_mul(LENGTH_FACTOR));
            let mut lengths: Vec<usize> = lengths.take_while(|&length| length < context_max).collect();
            lengths.push(context_max);
            lengths
        };
        let options = needle::Options {
            lengths: self.lengths.clone().unwrap_or_else(by_context),
            depths: self.depths.clone(),
            samples: self.samples as usize,
            seed: self.common.seed,
            think: self.think.into(),
        };
        needle::run(asker, &options, tell)
    }
}

impl DataArgs {
    /// Loads the model and reads the documents through it.
    fn read(
        &self,
        opened: &Opened,
        compute: Compute,
        run: impl FnOnce(&Reader<'_>, &Passages, &Tokenizer) -> Result<Report, EvalError>,
    ) -> anyhow::Result<Report> {
        let tokenizer = opened.tokenizer()?;
        let encoder = Encoder { tokenizer: &tokenizer, generation: opened.generation()? };
        let context_max = opened.checkpoint.config().max_position_embeddings;
        let context = self.context.map_or(CONTEXT, |tokens| tokens as usize).min(context_max);
        let passages = match &self.data {
            Some(file) => Passages::read(file, self.samples.map(|n| n as usize), context, encoder)?,
            None => {
                Passages::made(self.samples.unwrap_or(MADE) as usize, self.common.seed, context, encoder)?
            }
        };
        let needs = Needs {
            context: Some(context),
            slots: 1,
            chunk: StepSize::Given(context),
            logit_rows: context,
            prefix_cache: 0,
            flags: &[needs::CONTEXT],
        };
        let plan = opened.plan(&self.common.compute, needs)?;
        let model: Transformer = opened.transformer_as(&plan, &compute)?;
        let reader = Reader { model: &model, compute: &compute, kv: self.common.compute.kv.into() };
        Ok(run(&reader, &passages, &tokenizer)?)
    }
}

/// What the results belong to: the model, and the arithmetic it was computed in.
fn facts(opened: &Opened, args: &ComputeArgs, compute: &Compute) -> anyhow::Result<Value> {
    let config = opened.checkpoint.config();
    let counted = parameters(config, Precision::Official, config.num_nextn_predict_layers > 0);
    let quantised = config.quantization_config.is_some();
    let experts = config.expert_dtype.map(|dtype| match dtype {
        ExpertDtype::Fp4 => "fp4",
        ExpertDtype::Fp8 => "fp8",
        ExpertDtype::Bf16 => "bf16",
        ExpertDtype::F32 => "f32",
    });
    Ok(json!({
        "name": opened.name,
        "parameters": counted.total,
        "active_parameters": counted.active,
        "layers": config.num_hidden_layers,
        "context": config.max_position_embeddings,
        "weight_bytes": opened.checkpoint.tensor_bytes(),
        "weights": if quantised { "fp8" } else { "unquantised" },
        "experts": experts,
        "kv": match args.kv {
            Kv::Fp8 => "fp8",
            Kv::F32 => "f32",
        },
        "format": match opened.generation()? {
            Generation::Preview => "preview",
            Generation::Revised0731 => "0731",
        },
        "isa": compute.isa().name(),
        "threads": compute.threads(),
    }))
}

fn print(report: &Report, facts: &Value, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{:#}", report.to_json(facts))?;
        return Ok(());
    }
    let show = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let asked: Vec<String> =
        report.asked.iter().map(|(name, value)| format!("{name} {}", show(value))).collect();
    let of = |name: &str| show(&facts[name]);
    let (weights, experts, kv, isa) = (of("weights"), of("experts"), of("kv"), of("isa"));
    writeln!(out, "{} of {}: {}", report.name, of("name"), asked.join(", "))?;
    writeln!(out, "weights {weights}, experts {experts}, state {kv}, {isa}; (95 % interval), [least, most]")?;
    write!(out, "{}", report.to_text())?;
    Ok(())
}
