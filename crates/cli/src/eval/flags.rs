//! The flags of each evaluation.

use std::path::PathBuf;

use crate::options::{ComputeArgs, ModelArgs, Think};

/// Flags of `eval`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub name: Name,
}

#[derive(clap::Subcommand)]
pub enum Name {
    /// Nats per token and bits per byte of text; of conversations, what the assistant says
    Bpb(DataArgs),
    /// Sums and differences of numbers of 1 to 3 digits
    Arithmetic(ArithmeticArgs),
    /// Recall of values at several depths of long texts
    Needle(NeedleArgs),
    /// Calls of tools that nothing constrains
    Tools(TaskArgs),
    /// Questions with and without an answer in the prompt
    Abstain(TaskArgs),
    /// How often the MTP block drafts what the model says next, and what that saves
    Mtp(MtpArgs),
    /// How evenly the experts of each layer are used
    Balance(DataArgs),
    /// How much the hyper-connections let a signal grow, forward and back
    Gain(DataArgs),
}

/// What every evaluation takes.
#[derive(clap::Args)]
pub struct Common {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
    /// What samples follow from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// What is asked of the engine.
#[derive(clap::Args)]
pub struct AskArgs {
    /// Longest answer, thinking included [default: by --think]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Questions that are computed at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: u32,
}

#[derive(clap::Args)]
pub struct TaskArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub ask: AskArgs,
    /// Questions of each kind
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub samples: u32,
    /// Whether the model thinks first, and how hard
    #[arg(long, value_name = "EFFORT", default_value = "off")]
    pub think: Think,
}

#[derive(clap::Args)]
pub struct ArithmeticArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub ask: AskArgs,
    /// Questions of each effort, number of digits and operation
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub samples: u32,
    /// Whether the model thinks first, and how hard; several are asked the same questions
    #[arg(long, value_name = "EFFORT,...", value_delimiter = ',', default_value = "off,low,high,max")]
    pub think: Vec<Think>,
}

#[derive(clap::Args)]
pub struct NeedleArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub ask: AskArgs,
    /// Texts of each length, each asked for a value at every depth
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub samples: u32,
    /// Tokens of text, question and answer together [default: 1024 and each four times more, as the context allows]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub lengths: Option<Vec<usize>>,
    /// Where values stand in the text, in hundredths
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "0,25,50,75,100", value_parser = clap::value_parser!(u8).range(..=100))]
    pub depths: Vec<u8>,
    /// Whether the model thinks first, and how hard
    #[arg(long, value_name = "EFFORT", default_value = "off")]
    pub think: Think,
}

#[derive(clap::Args)]
pub struct DataArgs {
    #[command(flatten)]
    pub common: Common,
    /// What to read: samples as `cuvier data` writes them if the name ends with .jsonl, else a plain text [default: held-out samples made here]
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Samples to read: of a file the first [default: all], of those made here as many per task [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub samples: Option<u32>,
    /// Most tokens of a document; longer texts are cut, longer conversations left out [default: what the model takes, at most 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub context: Option<u32>,
}

#[derive(clap::Args)]
pub struct MtpArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Most tokens of an answer that is decoded with drafts and without
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
}
