//! `cuvier chat`: one answer, or a conversation.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use cuvier_encoding::{
    ChatEvent, ChatParser, Conversation, Ending, Generation, Message, ParserOptions, Prompt, PromptOptions,
    Role, Thinking, Tokenizer, encode_conversation,
};
use cuvier_engine::{Engine, EngineConfig, EngineHandle, Request, TransformerModel};
use cuvier_types::{Event, SamplingParams, TokenId};

use crate::interactive;
use crate::interrupt::Interrupt;
use crate::options::{ComputeArgs, ModelArgs};
use crate::progress;
use crate::session::open_model;
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

/// `--think`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Think {
    /// Answer at once
    Off,
    /// Think briefly
    Low,
    /// Think
    High,
    /// Think as long as it takes
    Max,
}

impl From<Think> for Thinking {
    fn from(think: Think) -> Self {
        match think {
            Think::Off => Self::Off,
            Think::Low => Self::Low,
            Think::High => Self::High,
            Think::Max => Self::Max,
        }
    }
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
    let tokenizer = opened.tokenizer()?;
    opened.check_memory(args.compute.memory)?;
    let model = TransformerModel::new(
        Arc::new(opened.transformer()?),
        args.compute.compute()?,
        args.compute.kv.into(),
    );
    let engine = Engine::start(model, EngineConfig::default())?;
    let interrupt = Interrupt::listen()?;
    let conversation = engine.open()?;
    let (temperature, top_p) = opened.sampling_defaults()?;
    let sampling = SamplingParams {
        temperature: args.temperature.unwrap_or(temperature),
        top_p: args.top_p.unwrap_or(top_p),
        seed: args.seed.unwrap_or_else(seed_of_the_moment),
        ..SamplingParams::default()
    };
    let mut chat =
        Chat { args, tokenizer, prompt_options, engine, conversation, history, interrupt, sampling };
    match prompt {
        Some(prompt) => {
            let answer = chat.answer(&prompt)?;
            match answer.ending {
                Some(Ending::Cancelled) => bail!("interrupted"),
                _ => Ok(()),
            }
        }
        None => interactive::run(&mut chat, &opened.name),
    }
}

/// A conversation with a model, as far as it has come.
pub struct Chat {
    args: Args,
    tokenizer: Tokenizer,
    prompt_options: PromptOptions,
    engine: EngineHandle,
    conversation: cuvier_engine::Conversation,
    history: Conversation,
    /// Whether Ctrl-C was pressed.
    pub interrupt: Interrupt,
    /// The wishes of every answer, but for the seed.
    sampling: SamplingParams,
}

/// What the model said.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Its thoughts.
    pub reasoning: String,
    /// Its answer.
    pub content: String,
    /// Why it ended.
    pub ending: Option<Ending>,
    /// Tokens it wrote.
    pub tokens: usize,
}

impl Chat {
    /// Sets how hard the model thinks from now on.
    pub fn set_thinking(&mut self, think: Think) {
        self.prompt_options.thinking = think.into();
    }

