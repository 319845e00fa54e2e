//! The invariants under random arrivals, cancels, losses and failures.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use cuvier_scheduler::{Decision, Departed, Limits, Outcome, Scheduler, Submission};
use cuvier_types::{Batch, Chunk, Event, FinishReason, LogitRows, SequenceId, TokenId};
use proptest::prelude::*;

const STOP: TokenId = TokenId(3);

#[derive(Clone, Debug)]
enum Act {
    Submit { n_prompt: usize, n_computed: usize, max_tokens: Option<usize> },
    Cancel { pick: usize, mid_step: bool },
    Step { faults: u8 },
}

/// What a true state of the sequence would hold, kept beside the scheduler.
struct Shadow {
    tokens: Vec<TokenId>,
    n_prompt: usize,
    n_computed: usize,
    max_tokens: Option<usize>,
}

struct World {
    scheduler: Scheduler,
    limits: Limits,
    live: BTreeMap<SequenceId, Shadow>,
    gone: Vec<SequenceId>,
    next_id: u64,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        2 => (1usize..20, 0usize..20, prop::option::of(0usize..8))
            .prop_map(|(n_prompt, n, max_tokens)| Act::Submit { n_prompt, n_computed: n % n_prompt, max_tokens }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(pick, mid_step)| Act::Cancel { pick, mid_step }),
        5 => prop_oneof![9 => Just(0u8), 1 => any::<u8>()].prop_map(|faults| Act::Step { faults }),
    ];
    prop::collection::vec(act, 1..120)
}

fn limits() -> impl Strategy<Value = Limits> {
    (1usize..9, 1usize..9, 1usize..6, 20usize..30).prop_map(
        |(batch_tokens_max, batch_tokens_answering, sequences_max, context_max)| Limits {
            batch_tokens_max,
            batch_tokens_answering,
            sequences_max,
            context_max,
        },
    )
}

impl World {
    fn submit(&mut self, n_prompt: usize, n_computed: usize, max_tokens: Option<usize>) {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let prompt: Vec<TokenId> = (0..n_prompt as u32).map(|i| TokenId(100 + i)).collect();
        self.scheduler
            .submit(Submission {
                sequence: id,
                prompt: prompt.clone(),
                computed: n_computed,
                max_tokens,
                stop_tokens: vec![STOP],
            })
            .unwrap();
        let shadow = Shadow { tokens: prompt, n_prompt, n_computed, max_tokens };
        self.live.insert(id, shadow);
    }

    fn cancel(&mut self, pick: usize) {
        let Some(&id) = self.live.keys().nth(pick % self.live.len().max(1)) else { return };
        let departed = self.scheduler.cancel(id).unwrap();
        self.check_end(departed, true);
    }

    fn step(&mut self, faults: u8, cancel: Option<usize>) {
        let batch = self.scheduler.schedule();
        self.check_limits(&batch);
        let outcomes: Vec<Outcome> =
            batch.chunks.iter().enumerate().map(|(i, chunk)| self.take(chunk, faults, i)).collect();
        if let Some(pick) = cancel {
            self.cancel(pick);
        }
        for decision in self.scheduler.commit(outcomes) {
            match decision {
                Decision::Leave(departed) => self.check_end(departed, false),
                Decision::Tell { sequence, event } => self.check_told(sequence, &event),
            }
        }
    }

    fn check_limits(&mut self, batch: &Batch) {
        let n_tokens: usize = batch.chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        assert!(n_tokens <= self.limits.batch_tokens_max);
        assert!(batch.chunks.len() <= self.limits.sequences_max);
        assert_eq!(
            batch.chunks.is_empty(),
            self.live.is_empty(),
            "a step does something if anything is here"
        );
        let mut ids: Vec<_> = batch.chunks.iter().map(|chunk| chunk.sequence).collect();
        ids.dedup();
        assert_eq!(ids.len(), batch.chunks.len(), "chunks of distinct sequences");
    }

    /// Advances the shadow by one chunk and says how the model fared.
    fn take(&mut self, chunk: &Chunk, faults: u8, index: usize) -> Outcome {
        let shadow = self.live.get_mut(&chunk.sequence).unwrap();
        let end = shadow.n_computed + chunk.tokens.len();
        assert_eq!(
            chunk.tokens,
            shadow.tokens[shadow.n_computed..end],
            "contiguous, none twice, none skipped"
        );
        let is_last = end == shadow.tokens.len() && shadow.max_tokens != Some(0);
        assert_eq!(chunk.logits != LogitRows::None, is_last, "logits where a token is due, nowhere else");
        match (faults >> (2 * (index % 4))) & 3 {
            1 => {
                shadow.n_computed = 0;
                return Outcome::Lost;
            }
            2 => return Outcome::Failed { message: "fault".into() },
            _ => shadow.n_computed = end,
        }
        if !is_last {
            return Outcome::Computed;
        }
        let token = TokenId((chunk.sequence.0 as u32 * 7 + end as u32 * 5) % 13);
        shadow.tokens.push(token);
        Outcome::Drawn { token, logprobs: None }
    }

