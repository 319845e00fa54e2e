//! Constrained answers in numbers: how many break (none may), and what a mask costs.

use std::path::Path;
use std::process::Command;

use crate::process;

/// How many answers, over which vocabulary.
#[derive(clap::Args)]
pub struct Args {
    /// Answers to draw, over all cases in turns.
    #[arg(long, default_value_t = 1000)]
    generations: usize,
    /// A synthetic vocabulary of this size in place of the calf's; V4 has 129280.
    #[arg(long)]
    vocab_size: Option<usize>,
}

/// Builds and runs the example of the engine that does the work.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command.current_dir(root);
    command.args(["run", "--release", "--package", "cuvier-engine", "--example", "constrained", "--"]);
    command.arg(args.generations.to_string());
    command.args(args.vocab_size.map(|size| size.to_string()));
    process::call(&mut command)
}
