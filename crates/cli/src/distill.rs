//! `cuvier distill`: one model learns from several.

use std::path::PathBuf;

use anyhow::Context;
use cuvier_train::config::DistillConfig;
use cuvier_train::distill::{self, DistillEvent, DistillMetrics};

use crate::curves::draw;
use crate::interrupt::Interrupt;
use crate::options::ComputeArgs;

/// Flags of `distill`.
#[derive(clap::Args)]
pub struct Args {
    /// What to learn from whom, as in models/calf/recipe/distill.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Checkpoint to begin with, instead of the configuration's `from`
    #[arg(short = 'm', long = "model", value_name = "DIR")]
    from: Option<PathBuf>,
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
    let mut config = DistillConfig::parse(&text, &file)?;
    config.from = args.from.clone().unwrap_or(config.from);
    config.out = args.out.clone().unwrap_or(config.out);
    config.seed = args.seed.unwrap_or(config.seed);
    std::fs::create_dir_all(&config.out).with_context(|| config.out.display().to_string())?;
    let compute = args.compute.compute()?;
    let interrupt = Interrupt::listen()?;
    let steps = config.steps;
    let mut done = Vec::new();
    let model = distill::run(&config, &compute, &|| interrupt.is_set(), &mut |event| match event {
        DistillEvent::Began { student, teachers } => {
            eprintln!("held out: student {}, its teachers {}", percents(&student), percents(&teachers));
        }
        DistillEvent::Step(metrics) => {
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

fn line(steps: u64, metrics: &DistillMetrics) -> String {
    let of =
        |value: fn(&distill::DomainMetrics) -> f64| metrics.domains.iter().map(value).collect::<Vec<_>>();
    let divergences: Vec<String> =
        of(|domain| domain.divergence).iter().map(|nats| format!("{nats:.4}")).collect();
    let held_out: Vec<f64> = metrics.domains.iter().filter_map(|domain| domain.held_out).collect();
    let held_out =
        if held_out.is_empty() { String::new() } else { format!(", held out {}", percents(&held_out)) };
    format!(
        "step {}/{steps}: divergence {}, right {}{held_out}, length {:.1}, gradient {:.2}",
        metrics.step + 1,
        divergences.join(" and "),
        percents(&of(|domain| domain.right)),
        metrics.length,
        metrics.grad_norm,
    )
}

fn percents(shares: &[f64]) -> String {
    let shares: Vec<String> = shares.iter().map(|share| format!("{:.1} %", 100.0 * share)).collect();
    shares.join(" and ")
}
