//! From an ask to answers under way.

use std::sync::Arc;
use std::time::Instant;

use cuvier_encoding::{
    ChatParser, ParserOptions, Prompt, PromptOptions, StopStrings, TextStream, ToolSchemas,
    encode_conversation,
};
use cuvier_engine::{Guide, Request};
use cuvier_types::TokenId;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::ask::{Ask, Chat, Subject, ToolChoice};
use crate::generation::{Generation, Progress, Reading, Record, Relay, Usage};
use crate::recall::Transcript;
use crate::{ApiError, App};

/// What of an ask the model reads.
#[derive(Clone, Debug)]
struct Encoded {
    tokens: Vec<TokenId>,
    opens_thinking: bool,
    transcript: Transcript,
}

type BoxedGuide = Option<Box<dyn Guide>>;

impl App {
    /// Starts an answer.
    ///
    /// # Errors
    /// If the conversation cannot be written, its prompt leaves no room, or too many requests are under way.
    pub(crate) async fn start(self: &Arc<Self>, ask: Ask) -> Result<Generation, ApiError> {
        let mut answers = self.start_choices(ask, 1).await?;
        answers.pop().ok_or_else(|| ApiError::Internal("no answer was started".to_owned()))
    }

    /// Starts `n` answers to one prompt, each with a seed of its own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) async fn start_choices(
        self: &Arc<Self>,
        ask: Ask,
        n: u64,
    ) -> Result<Vec<Generation>, ApiError> {
        let permits = self.admit(n)?;
        let start = Instant::now();
        let prepare = move |app: &Self, mut ask: Ask| {
            let encoded = app.encode(&mut ask)?;
            let guides: Result<Vec<BoxedGuide>, _> = (0..n).map(|_| app.guide(&ask, &encoded)).collect();
            Ok((ask, encoded, guides?))
        };
        let (ask, encoded, guides) = self.aside(ask, prepare).await?;
        if self.config.log_prompts {
            tracing::info!(prompt = self.tokenizer.decode(&encoded.tokens), "asked");
        }
        let choices = permits.into_iter().zip(guides).enumerate();
        choices
            .map(|(index, (permit, guide))| {
                let mut ask = ask.clone();
                ask.sampling.seed = ask.sampling.seed.wrapping_add(index as u64);
                self.submit(ask, encoded.clone(), guide, permit, start)
            })
            .collect()
    }

    /// How many tokens the prompt of an ask has.
    ///
    /// # Errors
    /// If the conversation cannot be written.
    pub(crate) async fn count(self: &Arc<Self>, ask: Ask) -> Result<usize, ApiError> {
        self.aside(ask, |app, mut ask| Ok(app.encode(&mut ask)?.tokens.len())).await
    }

    /// Encoding a long prompt and compiling a large grammar take seconds, in which other requests must be heard.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        ask: Ask,
        work: impl FnOnce(&Self, Ask) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let app = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&app, ask)).await;
        done.map_err(|error| ApiError::Internal(error.to_string()))?
    }

    fn submit(
        self: &Arc<Self>,
        ask: Ask,
        encoded: Encoded,
        guide: BoxedGuide,
        permit: OwnedSemaphorePermit,
        start: Instant,
    ) -> Result<Generation, ApiError> {
        let Encoded { tokens, transcript, .. } = &encoded;
        let usage = Usage { prompt: tokens.len(), ..Usage::default() };
        // Before the first user's turn stand instructions and tools, which other conversations share.
        let head = tokens.iter().position(|&token| token == self.tokenizer.control().user);
        let mut request = Request::new(tokens.clone());
        request.scope = ask.scope;
        request.marks.extend(head);
        request.guide = guide;
        request.sampling = ask.sampling;
        request.max_tokens = ask.max_tokens;
        request.stop_tokens = self.tokenizer.control().ends().to_vec();
        let (sender, events) = mpsc::unbounded_channel();
        let ticket = self.engine.submit_to(request, Relay(sender))?;
        let (reading, call_prefix) = match &ask.subject {
            Subject::Chat(chat) => (Reading::Chat(Box::new(parser(chat, &encoded))), chat.call_prefix),
            Subject::Raw(_) => (Reading::Raw(TextStream::new()), ""),
        };
        Ok(Generation {
            app: self.clone(),
            ticket,
            events,
            reading,
            stops: StopStrings::new(ask.stop.clone()),
            stop: ask.stop,
            call_prefix,
            scope: ask.scope,
            transcript: transcript.clone(),
            usage,
            measured: self.metrics.begin(start),
            record: Record::default(),
            queued: Default::default(),
            progress: Progress::Submitted,
            _permit: permit,
        })
    }

    fn encode(&self, ask: &mut Ask) -> Result<Encoded, ApiError> {
        let scope = ask.scope;
        let (prompt, transcript) = match &mut ask.subject {
            Subject::Raw(prompt) => (prompt.clone(), Transcript::default()),
            Subject::Chat(chat) => {
                let transcript = self.recall.restore(scope, &mut chat.conversation.messages);
                (self.prompt(chat)?, transcript)
            }
        };
        let tokens = self.tokenizer.encode_prompt(&prompt);
        let tokens = tokens.map_err(|error| ApiError::Invalid { message: error.to_string(), param: None })?;
        Ok(Encoded { tokens, opens_thinking: prompt.opens_thinking(), transcript })
    }

    fn prompt(&self, chat: &Chat) -> Result<Prompt, ApiError> {
        let options = PromptOptions { generation: self.config.generation, thinking: chat.applied.thinking };
        encode_conversation(&chat.conversation, options)
            .map_err(|error| ApiError::Invalid { message: error.to_string(), param: Some("messages".into()) })
    }

    fn guide(&self, ask: &Ask, encoded: &Encoded) -> Result<BoxedGuide, ApiError> {
        let Subject::Chat(chat) = &ask.subject else { return Ok(None) };
        let room = self.engine.context_max().saturating_sub(encoded.tokens.len());
        let tokens_max = ask.max_tokens.map_or(room, |max| max.min(room));
        self.constraints.guide(chat, encoded.opens_thinking, tokens_max)
    }
}

fn parser(chat: &Chat, encoded: &Encoded) -> ChatParser {
    let may_call = !chat.tools.is_empty() && chat.tool_choice != ToolChoice::None;
    let tools = may_call.then(|| ToolSchemas::new(&chat.tools));
    ChatParser::new(ParserOptions::new(encoded.opens_thinking, tools))
}
