//! A conversation in progress: what was said, what the engine has computed of it, and the answer as it comes.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::bail;
use cuvier_encoding::{
    ChatEvent, ChatParser, Conversation, Ending, Message, ParserOptions, Prompt, PromptOptions, Role,
    Thinking, Tokenizer, encode_conversation,
};
use cuvier_engine::{EngineHandle, Request};
use cuvier_types::{Event, SamplingParams, TokenId};

use crate::interrupt::Interrupt;
use crate::progress;

/// A conversation with a model, as far as it has come.
pub struct Dialogue {
    pub tokenizer: Tokenizer,
    /// Chat format, and how hard the model thinks.
    pub prompt_options: PromptOptions,
    pub engine: EngineHandle,
    /// What the engine has computed.
    pub conversation: cuvier_engine::Conversation,
    /// What was said.
    pub history: Conversation,
    /// Whether Ctrl-C was pressed.
    pub interrupt: Interrupt,
    /// The wishes of the next answer; each has the seed after the one before.
    pub sampling: SamplingParams,
    /// The most tokens of an answer.
    pub max_tokens: Option<usize>,
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
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Of these, computed before.
    pub cached_tokens: usize,
    /// When its first token came.
    pub first_token: Option<Instant>,
}

impl Answer {
    /// Whether it was cut for want of room.
    pub fn was_cut(&self) -> bool {
        self.ending == Some(Ending::Length)
    }
}

impl Dialogue {
    /// Begins anew, keeping what `--system` said.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        self.history.messages.retain(|message| message.role == Role::System);
        self.conversation = self.engine.open()?;
        Ok(())
    }

    /// Tells the model something before the conversation, in place of what it was told; nothing, if empty.
    pub fn set_system(&mut self, text: &str) {
        self.history.messages.retain(|message| message.role != Role::System);
        if !text.is_empty() {
            self.history.messages.insert(0, Message::text(Role::System, text));
        }
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
        let (cached_tokens, rest) = self.rewind(&prompt)?;
        let prompt_tokens = cached_tokens + rest.len();
        let bar = progress::count(rest.len() as u64, "reading");
        let mut request = Request::new(rest);
        request.sampling = self.next_sampling();
        request.max_tokens = self.max_tokens;
        request.stop_tokens = self.tokenizer.control().ends().to_vec();
        let mut stream = self.conversation.send(request)?;
        let thinking = self.prompt_options.thinking != Thinking::Off;
        let mut parser = ChatParser::new(ParserOptions::new(thinking, None));
        let mut shown = Shown::new();
        let mut answer = Answer { prompt_tokens, cached_tokens, ..Answer::default() };
        loop {
            if self.interrupt.is_set() {
                stream.cancel();
                self.interrupt.clear();
            }
            // Wakes up now and then to look at Ctrl-C.
            let Ok(event) = stream.next_within(Duration::from_millis(100)) else { continue };
            let Some(event) = event else { break };
            match event {
                Event::Prefill { done, total } => {
                    bar.set_length(total as u64);
                    bar.set_position(done as u64);
                }
                Event::Token { token, .. } => {
                    bar.finish_and_clear();
                    answer.tokens += 1;
                    answer.first_token.get_or_insert_with(Instant::now);
                    shown.events(parser.push_token(&self.tokenizer, token), &mut answer)?;
                }
                Event::Finished { reason } => shown.events(parser.finish(reason), &mut answer)?,
                Event::Failed { message } => bail!("{message}"),
            }
        }
        shown.end()?;
        Ok(answer)
    }

    /// Keeps what the engine has computed of this prompt, and returns how many tokens that are and which are left.
    fn rewind(&mut self, prompt: &Prompt) -> anyhow::Result<(usize, Vec<TokenId>)> {
        let tokens = self.tokenizer.encode_prompt(prompt)?;
        let computed = self.conversation.tokens()?;
        let common = tokens.iter().zip(&computed).take_while(|(a, b)| a == b).count();
        // At least one token must be left to compute, for its logits.
        let keep = common.min(tokens.len() - 1);
        let excess = computed.len() - keep;
        if excess > 0 {
            self.conversation.rollback(excess)?;
        }
        Ok((keep, tokens[keep..].to_vec()))
    }

    /// Every turn draws from a seed of its own.
    fn next_sampling(&mut self) -> SamplingParams {
        let sampling = self.sampling.clone();
        self.sampling.seed = sampling.seed.wrapping_add(1);
        sampling
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
