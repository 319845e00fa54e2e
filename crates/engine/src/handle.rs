//! Starting an engine, and the caller's end of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use cuvier_model::LayerReads;
use cuvier_scheduler::Limits;
use cuvier_types::SequenceId;

use crate::cache::{Cache, CacheConfig, CacheStats, Counters, open_disk};
use crate::request::Bounds;
use crate::shelf::ConversationId;
use crate::step::{Command, Reply, StepLoop};
use crate::{Conversation, EngineError, EventStream, Listener, Model, ReadReport, Request, Ticket};

/// Starts engines.
#[derive(Clone, Copy, Debug)]
pub struct Engine;

/// Resources and policy of one engine. None of it changes an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Tokens computed in one step, over all sequences. Smaller steps let other sequences in sooner, larger ones
    /// read prompts faster.
    pub batch_tokens_max: usize,
    /// The same while a sequence is answering, which waits for its next token until the step is done. More than
    /// `batch_tokens_max` counts as that.
    pub batch_tokens_answering: usize,
    /// Sequences that are computed at the same time; others wait.
    pub sequences_max: usize,
    /// Tokens of one sequence; `None`, and anything above it, means the model's own limit.
    pub context_max: Option<usize>,
    /// States of earlier requests kept for prompts that begin alike.
    pub cache: CacheConfig,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            batch_tokens_max: 512,
            batch_tokens_answering: 512,
            sequences_max: 8,
            context_max: None,
            cache: CacheConfig::default(),
        }
    }
}

impl Engine {
    /// Hands the model to a new engine thread.
    ///
    /// # Errors
    /// If a limit is 0, the cache's folder cannot be used, or no thread can be had.
    pub fn start<M: Model>(model: M, config: EngineConfig) -> Result<EngineHandle, EngineError> {
        let context_max = config.context_max.map_or(model.context_max(), |max| max.min(model.context_max()));
        let EngineConfig { batch_tokens_max, batch_tokens_answering, sequences_max, cache, .. } = config;
        let limits = [
            ("batch_tokens_max", batch_tokens_max),
            ("batch_tokens_answering", batch_tokens_answering),
            ("sequences_max", sequences_max),
            ("context_max", context_max),
        ];
        if let Some(&(name, _)) = limits.iter().find(|&&(_, limit)| limit == 0) {
            return Err(EngineError::ZeroLimit { name });
        }
        let bounds = Bounds { vocab_size: model.vocab_size(), context_max };
        let limits = Limits { batch_tokens_max, batch_tokens_answering, sequences_max, context_max };
        let (commands, receiver) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let reads = model.reads();
        let disk = open_disk::<M>(&cache, &counters)?;
        let pings = commands.clone();
        // An engine that is gone needs no ping.
        let ping = Arc::new(move || _ = pings.send(Command::Restored));
        let cache = Cache::new(&model, cache.memory_bytes, disk, ping, counters.clone())?;
        let thread = std::thread::Builder::new()
            .name("cuvier-engine".to_owned())
            .spawn(move || StepLoop::new(model, bounds, limits, cache).run(&receiver))
            .map_err(EngineError::Thread)?;
        let door = Door { commands, bounds, next_id: Arc::new(AtomicU64::new(0)) };
        Ok(EngineHandle { door, counters, reads, thread: Some(thread) })
    }
}

/// A running engine. Dropping it cancels what is under way and waits for the engine thread to end.
///
/// It can be shared between threads by reference.
pub struct EngineHandle {
    door: Door,
    counters: Arc<Counters>,
    reads: Option<ReadReport>,
    thread: Option<JoinHandle<()>>,
}

impl EngineHandle {
    /// Takes a request and gives its events as they come.
    ///
    /// # Errors
    /// If the request is not valid, or the engine has stopped.
    pub fn submit(&self, request: Request) -> Result<EventStream, EngineError> {
        let (events, receiver) = mpsc::channel();
        let ticket = self.submit_to(request, events)?;
        Ok(EventStream::new(ticket, receiver))
    }

    /// Takes a request whose events `listener` hears.
    ///
    /// # Errors
    /// If the request is not valid, or the engine has stopped.
    pub fn submit_to(&self, request: Request, listener: impl Listener) -> Result<Ticket, EngineError> {
        request.check(self.door.bounds)?;
        request.check_len(request.prompt.len(), self.door.bounds)?;
        let sequence = self.door.next_sequence();
        self.door.command(Command::Submit { sequence, request, listener: Box::new(listener) })?;
        Ok(self.door.ticket(sequence))
    }

    /// A conversation without history.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub fn open(&self) -> Result<Conversation, EngineError> {
        Conversation::open(&self.door)
    }

    /// A conversation from what [`Conversation::save`] gave.
    ///
    /// # Errors
    /// If the bytes are not a whole, unaltered conversation of this model, or the engine has stopped.
    pub fn restore(&self, bytes: Vec<u8>) -> Result<Conversation, EngineError> {
        Conversation::restore(&self.door, bytes)
    }

    /// The most tokens a sequence may have here, prompt and answer together.
    pub fn context_max(&self) -> usize {
        self.door.bounds.context_max
    }

    /// What the cache holds and has done; it does not wait for the engine's thread.
    pub fn cache_stats(&self) -> CacheStats {
        self.counters.read()
    }

    /// What the model read of its routed experts so far, by layer, the MTP block last; none if all are in memory. It does
    /// not wait for the engine's thread.
    pub fn expert_reads(&self) -> Vec<LayerReads> {
        self.reads.as_ref().map_or_else(Vec::new, |reads| reads())
    }

    /// Tokens of the model's vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.door.bounds.vocab_size
    }
}

impl fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineHandle").field("door", &self.door).finish_non_exhaustive()
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        // If the thread has died, neither has anything to tell: streams say so themselves.
        let _ = self.door.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The way to the engine thread, shared by the handle and its conversations.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    commands: Sender<Command>,
    pub(crate) bounds: Bounds,
    next_id: Arc<AtomicU64>,
}

impl Door {
    pub(crate) fn command(&self, command: Command) -> Result<(), EngineError> {
        self.commands.send(command).map_err(|_| EngineError::Stopped)
    }

    /// Sends a command and waits for its reply, which comes at the end of the step under way.
    pub(crate) fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, EngineError> {
        let (reply, receiver) = mpsc::channel();
        self.command(command(reply))?;
        receiver.recv().map_err(|_| EngineError::Stopped)?
    }

    pub(crate) fn next_sequence(&self) -> SequenceId {
        SequenceId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn next_conversation(&self) -> ConversationId {
        ConversationId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn ticket(&self, sequence: SequenceId) -> Ticket {
        Ticket::new(sequence, self.commands.clone())
    }
}
