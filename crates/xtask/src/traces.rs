//! The policy of the expert store in numbers: what it reads, beside textbook rules and the optimum.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;

/// Which traces.
#[derive(clap::Args)]
pub struct Args {
    /// Decoded tokens of each made-up trace.
    #[arg(long, default_value_t = 3000)]
    tokens: usize,
    /// Traces that `cuvier logits --trace` wrote, in place of the recorded one.
    files: Vec<PathBuf>,
}

/// Builds and runs the example of the weights that does the work.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let recorded = [root.join("fixtures/traces/calf.jsonl")];
    let files = if args.files.is_empty() { &recorded[..] } else { &args.files[..] };
    let mut command = Command::new("cargo");
    // Files are named from where the user is.
    command.args(["run", "--release", "--manifest-path"]).arg(root.join("Cargo.toml"));
    command.args(["--package", "cuvier-weights", "--example", "traces", "--"]);
    command.arg(args.tokens.to_string()).args(files);
    process::call(&mut command)
}
