//! The scheduler: sequences in, batches out, outcomes in, decisions out.

use std::collections::{BTreeMap, VecDeque};

use cuvier_types::{Batch, Event, FinishReason, LogitRows, SequenceId, TokenId, TokenLogprobs};

use crate::sequence::{Sequence, Submission};

/// What a step and the whole may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens computed in one step, over all sequences; at least 1.
    pub batch_tokens_max: usize,
    /// The same while a sequence is answering, which waits for its next token until the step is done; at least 1.
    /// More than `batch_tokens_max` counts as that.
    pub batch_tokens_answering: usize,
    /// Sequences that hold a state at the same time; at least 1. The others wait.
    pub sequences_max: usize,
    /// Tokens of one sequence, prompt and answer together; at least 1.
    pub context_max: usize,
}

/// Why a sequence cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The id belongs to a sequence that has not left yet.
    #[error("sequence {0} is already here")]
    Duplicate(SequenceId),
    /// Every token of the prompt is computed already, or there is none.
    #[error("nothing to compute: {computed} of {prompt} prompt tokens are computed already")]
    NothingToCompute {
        /// Tokens of the prompt.
        prompt: usize,
        /// Of these, computed already.
        computed: usize,
    },
    /// The prompt and at least one token of answer do not fit.
    #[error("a prompt of {prompt} tokens leaves no room to answer in a context of {context_max} tokens")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// The limit.
        context_max: usize,
    },
}

/// What became of one chunk of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Its tokens are in the state; no token was to be drawn.
    Computed,
    /// Its tokens are in the state, and this token was drawn from the last row.
    Drawn {
        /// The token drawn.
        token: TokenId,
        /// Passed on to the caller.
        logprobs: Option<TokenLogprobs>,
    },
    /// The step failed and the sequence's state is gone, perhaps through another's fault: it is computed anew
    /// from its tokens, alone until it is past the place of the failure.
    Lost,
    /// The sequence itself failed and leaves.
    Failed {
        /// What happened, for the user.
        message: String,
    },
}

/// What is to be done about one sequence after a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Tell its caller; it goes on.
    Tell {
        /// Whose caller.
        sequence: SequenceId,
        /// What to tell.
        event: Event,
    },
    /// Tell its caller for the last time, and let go of it.
    Leave(Departed),
}

/// A sequence that has left.
#[derive(Clone, Debug, PartialEq)]
pub struct Departed {
    /// Which one.
    pub sequence: SequenceId,
    /// Its prompt and all that was drawn.
    pub tokens: Vec<TokenId>,
    /// The last thing its caller is told.
    pub event: Event,
}

/// Decides which tokens are computed next.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    sequences: BTreeMap<SequenceId, Sequence>,
    /// Without a slot, oldest first.
    waiting: VecDeque<SequenceId>,
    /// With a slot and still reading their prompt, oldest first.
    prompts: VecDeque<SequenceId>,
    /// Answering; the one served longest ago first.
    answering: VecDeque<SequenceId>,
    /// With a slot, taking their steps alone after a failure.
    suspects: VecDeque<SequenceId>,
    /// The batch handed out and not committed yet.
    in_flight: Vec<InFlight>,
    /// The last step had no token to spare for a prompt.
    prompts_went_short: bool,
    /// The next step is a suspect's, if there is one.
    suspects_turn: bool,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    sequence: SequenceId,
    n_tokens: usize,
    draws: bool,
}

impl Scheduler {
    /// An empty scheduler.
    ///
    /// # Panics
    /// If a limit is 0.
    pub fn new(limits: Limits) -> Self {
        let batch_tokens = limits.batch_tokens_max.min(limits.batch_tokens_answering);
        assert!(batch_tokens > 0, "a step computes at least one token");
        assert!(limits.sequences_max > 0, "at least one sequence has a slot");
        assert!(limits.context_max > 0, "a context holds at least one token");
        Self {
            limits,
            sequences: BTreeMap::new(),
            waiting: VecDeque::new(),
            prompts: VecDeque::new(),
            answering: VecDeque::new(),
            suspects: VecDeque::new(),
            in_flight: Vec::new(),
            prompts_went_short: false,
            suspects_turn: false,
        }
    }