    /// Begins anew, keeping what `--system` said.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        self.history.messages.retain(|message| message.role == Role::System);
        self.conversation = self.engine.open()?;
        Ok(())
    }

    /// Says `text` and streams the answer to stdout, thoughts to stderr.
    pub fn answer(&mut self, text: &str) -> anyhow::Result<Answer> {
        self.history.messages.push(Message::text(Role::User, text));
        let answer = self.generate();
        match &answer {
            Ok(answer) => {
                let mut message = Message::text(Role::Assistant, answer.content.as_str());
                message.reasoning_content = Some(answer.reasoning.clone()).filter(|text| !text.is_empty());
                self.history.messages.push(message);
            }
            Err(_) => drop(self.history.messages.pop()),
        }
        answer
    }

    fn generate(&mut self) -> anyhow::Result<Answer> {
        let prompt = encode_conversation(&self.history, self.prompt_options)?;
        let rest = self.rewind(&prompt)?;
        let bar = progress::count(rest.len() as u64, "reading");
        let mut request = Request::new(rest);
        request.sampling = self.next_sampling();
        request.max_tokens = self.args.max_tokens.map(|n| n as usize);
        request.stop_tokens = self.stop_tokens();
        let mut stream = self.conversation.send(request)?;
        let thinking = self.prompt_options.thinking != Thinking::Off;
        let mut parser = ChatParser::new(ParserOptions::new(thinking, None));
        let mut shown = Shown::new();
        let mut answer = Answer::default();
        loop {
            if self.interrupt.is_set() {
                stream.cancel();
                self.interrupt.clear();
            }
            // Wakes up now and then to look at Ctrl-C.
            let Ok(event) = stream.next_within(Duration::from_millis(100)) else { continue };
            let Some(event) = event else { break };
            match event {
                Event::Prefill { done, .. } => bar.set_position(done as u64),
                Event::Token { token, .. } => {
                    bar.finish_and_clear();
                    answer.tokens += 1;
                    shown.events(parser.push_token(&self.tokenizer, token), &mut answer)?;
                }
                Event::Finished { reason } => shown.events(parser.finish(reason), &mut answer)?,
                Event::Failed { message } => bail!("{message}"),
            }
        }
        shown.end()?;
        Ok(answer)
    }

    /// Keeps what the engine has computed of this prompt, and returns the tokens that are left to compute.
    fn rewind(&mut self, prompt: &Prompt) -> anyhow::Result<Vec<TokenId>> {
        let tokens = self.tokenizer.encode_prompt(prompt)?;
        let computed = self.conversation.tokens()?;
        let common = tokens.iter().zip(&computed).take_while(|(a, b)| a == b).count();
        // At least one token must be left to compute, for its logits.
        let keep = common.min(tokens.len() - 1);
        let excess = computed.len() - keep;
        if excess > 0 {
            self.conversation.rollback(excess)?;
        }
        Ok(tokens[keep..].to_vec())
    }

    /// Every turn draws from a seed of its own.
    fn next_sampling(&mut self) -> SamplingParams {
        let sampling = self.sampling.clone();
        self.sampling.seed = sampling.seed.wrapping_add(1);
        sampling
    }

    fn stop_tokens(&self) -> Vec<TokenId> {
        let control = self.tokenizer.control();
        (0..self.tokenizer.vocab_size() as u32).map(TokenId).filter(|&id| control.ends_answer(id)).collect()
    }
}

/// Writes an answer as it comes: thoughts dim and on stderr, the answer on stdout.
struct Shown {
    thinking: bool,
    on_terminal: bool,
}

impl Shown {
    fn new() -> Self {
        Self { thinking: false, on_terminal: std::io::stderr().is_terminal() }
    }

    fn events(&mut self, events: Vec<ChatEvent>, answer: &mut Answer) -> anyhow::Result<()> {
        for event in events {
            match event {
                ChatEvent::Reasoning(text) => {
                    self.enter(true);
                    eprint!("{text}");
                    answer.reasoning.push_str(&text);
                }
                ChatEvent::Content(text) => {
                    self.enter(false);
                    let mut out = std::io::stdout().lock();
                    out.write_all(text.as_bytes())?;
                    out.flush()?;
                    answer.content.push_str(&text);
                }
                ChatEvent::Finished { ending } => answer.ending = Some(ending),
                // No tools are sent, so there are no calls.
                _ => {}
            }
        }
        Ok(())
    }

    fn enter(&mut self, thinking: bool) {
        if self.thinking != thinking {
            self.thinking = thinking;
            match (thinking, self.on_terminal) {
                (true, true) => eprint!("\x1b[2m"),
                (false, true) => eprintln!("\x1b[0m"),
                (true, false) => {}
                (false, false) => eprintln!(),
            }
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.enter(false);
        writeln!(std::io::stdout().lock())?;
        Ok(())
    }
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

/// Whether an answer was cut for want of room.
pub fn was_cut(answer: &Answer) -> bool {
    answer.ending == Some(Ending::Length)
}
