//! The engine thread: schedule, forward, sample, commit.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};

use cuvier_scheduler::{Decision, Departed, Limits, Outcome, Scheduler, Submission};
use cuvier_types::{Batch, Event, LogitRows, SequenceId, TokenId};

use crate::cache::Cache;
use crate::keep::{Keeping, Parked};
use crate::request::Bounds;
use crate::sampler::Sampler;
use crate::shelf::{ConversationId, Shelf, Start};
use crate::{EngineError, Guide, Listener, Logits, Model, Request, with_causes};

/// What handles ask of the engine thread.
pub(crate) enum Command {
    Submit {
        sequence: SequenceId,
        request: Request,
        listener: Box<dyn Listener>,
    },
    Cancel(SequenceId),
    /// The cache has read what was asked of it.
    Restored,
    Open(ConversationId),
    Close(ConversationId),
    Send {
        id: ConversationId,
        sequence: SequenceId,
        request: Request,
        listener: Box<dyn Listener>,
        reply: Reply<()>,
    },
    Fork {
        from: ConversationId,
        to: ConversationId,
        reply: Reply<()>,
    },
    Rollback {
        id: ConversationId,
        n_tokens: usize,
        reply: Reply<()>,
    },
    Tokens {
        id: ConversationId,
        reply: Reply<Vec<TokenId>>,
    },
    Save {
        id: ConversationId,
        reply: Reply<Vec<u8>>,
    },
    Restore {
        id: ConversationId,
        bytes: Vec<u8>,
        reply: Reply<()>,
    },
    Stop,
}

pub(crate) type Reply<T> = Sender<Result<T, EngineError>>;

/// All that the engine thread owns.
pub(crate) struct StepLoop<M: Model> {
    pub(crate) model: M,
    bounds: Bounds,
    pub(crate) scheduler: Scheduler,
    pub(crate) live: HashMap<SequenceId, Live<M::State>>,
    /// Requests that wait for the cache.
    pub(crate) parked: HashMap<SequenceId, Parked>,
    shelf: Shelf<M::State>,
    pub(crate) cache: Cache<M>,
}

/// A sequence that has not left the scheduler.
pub(crate) struct Live<S> {
    /// `None` until its first step.
    pub(crate) state: Option<S>,
    sampler: Sampler,
    guide: Option<Box<dyn Guide>>,
    listener: Box<dyn Listener>,
    conversation: Option<ConversationId>,
    /// `None` for conversations, which keep their own states.
    pub(crate) keeping: Option<Keeping>,
}

impl<M: Model> StepLoop<M> {
    pub(crate) fn new(model: M, bounds: Bounds, limits: Limits, cache: Cache<M>) -> Self {
        Self {
            model,
            bounds,
            scheduler: Scheduler::new(limits),
            live: HashMap::new(),
            parked: HashMap::new(),
            shelf: Shelf::new(),
            cache,
        }
    }

