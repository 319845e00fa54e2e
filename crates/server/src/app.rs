//! What all requests share, and how one of them starts.

use std::sync::Arc;

use cuvier_encoding::{
    ChatParser, ParserOptions, Prompt, PromptOptions, StopStrings, TextStream, Tokenizer, ToolSchemas,
    encode_conversation,
};
use cuvier_engine::guide::VocabularyError;
use cuvier_engine::{EngineHandle, Guide, Request};
use cuvier_types::TokenId;
use tokio::sync::{Semaphore, mpsc};

use crate::ask::{Ask, Chat, Subject, ToolChoice};
use crate::constraint::Constraints;
use crate::generation::{Generation, Progress, Reading, Record, Relay, Usage};
use crate::metrics::Metrics;
use crate::recall::{Recall, Transcript};
use crate::{ApiError, ServerConfig};

/// What all requests share.
pub struct App {
    pub(crate) engine: Arc<EngineHandle>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) config: ServerConfig,
    pub(crate) metrics: Metrics,
    pub(crate) recall: Recall,
    constraints: Constraints,
    pub(crate) started: u64,
    permits: Arc<Semaphore>,
    stop_tokens: Vec<TokenId>,
}

/// A prompt, ready to be answered.
#[derive(Debug)]
pub(crate) struct Encoded {
    tokens: Vec<TokenId>,
    reading: Reading,
    guide: Option<Box<dyn Guide>>,
    transcript: Transcript,
}

impl App {
    /// Takes the engine and what reads and writes its tokens.
    ///
    /// # Errors
    /// If the vocabulary contradicts itself, so that no answer could be held to a grammar.
    pub fn new(
        engine: EngineHandle,
        tokenizer: Tokenizer,
        config: ServerConfig,
    ) -> Result<Self, VocabularyError> {
        let all = (0..tokenizer.vocab_size() as u32).map(TokenId);
        let stop_tokens = all.filter(|&id| tokenizer.control().ends_answer(id)).collect();
        let engine = Arc::new(engine);
        Ok(Self {
            permits: Arc::new(Semaphore::new(config.requests_max)),
            metrics: Metrics::new(engine.clone()),
            recall: Recall::default(),
            constraints: Constraints::new(&tokenizer)?,
            started: crate::wire::now(),
            engine,
            tokenizer,
            config,
            stop_tokens,
        })
    }

    /// Checks that one request does not want more answers than there can ever be room for.
    ///
    /// # Errors
    /// If it does: trying again would not help.
    pub(crate) fn check_n_answers(&self, n: usize) -> Result<(), ApiError> {
        let max = self.config.requests_max;
        if n <= max {
            Ok(())
        } else {
            Err(ApiError::field("n", format!("asks for {n} answers, at most {max}")))
        }
    }

    /// Starts an answer.
    ///
    /// # Errors
    /// If the conversation cannot be written, its prompt leaves no room, or too many requests are under way.
    pub async fn start(self: &Arc<Self>, ask: Ask) -> Result<Generation, ApiError> {
        let limit = self.config.requests_max;
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| ApiError::Busy { limit })?;
        let measured = self.metrics.begin();
        let (ask, encoded) = self.encode_aside(ask).await?;
        let Encoded { tokens, reading, guide, transcript } = encoded;
        let usage = Usage { prompt: tokens.len(), ..Usage::default() };
        let call_prefix = match &ask.subject {
            Subject::Chat(chat) => chat.call_prefix,
            Subject::Raw(_) => "",
        };
        if self.config.log_prompts {
            tracing::info!(prompt = self.tokenizer.decode(&tokens), "asked");
        }
        // Before the first user's turn stand instructions and tools, which other conversations share.
        let head = tokens.iter().position(|&token| token == self.tokenizer.control().user);
        let mut request = Request::new(tokens);
        request.scope = ask.scope;
        request.marks.extend(head);
        request.guide = guide;
        request.sampling = ask.sampling;
        request.max_tokens = ask.max_tokens;
        request.stop_tokens.clone_from(&self.stop_tokens);
        let (sender, events) = mpsc::unbounded_channel();
        let ticket = self.engine.submit_to(request, Relay(sender))?;
        Ok(Generation {
            app: self.clone(),
            ticket,
            events,
            reading,
            stops: StopStrings::new(ask.stop.clone()),
            stop: ask.stop,
            call_prefix,
            scope: ask.scope,
            transcript,
            usage,
            measured,
            record: Record::default(),
            queued: Default::default(),
            progress: Progress::Waiting,
            _permit: permit,
        })
    }

    /// How many tokens the prompt of an ask has.
    ///
    /// # Errors
    /// If the conversation cannot be written.
    pub async fn count(self: &Arc<Self>, ask: Ask) -> Result<usize, ApiError> {
        Ok(self.encode_aside(ask).await?.1.tokens.len())
    }

    /// A long prompt takes seconds to encode, in which other requests must be heard.
    async fn encode_aside(self: &Arc<Self>, mut ask: Ask) -> Result<(Ask, Encoded), ApiError> {
        let app = self.clone();
        let encode = move || app.encode(&mut ask).map(|encoded| (ask, encoded));
        let encoded = tokio::task::spawn_blocking(encode).await;
        encoded.map_err(|error| ApiError::Internal(error.to_string()))?
    }

    fn encode(&self, ask: &mut Ask) -> Result<Encoded, ApiError> {
        let scope = ask.scope;
        match &mut ask.subject {
            Subject::Raw(prompt) => Ok(Encoded {
                tokens: self.tokens(prompt)?,
                reading: Reading::Raw(TextStream::new()),
                guide: None,
                transcript: Transcript::default(),
            }),
            Subject::Chat(chat) => {
                let transcript = self.recall.restore(scope, &mut chat.conversation.messages);
                let prompt = self.prompt(chat)?;
                let tokens = self.tokens(&prompt)?;
                let room = self.engine.context_max().saturating_sub(tokens.len());
                let tokens_max = ask.max_tokens.map_or(room, |max| max.min(room));
                let guide = self.constraints.guide(chat, prompt.opens_thinking(), tokens_max)?;
                let calls = !chat.tools.is_empty() && chat.tool_choice != ToolChoice::None;
                let tools = calls.then(|| ToolSchemas::new(&chat.tools));
                let options = ParserOptions::new(prompt.opens_thinking(), tools);
                Ok(Encoded {
                    tokens,
                    guide,
                    reading: Reading::Chat(Box::new(ChatParser::new(options))),
                    transcript,
                })
            }
        }
    }

    fn prompt(&self, chat: &Chat) -> Result<Prompt, ApiError> {
        let options = PromptOptions { generation: self.config.generation, thinking: chat.applied.thinking };
        encode_conversation(&chat.conversation, options)
            .map_err(|error| ApiError::Invalid { message: error.to_string(), param: Some("messages".into()) })
    }

    fn tokens(&self, prompt: &Prompt) -> Result<Vec<TokenId>, ApiError> {
        let invalid = |message: String| ApiError::Invalid { message, param: None };
        self.tokenizer.encode_prompt(prompt).map_err(|error| invalid(error.to_string()))
    }
}
