//! `cuvier`: flags and environment become configs, and one call into one room.
//!
//! **Invariant:** the environment is read here and nowhere else; results go to stdout, everything else to stderr.

#![forbid(unsafe_code)]

mod bench;
mod chat;
mod curves;
mod data;
mod dialogue;
mod distill;
mod eval;
mod grpo;
mod inspect;
mod interactive;
mod interrupt;
mod logits;
mod memory;
mod needs;
mod options;
mod plan;
mod planning;
mod progress;
mod pull;
mod serve;
mod session;
mod synth;
mod tokenize;
mod train;
mod verify;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use cuvier_engine::with_causes;

/// DeepSeek-V4 on ordinary machines: run it, look into it, measure it.
#[derive(Parser)]
#[command(name = "cuvier", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Talk to a model: once with PROMPT or piped text, else interactively
    Chat(chat::Args),
    /// Answer requests over HTTP: OpenAI's and Anthropic's APIs, and a web page
    Serve(serve::Args),
    /// What a model is: parameters, bytes, KV cache, FLOPs; reads headers only
    Inspect(inspect::Args),
    /// Whether a model fits, how it is laid out in memory, and how fast it can be
    Plan(plan::Args),
    /// Download a checkpoint from a model hub: resumable, checked by hash, only what is missing
    Pull(pull::Args),
    /// Write a random-weight checkpoint of true format
    Synth(synth::Args),
    /// Train a model on prepared documents
    Train(train::Args),
    /// Train a checkpoint further, on conversations
    Sft(train::Args),
    /// Train a checkpoint further with rounded weights, so that it loses less by the rounding
    Qat(train::Args),
    /// Let a checkpoint learn from its own answers, which a verifier judges
    Grpo(grpo::Args),
    /// Make one model of several that each know a domain
    Distill(distill::Args),
    /// Text to token ids and back
    Tokenize(tokenize::Args),
    /// Logits and named intermediate tensors of given token ids
    Logits(logits::Args),
    /// Check a checkpoint; with --state also that its state is exact
    Verify(verify::Args),
    /// Tokens per second, and their share of what this machine can do
    Bench(bench::Args),
    /// Make samples to train on and to test with
    Data(data::Args),
    /// What a model can do: scores of held-out tasks and text, with their uncertainty
    Eval(eval::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Chat(args) => chat::run(args),
        Verb::Serve(args) => serve::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Plan(args) => plan::run(&args),
        Verb::Pull(args) => pull::run(&args),
        Verb::Synth(args) => synth::run(args),
        Verb::Train(args) => train::run(&args, train::Kind::Train),
        Verb::Sft(args) => train::run(&args, train::Kind::Sft),
        Verb::Qat(args) => train::run(&args, train::Kind::Qat),
        Verb::Grpo(args) => grpo::run(&args),
        Verb::Distill(args) => distill::run(&args),
        Verb::Tokenize(args) => tokenize::run(&args),
        Verb::Logits(args) => logits::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Data(args) => data::run(&args),
        Verb::Eval(args) => eval::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output left, as `head` does: nothing is wrong.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Ends the program as clap does on wrong usage that its attributes cannot express.
fn refuse_usage(message: &str) -> ! {
    Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io_errors.into_iter().any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