    /// Takes a sequence; it waits for a slot behind those that came before it.
    ///
    /// # Errors
    /// If its id is taken, nothing of it is left to compute, or it cannot fit the context.
    pub fn submit(&mut self, submission: Submission) -> Result<(), SubmitError> {
        let id = submission.sequence;
        if self.sequences.contains_key(&id) || self.in_flight.iter().any(|f| f.sequence == id) {
            return Err(SubmitError::Duplicate(id));
        }
        let prompt = submission.prompt.len();
        if submission.computed >= prompt {
            return Err(SubmitError::NothingToCompute { prompt, computed: submission.computed });
        }
        let n_draws_at_least = usize::from(submission.max_tokens != Some(0));
        if prompt + n_draws_at_least > self.limits.context_max {
            return Err(SubmitError::TooLong { prompt, context_max: self.limits.context_max });
        }
        self.sequences.insert(id, Sequence::new(submission, self.limits.context_max));
        self.waiting.push_back(id);
        Ok(())
    }

    /// Gives free slots to those that wait, and says who of those with a slot has not taken a step yet, oldest first:
    /// until then [`Scheduler::begin_at`] can still change where they begin.
    pub fn beginners(&mut self) -> Vec<SequenceId> {
        self.admit();
        self.prompts.iter().copied().filter(|id| !self.sequences[id].has_begun()).collect()
    }

    /// A sequence that has not taken a step has a state of `computed` tokens of its prompt by now.
    ///
    /// # Panics
    /// If it has taken a step or left, a batch is under way, or nothing of its prompt would be left to compute.
    pub fn begin_at(&mut self, sequence: SequenceId, computed: usize) {
        assert!(self.in_flight.is_empty(), "a sequence begins between steps");
        self.sequences.get_mut(&sequence).expect("a beginner is here").begin_at(computed);
    }

    /// The next step: empty only if there is no sequence.
    ///
    /// # Panics
    /// If the batch before was not committed.
    pub fn schedule(&mut self) -> Batch {
        assert!(self.in_flight.is_empty(), "commit comes before the next schedule");
        self.admit();
        let takes_turn = self.suspects_turn || (self.prompts.is_empty() && self.answering.is_empty());
        let suspect = if takes_turn { self.suspects.pop_front() } else { None };
        self.suspects_turn = suspect.is_none();

        let mut batch = Batch::default();
        if let Some(id) = suspect {
            self.suspects.push_back(id);
            self.put(&mut batch, id, self.budget());
        } else {
            self.fill(&mut batch);
        }
        batch
    }

    /// Takes what became of each chunk of the last batch, in its order, and says what follows.
    ///
    /// Chunks of sequences cancelled meanwhile are passed over.
    ///
    /// # Panics
    /// If there is not one outcome per chunk, or a token was drawn where none was due.
    pub fn commit(&mut self, outcomes: Vec<Outcome>) -> Vec<Decision> {
        let in_flight = std::mem::take(&mut self.in_flight);
        assert_eq!(outcomes.len(), in_flight.len(), "one outcome per chunk");
        let mut decisions = Vec::new();
        for (chunk, outcome) in in_flight.into_iter().zip(outcomes) {
            if self.sequences.contains_key(&chunk.sequence) {
                self.commit_one(chunk, outcome, &mut decisions);
            }
        }
        decisions
    }

    /// Lets go of a sequence at any stage; `None` if it has left already.
    pub fn cancel(&mut self, sequence: SequenceId) -> Option<Departed> {
        self.sequences
            .contains_key(&sequence)
            .then(|| self.depart(sequence, Event::Finished { reason: FinishReason::Cancelled }))
    }

    /// Whether there is no sequence.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Every sequence that has not left, in order of id.
    pub fn sequences(&self) -> impl Iterator<Item = SequenceId> {
        self.sequences.keys().copied()
    }

    /// How many tokens of a sequence are in its state; `None` if it has left.
    pub fn computed(&self, sequence: SequenceId) -> Option<usize> {
        self.sequences.get(&sequence).map(Sequence::computed)
    }

    /// The tokens of a sequence, prompt and answer; `None` if it has left.
    pub fn tokens(&self, sequence: SequenceId) -> Option<&[TokenId]> {
        self.sequences.get(&sequence).map(Sequence::tokens)
    }

    fn admit(&mut self) {
        while self.prompts.len() + self.answering.len() + self.suspects.len() < self.limits.sequences_max {
            let Some(id) = self.waiting.pop_front() else { break };
            self.prompts.push_back(id);
        }
    }

    /// Tokens of the next step.
    fn budget(&self) -> usize {
        let Limits { batch_tokens_max, batch_tokens_answering, .. } = self.limits;
        match self.answering.is_empty() {
            true => batch_tokens_max,
            false => batch_tokens_max.min(batch_tokens_answering),
        }
    }

