//! `xtask`: the repository's own tools. `cargo xtask help` lists them.

#![forbid(unsafe_code)]

mod conformance;
mod constrained;
mod emulate;
mod fixtures;
mod load;
mod mapped;
mod mutants;
mod page;
mod peers;
mod process;
mod promise;
mod rate;
mod tidy;
mod traces;

use std::path::PathBuf;

use clap::Parser;

/// The repository's own tools.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Command {
    /// Check what neither compiler nor clippy checks: sizes, crate arrows, words, kernels without tests.
    Tidy,
    /// Make recorded truths again; needs Python and its package registry. Without names: all of them.
    Fixtures {
        /// `parity`, `modules`, `arithmetic`, `calf`, `encoding`, `tokenizer`
        names: Vec<String>,
    },
    /// Draw constrained answers from hostile logits, read and validate them, and print figures.
    Constrained(constrained::Args),
    /// Serve random models under random ceilings, and see whether plans are kept
    Promise(promise::Args),
    /// Bench a model of true width with some of its experts in memory, beside what disk and memory allow; needs 19 GB of
    /// disk, and as much memory for all experts.
    Rate(rate::Args),
    /// Replay which experts are used, and print what the expert store reads beside textbook rules and the optimum.
    Traces(traces::Args),
    /// Apply known porting bugs one by one to a copy of the tree and report which ones the tests catch.
    Mutants {
        /// Only those whose name contains this.
        #[arg(long)]
        only: Option<String>,
        /// List them and stop.
        #[arg(long)]
        list: bool,
    },
    /// Time the same synthetic weights in llama.cpp and here, in turns; needs Python, its package registry, a C++
    /// compiler, 20 GB of disk and of memory.
    Peers(peers::Args),
    /// Put a server under load, under attack and to death, and report what it did.
    Load(load::Args),
    /// Try real clients against a running server; needs Python, Node and their package registries.
    Conformance(conformance::Args),
    /// Try the web page in a browser; needs Node, its package registry, and Chromium or Chrome.
    Page(page::Args),
    /// Run tests on an emulated CPU with AVX-512; needs Debian packages, which it names, and minutes of one core.
    Emulate(emulate::Args),
}

fn main() -> anyhow::Result<()> {
    let root = root()?;
    match Command::parse() {
        Command::Tidy => tidy::run(&root),
        Command::Fixtures { names } => fixtures::run(&root, &names),
        Command::Constrained(args) => constrained::run(&root, &args),
        Command::Traces(args) => traces::run(&root, &args),
        Command::Promise(args) => promise::run(&root, &args),
        Command::Rate(args) => rate::run(&root, &args),
        Command::Mutants { only, list } => mutants::run(&root, only.as_deref(), list),
        Command::Peers(args) => peers::run(&root, &args),
        Command::Load(args) => load::run(&root, &args),
        Command::Conformance(args) => conformance::run(&root, &args),
        Command::Page(args) => page::run(&root, &args),
        Command::Emulate(args) => emulate::run(&root, &args),
    }
}

/// The folder of the workspace.
fn root() -> anyhow::Result<PathBuf> {
    let crate_folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = crate_folder.ancestors().nth(2);
    Ok(root.ok_or_else(|| anyhow::anyhow!("{} is not two folders deep", crate_folder.display()))?.to_owned())
}