    fn check_told(&self, id: SequenceId, event: &Event) {
        // The last tokens and the end come in one commit: whoever was told to leave is told nothing more.
        assert!(!self.gone.contains(&id), "nothing is told after the end");
        let shadow = &self.live[&id];
        match event {
            Event::Prefill { done, total } => {
                assert_eq!((*done, *total), (shadow.n_computed, shadow.n_prompt));
            }
            Event::Token { token, .. } => assert_eq!(Some(token), shadow.tokens.last()),
            other => panic!("{other:?} is no event of a sequence that goes on"),
        }
    }

    fn check_end(&mut self, departed: Departed, cancelled: bool) {
        let shadow = self.live.remove(&departed.sequence).expect("everyone ends once");
        self.gone.push(departed.sequence);
        let n_drawn = departed.tokens.len() - shadow.n_prompt;
        let n_room = self.limits.context_max - shadow.n_prompt;
        let draws_max = shadow.max_tokens.unwrap_or(n_room).min(n_room);
        assert!(departed.tokens.len() <= self.limits.context_max);
        match departed.event {
            Event::Finished { reason: FinishReason::Cancelled } => {
                assert!(cancelled);
                // A token drawn in the step under way is lost with it.
                assert!(shadow.tokens.starts_with(&departed.tokens));
                return;
            }
            Event::Finished { reason: FinishReason::Stop } => assert_eq!(departed.tokens.last(), Some(&STOP)),
            Event::Finished { reason: FinishReason::Length } => assert_eq!(n_drawn, draws_max),
            Event::Failed { .. } => {}
            other => panic!("{other:?} is no last event"),
        }
        assert_eq!(departed.tokens, shadow.tokens);
        assert!(
            !departed.tokens[shadow.n_prompt..departed.tokens.len().max(shadow.n_prompt + 1) - 1]
                .contains(&STOP)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_token_is_computed_once_in_order_and_every_sequence_ends_once(limits in limits(), acts in acts()) {
        let scheduler = Scheduler::new(limits);
        let mut world = World { scheduler, limits, live: BTreeMap::new(), gone: Vec::new(), next_id: 0 };
        let mut cancel_in_next_step = None;
        for act in acts {
            match act {
                Act::Submit { n_prompt, n_computed, max_tokens } => {
                    world.submit(n_prompt.min(limits.context_max - 1), n_computed, max_tokens);
                }
                Act::Cancel { pick, mid_step: true } => cancel_in_next_step = Some(pick),
                Act::Cancel { pick, mid_step: false } => world.cancel(pick),
                Act::Step { faults } => world.step(faults, cancel_in_next_step.take()),
            }
        }
        // From here on nothing fails: whatever is left comes to its end in bounded time.
        let n_steps_max = 4 * world.live.len() * (limits.context_max + 2) + 1;
        for _ in 0..n_steps_max {
            world.step(0, None);
        }
        prop_assert!(world.scheduler.is_idle());
        prop_assert!(world.live.is_empty());
        prop_assert_eq!(world.gone.len() as u64, world.next_id);
    }

    #[test]
    fn a_sequence_with_a_slot_is_served_at_least_every_few_steps(limits in limits(), n in 1u64..6) {
        let mut scheduler = Scheduler::new(limits);
        let n = n.min(limits.sequences_max as u64);
        let mut unserved: BTreeMap<SequenceId, usize> = BTreeMap::new();
        for id in (0..n).map(SequenceId) {
            let prompt = vec![TokenId(1); if id.0 % 2 == 0 { 1 } else { 15 }];
            scheduler
                .submit(Submission { sequence: id, prompt, computed: 0, max_tokens: None, stop_tokens: vec![] })
                .unwrap();
            unserved.insert(id, 0);
        }
        while !scheduler.is_idle() {
            let batch = scheduler.schedule();
            unserved.values_mut().for_each(|steps| *steps += 1);
            for chunk in &batch.chunks {
                unserved.insert(chunk.sequence, 0);
            }
            // Prompts ahead take at most 15 tokens each, at one token every other step.
            prop_assert!(unserved.iter().all(|(_, &steps)| steps <= 2 * 15 * n as usize + 2));
            let outcomes = batch.chunks.iter().map(|chunk| match chunk.logits {
                LogitRows::None => Outcome::Computed,
                _ => Outcome::Drawn { token: TokenId(1), logprobs: None },
            });
            for decision in scheduler.commit(outcomes.collect()) {
                if let Decision::Leave(departed) = decision {
                    unserved.remove(&departed.sequence);
                }
            }
        }
    }
}
