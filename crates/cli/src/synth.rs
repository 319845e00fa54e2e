//! `cuvier synth`: a random-weight checkpoint of true format.

use std::path::PathBuf;

use anyhow::{Context, bail};
use cuvier_encoding::{Tokenizer, synthetic_tokenizer_json};
use cuvier_weights::synth::{self, SynthOptions};
use cuvier_weights::{ModelConfig, Precision};

use crate::options::show_size;
use crate::progress;

/// Flags of `synth`.
#[derive(clap::Args)]
pub struct Args {
    /// flash, pro, calf, or a config.json
    #[arg(long, value_name = "SHAPE")]
    shape: String,
    /// Layers of the backbone; few layers still cover the kinds
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Routed experts per layer
    #[arg(long, value_name = "N")]
    experts: Option<usize>,
    /// Vocabulary
    #[arg(long, value_name = "N")]
    vocab: Option<usize>,
    /// What the random bytes follow from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Holes instead of random bytes in all that is large: files of full size that take next to no disk
    #[arg(long)]
    sparse: bool,
    /// How numbers are stored
    #[arg(long, value_name = "PRECISION", default_value = "official")]
    precision: PrecisionChoice,
    /// Leave the MTP block out
    #[arg(long)]
    no_mtp: bool,
    /// A tokenizer.json to put beside the weights instead of a synthetic one
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Folder to write; must be new or empty
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
}

/// `--precision`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PrecisionChoice {
    /// FP8 matrices, FP4 experts
    Official,
    /// FP8 matrices, FP8 experts with F32 scales, as the Base models
    Base,
    /// BF16
    Bf16,
    /// F32, by the rule of the recorded fixtures
    F32,
}

impl From<PrecisionChoice> for Precision {
    fn from(choice: PrecisionChoice) -> Self {
        match choice {
            PrecisionChoice::Official => Self::Official,
            PrecisionChoice::Base => Self::Base,
            PrecisionChoice::Bf16 => Self::Bf16,
            PrecisionChoice::F32 => Self::F32,
        }
    }
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    let tokenizer = match &args.tokenizer {
        Some(file) => {
            let json = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            Some((Tokenizer::from_bytes(json.as_bytes())?.vocab_size(), json))
        }
        None => None,
    };
    let vocab = args.vocab.or(tokenizer.as_ref().map(|(vocab_size, _)| *vocab_size));
    let options = SynthOptions {
        layers: args.layers,
        experts: args.experts,
        vocab,
        seed: args.seed,
        sparse: args.sparse,
        precision: args.precision.into(),
        mtp: !args.no_mtp,
        ..SynthOptions::new(shape(&args.shape)?)
    };
    let vocab_size = vocab.unwrap_or(options.config.vocab_size);
    let tokenizer = match tokenizer {
        Some((tokens, _)) if tokens > vocab_size => {
            bail!("the tokenizer has {tokens} tokens, the vocabulary {vocab_size}")
        }
        Some((_, json)) => json,
        None => synthetic_tokenizer_json(vocab_size)?,
    };
    let bar = progress::bytes(0, "writing");
    let written = synth::write(&args.out, &options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let file = args.out.join("tokenizer.json");
    std::fs::write(&file, tokenizer).with_context(|| file.display().to_string())?;
    eprintln!("{}: {} of weights", args.out.display(), show_size(written));
    Ok(())
}

fn shape(name: &str) -> anyhow::Result<ModelConfig> {
    match name {
        "flash" => Ok(ModelConfig::flash()),
        "pro" => Ok(ModelConfig::pro()),
        "calf" => Ok(ModelConfig::parse(crate::session::CALF_CONFIG, "the embedded model")?),
        file if file.ends_with(".json") => {
            let text = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
            Ok(ModelConfig::parse(&text, file)?)
        }
        other => bail!("no shape is called `{other}`: flash, pro, calf, or the path of a config.json"),
    }
}
