//! `cuvier data`: samples to train on and to test with.

use std::io::Write;
use std::path::PathBuf;

use cuvier_train::data::{Made, Making, Recipe, TokenizerFiles};

use crate::session::CALF_TOKENIZER;

const CALF_TOKENIZER_CONFIG: &[u8] = include_bytes!("../../../models/calf/tokenizer_config.json");

/// Flags of `data`.
#[derive(clap::Args)]
pub struct Args {
    /// What to make: seed, tokenizer and sources, as in models/calf/recipe/data.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder to write; must be new or empty
    #[arg(short, long, value_name = "DIR", required_unless_present = "show")]
    out: Option<PathBuf>,
    /// Folder of pages, for sources of text that name none
    #[arg(long, value_name = "DIR")]
    text: Option<PathBuf>,
    /// Overwrite what an earlier run wrote into the folder
    #[arg(long)]
    force: bool,
    /// Print this many samples of each source, one a line, and write nothing
    #[arg(long, value_name = "N", conflicts_with_all = ["out", "force"])]
    show: Option<usize>,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let recipe = Recipe::read(&args.config, args.text.as_deref())?;
    let embedded =
        TokenizerFiles { tokenizer: CALF_TOKENIZER.to_vec(), config: CALF_TOKENIZER_CONFIG.to_vec() };
    let making = Making::new(&recipe, embedded)?;
    if let Some(n) = args.show {
        let mut out = std::io::stdout().lock();
        for sample in making.preview(n)? {
            writeln!(out, "{}", sample.to_line())?;
        }
    }
    if let Some(folder) = &args.out {
        let made = making.write(folder, args.force, &mut |made| eprintln!("{}", described(made)))?;
        let tokens: usize = made.iter().map(|made| made.train.tokens).sum();
        eprintln!("{}: {tokens} tokens to train on", folder.display());
    }
    Ok(())
}

fn described(made: &Made) -> String {
    format!(
        "{:<12}{:>8} samples, {:>10} tokens, the longest {}; {} held out",
        made.task.name(),
        made.train.samples,
        made.train.tokens,
        made.train.longest,
        made.held_out.samples,
    )
}