    /// Answers first, then prompts. Where answers alone fill every step, a step that left prompts nothing is
    /// followed by one that keeps half for them, so that neither starves the other.
    fn fill(&mut self, batch: &mut Batch) {
        let budget = self.budget();
        let kept_for_prompts =
            if self.prompts_went_short && !self.prompts.is_empty() { budget.div_ceil(2) } else { 0 };
        let n_answers = self.answering.len().min(budget - kept_for_prompts);
        for _ in 0..n_answers {
            let id = self.answering.pop_front().expect("no more are taken than there are");
            self.put(batch, id, 1);
            self.answering.push_back(id);
        }
        let mut left = budget - n_answers;
        self.prompts_went_short = left == 0 && !self.prompts.is_empty();
        for index in 0..self.prompts.len() {
            if left == 0 {
                break;
            }
            left -= self.put(batch, self.prompts[index], left);
        }
    }

    /// Puts the next tokens of a sequence into the batch and says how many.
    fn put(&mut self, batch: &mut Batch, id: SequenceId, n_max: usize) -> usize {
        let chunk = self.sequences[&id].next_chunk(n_max);
        let n_tokens = chunk.tokens.len();
        assert!(n_tokens > 0, "sequence {id} is here with nothing to compute");
        self.in_flight.push(InFlight { sequence: id, n_tokens, draws: chunk.logits != LogitRows::None });
        batch.chunks.push(chunk);
        n_tokens
    }

    fn commit_one(&mut self, chunk: InFlight, outcome: Outcome, decisions: &mut Vec<Decision>) {
        let id = chunk.sequence;
        let sequence = self.sequences.get_mut(&id).expect("commit looked it up");
        let drawn = match outcome {
            Outcome::Failed { message } => {
                decisions.push(Decision::Leave(self.depart(id, Event::Failed { message })));
                return;
            }
            Outcome::Lost => {
                sequence.restart(chunk.n_tokens);
                self.requeue(id);
                return;
            }
            Outcome::Computed => None,
            Outcome::Drawn { token, logprobs } => Some((token, logprobs)),
        };
        assert_eq!(
            drawn.is_some(),
            chunk.draws,
            "sequence {id} draws exactly when its chunk asked for logits"
        );
        sequence.advance(chunk.n_tokens);
        if !sequence.has_answered() {
            let event = Event::Prefill { done: sequence.computed(), total: sequence.n_prompt() };
            decisions.push(Decision::Tell { sequence: id, event });
        }
        if let Some((token, logprobs)) = drawn {
            sequence.append(token);
            decisions.push(Decision::Tell { sequence: id, event: Event::Token { token, logprobs } });
        }
        match sequence.end() {
            Some(reason) => decisions.push(Decision::Leave(self.depart(id, Event::Finished { reason }))),
            None => self.requeue(id),
        }
    }

    /// Moves a sequence to the queue of its present kind, unless it stands there already.
    fn requeue(&mut self, id: SequenceId) {
        let sequence = &self.sequences[&id];
        let (queue, is_first) = if sequence.is_suspect() {
            (Queue::Suspects, false)
        } else if sequence.has_answered() && sequence.n_pending() == 1 {
            (Queue::Answering, false)
        } else {
            // Its slot is older than any prompt that could have come since.
            (Queue::Prompts, true)
        };
        if self.queue(queue).contains(&id) {
            return;
        }
        self.unqueue(id);
        let queue = self.queue(queue);
        if is_first { queue.push_front(id) } else { queue.push_back(id) }
    }

    fn queue(&mut self, queue: Queue) -> &mut VecDeque<SequenceId> {
        match queue {
            Queue::Prompts => &mut self.prompts,
            Queue::Answering => &mut self.answering,
            Queue::Suspects => &mut self.suspects,
        }
    }

    fn unqueue(&mut self, id: SequenceId) {
        for queue in [&mut self.waiting, &mut self.prompts, &mut self.answering, &mut self.suspects] {
            queue.retain(|&other| other != id);
        }
    }

    fn depart(&mut self, id: SequenceId, event: Event) -> Departed {
        self.unqueue(id);
        let sequence = self.sequences.remove(&id).expect("only what is here departs");
        Departed { sequence: id, tokens: sequence.into_tokens(), event }
    }
}

#[derive(Clone, Copy)]
enum Queue {
    Prompts,
    Answering,
    Suspects,
}