    /// Works until told to stop. Commands are heard between steps; without a sequence the thread sleeps.
    pub(crate) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let command = if self.scheduler.is_idle() {
                commands.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                commands.try_recv()
            };
            match command {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => break,
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => self.step(),
            }
        }
        let left: Vec<SequenceId> = self.scheduler.sequences().chain(self.parked.keys().copied()).collect();
        left.into_iter().for_each(|sequence| self.cancel(sequence));
    }

    /// The way of one token: decide, act, act, decide.
    fn step(&mut self) {
        self.begin_late();
        let batch = self.scheduler.schedule();
        let outcomes = match self.forward(&batch) {
            Ok(logits) => self.sample(&batch, &logits),
            Err(message) => blame(&batch, &message),
        };
        self.keep(&batch, &outcomes);
        for decision in self.scheduler.commit(outcomes) {
            match decision {
                Decision::Tell { sequence, event } => self.tell(sequence, event),
                Decision::Leave(departed) => self.leave(departed),
            }
        }
    }

    /// Runs the model over the batch. After an error the states of the batch are gone.
    fn forward(&mut self, batch: &Batch) -> Result<Logits, String> {
        let mut states: Vec<M::State> = Vec::with_capacity(batch.chunks.len());
        for chunk in &batch.chunks {
            let state = self.live_mut(chunk.sequence).state.take();
            let state = state.unwrap_or_else(|| self.model.new_state());
            assert_eq!(
                Some(M::position(&state)),
                self.scheduler.computed(chunk.sequence),
                "sequence {}: the state holds what the scheduler knows to be computed",
                chunk.sequence
            );
            states.push(state);
        }
        self.hold(batch, &mut states);
        let mut borrowed: Vec<&mut M::State> = states.iter_mut().collect();
        let logits = self.model.forward(batch, &mut borrowed).map_err(|error| with_causes(&error))?;
        for (chunk, state) in batch.chunks.iter().zip(states) {
            self.live_mut(chunk.sequence).state = Some(state);
        }
        Ok(logits)
    }

    /// Draws a token for each chunk that asked for logits.
    fn sample(&mut self, batch: &Batch, logits: &Logits) -> Vec<Outcome> {
        let mut rows = logits.rows();
        let mut outcomes = Vec::with_capacity(batch.chunks.len());
        for chunk in &batch.chunks {
            if chunk.logits == LogitRows::None {
                outcomes.push(Outcome::Computed);
                continue;
            }
            let row = rows.next().expect("the model gives a row for each one asked for");
            let Live { sampler, guide, .. } = self.live_mut(chunk.sequence);
            outcomes.push(match sampler.draw_guided(row, guide.as_deref_mut()) {
                Ok(drawn) => Outcome::Drawn { token: drawn.token, logprobs: drawn.logprobs },
                Err(error) => Outcome::Failed { message: error.to_string() },
            });
        }
        assert!(rows.next().is_none(), "the model gives no row that was not asked for");
        outcomes
    }

    pub(crate) fn tell(&mut self, sequence: SequenceId, event: Event) {
        let Some(live) = self.live.get_mut(&sequence) else { return };
        if !live.listener.hear(event) {
            self.cancel(sequence);
        }
    }

    /// The conversation has its history back before its caller hears the last event.
    fn leave(&mut self, departed: Departed) {
        let Some(mut live) = self.live.remove(&departed.sequence) else { return };
        // Numbers that made a sequence fail may be in its state.
        let state = live.state.filter(|_| !matches!(departed.event, Event::Failed { .. }));
        if let (Some(keeping), Some(state)) = (&live.keeping, &state) {
            self.keep_end(keeping, &departed, state);
        }
        if let Some(id) = live.conversation {
            self.shelf.end(id, departed.tokens, state);
        }
        // A caller that no longer listens needs no last event.
        let _ = live.listener.hear(departed.event);
    }

    fn cancel(&mut self, sequence: SequenceId) {
        if let Some(departed) = self.scheduler.cancel(sequence) {
            self.leave(departed);
        } else {
            self.cancel_parked(sequence);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit { sequence, request, listener } => self.arrive(sequence, request, listener),
            Command::Cancel(sequence) => self.cancel(sequence),
            Command::Restored => self.unpark(),
            Command::Open(id) => self.shelf.open(id),
            Command::Close(id) => {
                if let Some(sequence) = self.shelf.close(id) {
                    self.cancel(sequence);
                }
            }
            Command::Send { id, sequence, request, listener, reply } => {
                let start = self.shelf.begin(&self.model, id, sequence, &request, self.bounds);
                answer(&reply, start.map(|start| self.submit(sequence, start, request, listener, Some(id))));
            }
            Command::Fork { from, to, reply } => answer(&reply, self.shelf.fork(&self.model, from, to)),
            Command::Rollback { id, n_tokens, reply } => {
                answer(&reply, self.shelf.rollback(&self.model, id, n_tokens));
            }
            Command::Tokens { id, reply } => answer(&reply, self.shelf.tokens(id)),
            Command::Save { id, reply } => answer(&reply, self.shelf.save(&self.model, id)),
            Command::Restore { id, bytes, reply } => {
                let restored = self.shelf.restore(&self.model, id, &bytes, self.bounds);
                answer(&reply, restored.map_err(EngineError::from));
            }
            Command::Stop => unreachable!("the loop ends at it"),
        }
    }

    /// Takes a request that was checked at the door.
    pub(crate) fn submit(
        &mut self,
        sequence: SequenceId,
        start: Start<M::State>,
        request: Request,
        listener: Box<dyn Listener>,
        conversation: Option<ConversationId>,
    ) {
        let keeping = conversation.is_none().then(|| Keeping::new(&request));
        let computed = start.state.as_ref().map_or(0, M::position);
        let sampler = Sampler::new(request.sampling, &start.tokens);
        let begun = Event::Prefill { done: computed, total: start.tokens.len() };
        let submission = Submission {
            sequence,
            prompt: start.tokens,
            computed,
            max_tokens: request.max_tokens,
            stop_tokens: request.stop_tokens,
        };
        self.scheduler.submit(submission).expect("the door checked what the scheduler asks for");
        let (state, guide) = (start.state, request.guide);
        let live = Live { state, sampler, guide, listener, conversation, keeping };
        self.live.insert(sequence, live);
        self.tell(sequence, begun);
    }

    fn live_mut(&mut self, sequence: SequenceId) -> &mut Live<M::State> {
        self.live.get_mut(&sequence).expect("a scheduled sequence is live")
    }
}

/// A step failed as a whole. A sequence that was alone in it is at fault; of several, each is tried alone.
fn blame(batch: &Batch, message: &str) -> Vec<Outcome> {
    match batch.chunks.len() {
        1 => vec![Outcome::Failed { message: message.to_owned() }],
        n => vec![Outcome::Lost; n],
    }
}

/// A caller that gave up waiting gets no reply.
fn answer<T>(reply: &Reply<T>, result: Result<T, EngineError>) {
    let _ = reply.send(result);
}
