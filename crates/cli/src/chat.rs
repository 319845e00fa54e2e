//! `cuvier chat`: one answer, or a conversation.

use std::io::{IsTerminal, Write};

use anyhow::{Context, bail};
use cuvier_encoding::{Conversation, Ending, Generation, Message, PromptOptions, Role, encode_conversation};
use cuvier_engine::{CacheConfig, Engine, EngineConfig};
use cuvier_model::plan::StepSize;
use cuvier_types::SamplingParams;

use crate::dialogue::Dialogue;
use crate::interactive;
use crate::interrupt::Interrupt;
use crate::needs::{CONTEXT, Needs};
use crate::options::{ComputeArgs, ModelArgs, Think};
use crate::planning;
use crate::session::{Opened, open_model};
use crate::tokenize::read_stdin;

/// Flags of `chat`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// What to say; piped text if absent; interactive if there is none
    prompt: Option<String>,
    /// Whether the model thinks first, and how hard
    #[arg(long, value_name = "EFFORT", default_value = "off")]
    think: Think,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// 0 takes the most likely token [default: what the model's generation_config.json says]
    #[arg(long, value_name = "T", value_parser = between::<0, 2>)]
    temperature: Option<f32>,
    /// Keep the most likely tokens that together have this probability [default: likewise]
    #[arg(long, value_name = "P", value_parser = between::<0, 1>)]
    top_p: Option<f32>,
    /// Longest answer, thinking included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Most tokens of the conversation [default: the model's own limit, or what memory allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    context: Option<u32>,
    /// What random draws follow from [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print the encoded prompt and stop
    #[arg(long)]
    show_prompt: bool,
    /// Chat format of the checkpoint, `preview` or `0731` [default: that of the encoder beside the weights]
    #[arg(long, value_name = "NAME", value_parser = parse_generation)]
    generation: Option<Generation>,
}

/// Runs the verb.
pub fn run(args: Args) -> anyhow::Result<()> {
    let prompt = match &args.prompt {
        Some(prompt) => Some(prompt.clone()),
        None if !std::io::stdin().is_terminal() => Some(read_stdin()?),
        None => None,
    };
    let opened = open_model(args.model.model.as_deref())?;
    let generation = args.generation.map_or_else(|| opened.generation(), Ok)?;
    let prompt_options = PromptOptions { generation, thinking: args.think.into() };
    let mut history = Conversation::default();
    history.messages.extend(args.system.as_deref().map(|text| Message::text(Role::System, text)));
    if args.show_prompt {
        let text = prompt.context("--show-prompt needs a PROMPT")?;
        history.messages.push(Message::text(Role::User, text));
        writeln!(std::io::stdout().lock(), "{}", encode_conversation(&history, prompt_options)?.text())?;
        return Ok(());
    }
    let mut dialogue = open_dialogue(&args, &opened, prompt_options, history)?;
    match prompt {
        Some(prompt) => match dialogue.answer(&prompt)?.ending {
            Some(Ending::Cancelled) => bail!("interrupted"),
            _ => Ok(()),
        },
        None => interactive::run(&mut dialogue, &opened.name),
    }
}

fn open_dialogue(
    args: &Args,
    opened: &Opened,
    prompt_options: PromptOptions,
    history: Conversation,
) -> anyhow::Result<Dialogue> {
    let tokenizer = opened.tokenizer()?;
    let needs = Needs {
        context: args.context.map(|n| n as usize),
        slots: 1,
        chunk: StepSize::Chosen,
        logit_rows: 0,
        // A conversation keeps its own state.
        prefix_cache: 0,
        flags: &[CONTEXT],
    };
    let plan = opened.plan(&args.compute, needs)?;
    if args.model.model.is_some() {
        planning::lines(&plan).iter().for_each(|line| eprintln!("{line}"));
    }
    let model = opened.engine_model(&plan, &args.compute)?;
    let config = EngineConfig {
        batch_tokens_max: plan.chunk,
        batch_tokens_answering: plan.chunk_answering,
        sequences_max: plan.wish.slots,
        context_max: Some(plan.wish.context),
        cache: CacheConfig { memory_bytes: 0, disk: None },
    };
    let engine = Engine::start(model, config)?;
    let (temperature, top_p) = opened.sampling_defaults()?;
    Ok(Dialogue {
        tokenizer,
        prompt_options,
        conversation: engine.open()?,
        engine,
        history,
        interrupt: Interrupt::listen()?,
        sampling: SamplingParams {
            temperature: args.temperature.unwrap_or(temperature),
            top_p: args.top_p.unwrap_or(top_p),
            seed: args.seed.unwrap_or_else(seed_of_the_moment),
            ..SamplingParams::default()
        },
        max_tokens: args.max_tokens.map(|n| n as usize),
    })
}

fn seed_of_the_moment() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64)
}

fn between<const MIN: u8, const MAX: u8>(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (f32::from(MIN)..=f32::from(MAX)).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{MIN} to {MAX}"))
    }
}

fn parse_generation(text: &str) -> Result<Generation, String> {
    text.parse::<Generation>().map_err(|error| error.to_string())
}
