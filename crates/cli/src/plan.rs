//! `cuvier plan`: whether a model fits, how it is laid out in memory, and how fast it can be, before any of it is there.

use std::io::Write;

use anyhow::bail;
use cuvier_model::measure_roof;
use cuvier_model::plan::{Plan, StepSize, Stock, TooLittle, plan};
use cuvier_types::Bytes;
use cuvier_weights::{ExpertDtype, ModelConfig, Precision, measure_disk};
use serde_json::{Value, json};

use crate::needs::{CONTEXT, Needs, SLOTS, wish_for};
use crate::options::{ComputeArgs, ModelArgs, parse_size, show_size};
use crate::planning;
use crate::session::{CALF_CONFIG, Opened, open_model};

/// Flags of `plan`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    wishes: Wishes,
    /// A shape that is known without files
    #[arg(value_name = "SHAPE", conflicts_with = "model")]
    shape: Option<Shape>,
    /// Room on disk for the files of a SHAPE; more than that is refused
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    disk: Option<Bytes>,
    /// Measure how fast this machine's memory is, and with --model its disk
    #[arg(long)]
    measure: bool,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// What a plan is made for.
#[derive(clap::Args)]
pub struct Wishes {
    #[command(flatten)]
    compute: ComputeArgs,
    /// Tokens of the longest sequence [default: the model's own limit, or what memory allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    context: Option<u32>,
    /// Sequences computed at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    slots: u16,
    /// Memory for what was computed of earlier prompts, as `serve` keeps it
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    cache_memory: Bytes,
    /// Bytes per second of the disk, if not measured
    #[arg(long, value_name = "SIZE", default_value = "1.5GB", value_parser = parse_size)]
    disk_rate: Bytes,
    /// Bytes per second of the memory, if not measured
    #[arg(long, value_name = "SIZE", default_value = "30GB", value_parser = parse_size)]
    memory_rate: Bytes,
}

/// Shapes known without files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Shape {
    /// DeepSeek-V4-Flash
    Flash,
    /// DeepSeek-V4-Pro
    Pro,
    /// The embedded toy model
    Calf,
}

/// Bytes per second.
#[derive(Clone, Copy, Debug)]
struct Rates {
    disk: f64,
    memory: f64,
    /// Which of them were measured.
    measured: [bool; 2],
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (name, stock, opened) = subject(args)?;
    let rates = rates(args, opened.as_ref())?;
    let disk = args.disk.filter(|_| args.shape.is_some());
    tell(&name, &stock, &args.wishes, rates, disk, args.json)
}

/// Plans and says what came of it; an error if it does not fit.
fn tell(
    name: &str,
    stock: &Stock,
    wishes: &Wishes,
    rates: Rates,
    disk: Option<Bytes>,
    json: bool,
) -> anyhow::Result<()> {
    let needs = Needs {
        context: wishes.context.map(|n| n as usize),
        slots: usize::from(wishes.slots),
        chunk: StepSize::Chosen,
        logit_rows: 0,
        prefix_cache: wishes.cache_memory.0,
        flags: &[CONTEXT, SLOTS],
    };
    let wish = wish_for(&stock.config, &wishes.compute, needs);
    let planned = plan(stock, wish);
    let too_small = disk.filter(|disk| stock.stored > disk.0);
    if json {
        let document = to_json(name, &planned, rates, too_small.is_some());
        writeln!(std::io::stdout().lock(), "{document:#}")?;
    } else if let Ok(plan) = &planned {
        print(name, stock, plan, rates)?;
    }
    if let Some(disk) = too_small {
        bail!("{name}: its files take {}, the disk has {}", show_size(stock.stored), show_size(disk.0));
    }
    match planned {
        Ok(_) => Ok(()),
        Err(refused) => bail!("{name}: {}", planning::refusal(&refused, &wish, needs.flags)),
    }
}

/// The plan of a model that is not here yet, of which only the config is known.
pub fn tell_of_config(name: &str, config: &ModelConfig, wishes: &Wishes) -> anyhow::Result<()> {
    tell(name, &stock_of(config), wishes, assumed(wishes), None, false)
}

