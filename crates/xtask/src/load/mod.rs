//! `cargo xtask load`: what a server does under many clients, under hostile ones, and when it is killed.

mod crash;
mod faults;
mod newcomer;
pub mod server;
mod steady;
pub mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;

use crate::process::call;

/// Flags of `load`.
#[derive(clap::Args)]
pub struct Args {
    /// What to do to the server; without names: everything
    #[arg(value_enum)]
    cases: Vec<Case>,
    /// Clients of `steady`
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How long `steady` lasts
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Connects and aborts of `faults`
    #[arg(long, default_value_t = 10_000)]
    aborts: usize,
    /// Words of the newcomer's prompt; each is about two of the toy's tokens
    #[arg(long, default_value_t = 32_768)]
    newcomer: usize,
    /// Kills of `crash`
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Checkpoint to serve [default: the embedded toy]
    #[arg(short, long)]
    model: Option<PathBuf>,
    /// A binary to test [default: the one built here]
    #[arg(long)]
    cuvier: Option<PathBuf>,
}

/// One thing done to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Many clients for minutes: errors, wrong answers, memory
    Steady,
    /// Eight clients beside one: tokens per second, and whether answers are the same
    Throughput,
    /// A long prompt beside running streams: the longest silence
    Newcomer,
    /// Aborts, slow, huge, deep and broken bodies
    Faults,
    /// Kills while the cache is written, and altered cache files
    Crash,
}

/// Runs the cases and prints what was found; an error if any case failed.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let binary = match &args.cuvier {
        Some(binary) => binary.clone(),
        None => {
            call(
                Command::new("cargo")
                    .args(["build", "--release", "--package", "cuvier-cli"])
                    .current_dir(root),
            )?;
            root.join("target/release/cuvier")
        }
    };
    let setup = server::Setup { binary, model: args.model.clone() };
    let all = Case::value_variants().to_vec();
    let mut failed = Vec::new();
    for case in if args.cases.is_empty() { all } else { args.cases.clone() } {
        let name = case.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        eprintln!("== {name}");
        let result = match case {
            Case::Steady => steady::run(&setup, args.clients, Duration::from_secs_f64(args.minutes * 60.0)),
            Case::Throughput => steady::throughput(&setup),
            Case::Newcomer => newcomer::run(&setup, args.newcomer),
            Case::Faults => faults::run(&setup, args.aborts),
            Case::Crash => crash::run(&setup, args.kills),
        };
        match result {
            Ok(report) => println!("{name}: {report}"),
            Err(error) => {
                println!("{name}: FAILED: {error:#}");
                failed.push(name);
            }
        }
    }
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
