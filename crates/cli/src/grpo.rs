//! `cuvier grpo`: a checkpoint learns from its own answers.

use std::path::PathBuf;

use anyhow::Context;
use cuvier_train::config::GrpoConfig;
use cuvier_train::grpo::{self, GrpoEvent, GrpoMetrics};

use crate::curves::draw;
use crate::interrupt::Interrupt;
use crate::options::ComputeArgs;

/// Flags of `grpo`.
#[derive(clap::Args)]
pub struct Args {
    /// What to learn and how, as in models/calf/recipe/grpo.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Checkpoint to begin with, instead of the configuration's `from`
    #[arg(short = 'm', long = "model", value_name = "DIR")]
    from: Option<PathBuf>,
    /// Folder of prepared documents, instead of the configuration's `data`
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of the run, instead of the configuration's `out`
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Another seed than the configuration's
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object per step on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let file = args.config.display().to_string();
    let text = std::fs::read_to_string(&args.config).with_context(|| file.clone())?;
    let mut config = GrpoConfig::parse(&text, &file)?;
    config.from = args.from.clone().unwrap_or(config.from);
    config.data = args.data.clone().unwrap_or(config.data);
    config.out = args.out.clone().unwrap_or(config.out);
    config.seed = args.seed.unwrap_or(config.seed);
    std::fs::create_dir_all(&config.out).with_context(|| config.out.display().to_string())?;
    let compute = args.compute.compute()?;
    let interrupt = Interrupt::listen()?;
    let steps = config.steps;
    let mut done = Vec::new();
    let model = grpo::run(&config, &compute, &|| interrupt.is_set(), &mut |event| match event {
        GrpoEvent::Began { held_out, questions } => {
            eprintln!(
                "{questions} questions; held out: {:.1} % right before the first step",
                100.0 * held_out
            );
        }
        GrpoEvent::Step(metrics) => {
            if args.json
                && let Ok(line) = serde_json::to_string(&metrics)
            {
                println!("{line}");
            }
            eprintln!("{}", line(steps, &metrics));
            done.push(metrics);
        }
    })?;
    draw(&config.out, &done)?;
    eprintln!("done: {}", model.display());
    Ok(())
}

fn line(steps: u64, metrics: &GrpoMetrics) -> String {
    let held_out =
        metrics.held_out.map_or(String::new(), |share| format!(", held out {:.1} %", 100.0 * share));
    format!(
        "step {}/{steps}: right {:.1} %{held_out}, length {:.1}, entropy {:.3}, distance {:.4}, flat {:.0} %, gradient {:.2}",
        metrics.step + 1,
        100.0 * metrics.right,
        metrics.length,
        metrics.entropy,
        metrics.distance,
        100.0 * metrics.flat_groups,
        metrics.grad_norm,
    )
}