/// What a config implies, stored as it says.
fn stock_of(config: &ModelConfig) -> Stock {
    let precision = match config.expert_dtype {
        Some(ExpertDtype::Fp8) => Precision::Base,
        None if config.quantization_config.is_none() => Precision::Bf16,
        _ => Precision::Official,
    };
    Stock::of_shape(config, precision, config.num_nextn_predict_layers > 0)
}

/// Its name, what it holds, and itself, if it is there.
fn subject(args: &Args) -> anyhow::Result<(String, Stock, Option<Opened>)> {
    let shape = |name: &str, config: ModelConfig| (name.to_owned(), stock_of(&config), None);
    Ok(match (args.shape, &args.model.model) {
        (Some(Shape::Flash), _) => shape("flash", ModelConfig::flash()),
        (Some(Shape::Pro), _) => shape("pro", ModelConfig::pro()),
        (Some(Shape::Calf), _) => shape("calf", ModelConfig::parse(CALF_CONFIG, "calf")?),
        (None, folder) => {
            let opened = open_model(folder.as_deref())?;
            let stock = Stock::of_checkpoint(&opened.checkpoint)?;
            (opened.name.clone(), stock, Some(opened))
        }
    })
}

fn assumed(wishes: &Wishes) -> Rates {
    Rates { disk: wishes.disk_rate.0 as f64, memory: wishes.memory_rate.0 as f64, measured: [false; 2] }
}

fn rates(args: &Args, opened: Option<&Opened>) -> anyhow::Result<Rates> {
    let mut rates = assumed(&args.wishes);
    if !args.measure {
        return Ok(rates);
    }
    eprintln!("measuring memory");
    rates.memory = measure_roof(&args.wishes.compute.compute()?).memory_bytes_per_s;
    rates.measured[1] = true;
    if let Some(opened) = opened {
        eprintln!("measuring the disk");
        if let Some(disk) = measure_disk(opened.checkpoint.paths())? {
            (rates.disk, rates.measured[0]) = (disk, true);
        }
    }
    Ok(rates)
}

fn print(name: &str, stock: &Stock, plan: &Plan, rates: Rates) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let files = show_size(stock.stored);
    writeln!(out, "{name}: {} routed experts; files {files}", stock.n_experts())?;
    for line in planning::lines(plan) {
        writeln!(out, "{line}")?;
    }
    let source = |index: usize| if rates.measured[index] { "measured" } else { "assumed" };
    writeln!(
        out,
        "speed      at most {:.2} tokens/s: disk {:.2} GB/s ({}), memory {:.1} GB/s ({})",
        plan.tokens_per_s(rates.disk, rates.memory),
        rates.disk / 1e9,
        source(0),
        rates.memory / 1e9,
        source(1)
    )?;
    Ok(())
}

fn to_json(name: &str, planned: &Result<Plan, TooLittle>, rates: Rates, is_too_large: bool) -> Value {
    match planned {
        Ok(plan) => json!({
            "model": name,
            "fits": !is_too_large,
            "memory": {
                "weights": plan.weights,
                "kv": plan.kv,
                "workspace": plan.workspace,
                "expert_cache": plan.expert_cache,
                "other": plan.wish.other,
                "total": plan.total(),
            },
            "context": plan.wish.context,
            "slots": plan.wish.slots,
            "chunk": plan.chunk,
            "chunk_answering": plan.chunk_answering,
            "streamed": plan.streaming.map(|streaming| json!({
                "experts_in_memory": streaming.experts,
                "layers_in_memory": streaming.layers,
            })),
            "read_bytes_per_token": plan.read_bytes_per_token,
            "memory_bytes_per_token": plan.memory_bytes_per_token,
            "tokens_per_s_expected": plan.tokens_per_s(rates.disk, rates.memory),
            "rates": {
                "disk": rates.disk,
                "memory": rates.memory,
                "disk_measured": rates.measured[0],
                "memory_measured": rates.measured[1],
            },
        }),
        Err(TooLittle { memory, context, slots }) => json!({
            "model": name,
            "fits": false,
            "nearest": { "memory": memory, "context": context, "slots": slots },
        }),
    }
}
