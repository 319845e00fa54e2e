//! What the step loop gives to the cache and takes from it.

use cuvier_scheduler::{Departed, Outcome};
use cuvier_types::{Batch, Event, FinishReason, SequenceId, TokenId};

use crate::cache::{Beginning, Kind, points};
use crate::shelf::Start;
use crate::step::{Live, StepLoop};
use crate::{Listener, Model, Request};

/// What of a sequence is kept, and for whom.
#[derive(Debug)]
pub(crate) struct Keeping {
    scope: u64,
    n_prompt: usize,
    marks: Vec<usize>,
    /// [`crate::cache::Cache::news`] when the cache was last asked for it.
    seen: u64,
}

/// A request that waits for a state to be read.
pub(crate) struct Parked {
    request: Request,
    listener: Box<dyn Listener>,
}

impl Keeping {
    pub(crate) fn new(request: &Request) -> Self {
        Self { scope: request.scope, n_prompt: request.prompt.len(), marks: request.marks.clone(), seen: 0 }
    }
}

impl<M: Model> StepLoop<M> {
    /// Begins a request where the cache can, which may be a little later.
    pub(crate) fn arrive(&mut self, sequence: SequenceId, request: Request, listener: Box<dyn Listener>) {
        match self.cache.begin(&self.model, sequence, request.scope, &request.prompt) {
            Beginning::Now(state) => self.submit_new(sequence, request, listener, state),
            Beginning::Later => _ = self.parked.insert(sequence, Parked { request, listener }),
        }
    }

    /// Begins the requests whose states were read.
    pub(crate) fn unpark(&mut self) {
        while let Some((sequence, restored)) = self.cache.restored() {
            // It may have been cancelled meanwhile.
            let Some(Parked { request, listener }) = self.parked.remove(&sequence) else { continue };
            let state = self.cache.begin_restored(&self.model, request.scope, &request.prompt, restored);
            self.submit_new(sequence, request, listener, state);
        }
    }

    /// Cancels a request that waits for its state, if it does.
    pub(crate) fn cancel_parked(&mut self, sequence: SequenceId) {
        if let Some(mut parked) = self.parked.remove(&sequence) {
            // A caller that no longer listens needs no last event.
            let _ = parked.listener.hear(Event::Finished { reason: FinishReason::Cancelled });
        }
    }

    fn submit_new(
        &mut self,
        sequence: SequenceId,
        mut request: Request,
        listener: Box<dyn Listener>,
        state: Option<M::State>,
    ) {
        let n_have = state.as_ref().map_or(0, M::position);
        request.marks.extend(self.cache.parting(request.scope, &request.prompt, n_have));
        let start = Start { tokens: request.prompt.clone(), state };
        self.submit(sequence, start, request, listener, None);
    }

    /// Lets sequences that have not taken a step go on from what others have computed since they came: of requests that
    /// come together and begin alike, only the first computes the beginning.
    pub(crate) fn begin_late(&mut self) {
        let news = self.cache.news();
        for sequence in self.scheduler.beginners() {
            let live = self.live.get_mut(&sequence).expect("a scheduled sequence is live");
            let Some(keeping) = live.keeping.as_mut().filter(|keeping| keeping.seen != news) else {
                continue;
            };
            keeping.seen = news;
            let prompt = self.scheduler.tokens(sequence).expect("a beginner has not left");
            let n_have = live.state.as_ref().map_or(0, M::position);
            let Some(state) = self.cache.begin_late(&self.model, keeping.scope, prompt, n_have) else {
                continue;
            };
            let (done, total) = (M::position(&state), prompt.len());
            live.state = Some(state);
            self.scheduler.begin_at(sequence, done);
            self.tell(sequence, Event::Prefill { done, total });
        }
    }

    /// Before a step: has the states hold on to what the cache will want of them behind it.
    pub(crate) fn hold(&mut self, batch: &Batch, states: &mut [M::State]) {
        if self.cache.is_off() {
            return;
        }
        for (chunk, state) in batch.chunks.iter().zip(states) {
            let Some(Live { keeping: Some(keeping), .. }) = self.live.get(&chunk.sequence) else { continue };
            let start = M::position(state);
            if let Some(&first) = keeping.points(start, chunk.tokens.len()).first() {
                // The token before, too: see what is written of a prompt's end.
                M::hold_from(state, first - 1);
            }
        }
    }

    /// Behind a step: keeps what is worth it of sequences that did not fail.
    pub(crate) fn keep(&mut self, batch: &Batch, outcomes: &[Outcome]) {
        if self.cache.is_off() {
            return;
        }
        for (chunk, outcome) in batch.chunks.iter().zip(outcomes) {
            let is_sound = matches!(outcome, Outcome::Computed | Outcome::Drawn { .. });
            let (live, tokens) = (self.live.get(&chunk.sequence), self.scheduler.tokens(chunk.sequence));
            let (true, Some(Live { keeping: Some(keeping), state: Some(state), .. }), Some(tokens)) =
                (is_sound, live, tokens)
            else {
                continue;
            };
            let n_chunk = chunk.tokens.len();
            for point in keeping.points(M::position(state) - n_chunk, n_chunk) {
                let (kind, scope) = (keeping.kind(point), keeping.scope);
                self.cache.keep(&self.model, scope, &tokens[..point], state, kind);
                match kind {
                    Kind::Inside => {}
                    Kind::Mark => self.cache.write(scope, &tokens[..point], state, true),
                    // The last token of a prompt that is asked again has to be computed for its logits, and what was
                    // read from disk cannot be taken back.
                    Kind::End => self.cache.write(scope, &tokens[..point - 1], state, false),
                }
            }
        }
    }

    /// Keeps where a sequence ended, however that was, unless numbers that made it fail may be in its state.
    pub(crate) fn keep_end(&mut self, keeping: &Keeping, departed: &Departed, state: &M::State) {
        let tokens: &[TokenId] = &departed.tokens[..M::position(state)];
        if tokens.is_empty() || self.cache.is_off() {
            return;
        }
        self.cache.keep(&self.model, keeping.scope, tokens, state, Kind::End);
        if tokens.len() != keeping.n_prompt {
            self.cache.write(keeping.scope, tokens, state, false);
        }
    }
}

impl Keeping {
    fn points(&self, start: usize, n_chunk: usize) -> Vec<usize> {
        points(start..start + n_chunk, self.n_prompt, &self.marks)
    }

    fn kind(&self, point: usize) -> Kind {
        if self.marks.contains(&point) {
            Kind::Mark
        } else if point == self.n_prompt {
            Kind::End
        } else {
            Kind::Inside
        }
    }
}
