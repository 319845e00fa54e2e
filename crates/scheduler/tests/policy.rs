//! The scheduler's rules, one by one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use cuvier_scheduler::{Decision, Departed, Limits, Outcome, Scheduler, Submission, SubmitError};
use cuvier_types::{Batch, Event, FinishReason, LogitRows, SequenceId, TokenId};

const LIMITS: Limits =
    Limits { batch_tokens_max: 4, batch_tokens_answering: 4, sequences_max: 4, context_max: 100 };

fn submission(id: u64, n_prompt: u32) -> Submission {
    Submission {
        sequence: SequenceId(id),
        prompt: (0..n_prompt).map(TokenId).collect(),
        computed: 0,
        max_tokens: Some(3),
        stop_tokens: vec![TokenId(99)],
    }
}

fn submit(scheduler: &mut Scheduler, id: u64, n_prompt: u32) {
    scheduler.submit(submission(id, n_prompt)).unwrap();
}

/// (sequence, tokens) of each chunk.
fn lens(batch: &Batch) -> Vec<(u64, usize)> {
    batch.chunks.iter().map(|chunk| (chunk.sequence.0, chunk.tokens.len())).collect()
}

/// Every chunk succeeds; every token drawn is `token`.
fn outcomes(batch: &Batch, token: u32) -> Vec<Outcome> {
    let outcome = |logits| match logits {
        LogitRows::None => Outcome::Computed,
        _ => Outcome::Drawn { token: TokenId(token), logprobs: None },
    };
    batch.chunks.iter().map(|chunk| outcome(chunk.logits)).collect()
}

fn step(scheduler: &mut Scheduler) -> (Vec<(u64, usize)>, Vec<Decision>) {
    let batch = scheduler.schedule();
    let decisions = scheduler.commit(outcomes(&batch, 7));
    (lens(&batch), decisions)
}

fn tell(id: u64, event: Event) -> Decision {
    Decision::Tell { sequence: SequenceId(id), event }
}

fn token(id: u64, token: u32) -> Decision {
    tell(id, Event::Token { token: TokenId(token), logprobs: None })
}

fn left(decisions: &[Decision]) -> Vec<&Departed> {
    decisions
        .iter()
        .filter_map(|decision| match decision {
            Decision::Leave(departed) => Some(departed),
            Decision::Tell { .. } => None,
        })
        .collect()
}

#[test]
fn a_long_prompt_is_prefilled_in_chunks_and_leaves_no_gap() {
    let mut scheduler = Scheduler::new(LIMITS);
    submit(&mut scheduler, 1, 6);
    submit(&mut scheduler, 2, 3);
    assert_eq!(step(&mut scheduler).0, [(1, 4)]);
    assert_eq!(step(&mut scheduler).0, [(1, 2), (2, 2)]);
    assert_eq!(step(&mut scheduler).0, [(1, 1), (2, 1)]);
    assert_eq!(step(&mut scheduler).0, [(1, 1), (2, 1)]);
}

#[test]
fn a_running_answer_gets_its_token_in_every_step_of_a_long_prefill() {
    let mut scheduler = Scheduler::new(LIMITS);
    submit(&mut scheduler, 1, 2);
    step(&mut scheduler);
    submit(&mut scheduler, 2, 50);
    assert_eq!(step(&mut scheduler).0, [(1, 1), (2, 3)]);
    assert_eq!(step(&mut scheduler).0, [(1, 1), (2, 3)]);
}

#[test]
fn a_step_is_short_while_somebody_answers_and_long_again_when_nobody_does() {
    let mut scheduler = Scheduler::new(Limits { batch_tokens_max: 10, batch_tokens_answering: 3, ..LIMITS });
    submit(&mut scheduler, 1, 12);
    assert_eq!(step(&mut scheduler).0, [(1, 10)]);
    assert_eq!(step(&mut scheduler).0, [(1, 2)]);
    submit(&mut scheduler, 2, 30);
    assert_eq!(step(&mut scheduler).0, [(1, 1), (2, 2)]);
    assert_eq!(step(&mut scheduler).0, [(1, 1), (2, 2)]);
    assert_eq!(step(&mut scheduler).0, [(2, 10)], "the answer of three tokens is over");
}

#[test]
fn answers_that_fill_every_step_leave_a_prompt_half_of_every_other_one() {
    let mut scheduler = Scheduler::new(Limits { batch_tokens_max: 2, ..LIMITS });
    let endless = |id, n| Submission { max_tokens: None, ..submission(id, n) };
    for id in 1..=2 {
        scheduler.submit(endless(id, 1)).unwrap();
    }
    step(&mut scheduler);
    scheduler.submit(endless(3, 2)).unwrap();
    assert_eq!(step(&mut scheduler).0, [(1, 1), (2, 1)]);
    assert_eq!(step(&mut scheduler).0, [(1, 1), (3, 1)]);
    assert_eq!(step(&mut scheduler).0, [(2, 1), (1, 1)], "who was passed over comes first");
    assert_eq!(step(&mut scheduler).0, [(2, 1), (3, 1)]);
    // Three answers share two tokens a step, in turns.
    assert_eq!(step(&mut scheduler).0, [(1, 1), (2, 1)]);
    assert_eq!(step(&mut scheduler).0, [(3, 1), (1, 1)]);
}

#[test]
fn a_step_of_one_token_alternates_between_an_answer_and_a_prompt() {
    let mut scheduler = Scheduler::new(Limits { batch_tokens_max: 1, ..LIMITS });
    scheduler.submit(Submission { max_tokens: None, ..submission(1, 1) }).unwrap();
    step(&mut scheduler);
    submit(&mut scheduler, 2, 2);
    let chunks: Vec<_> = (0..4).map(|_| step(&mut scheduler).0).collect();
    assert_eq!(chunks, [[(1, 1)], [(2, 1)], [(1, 1)], [(2, 1)]]);
}

#[test]
fn sequences_beyond_the_slots_wait_in_order_of_arrival() {
    let mut scheduler = Scheduler::new(Limits { sequences_max: 1, ..LIMITS });
    for id in 1..=3 {
        scheduler.submit(Submission { max_tokens: Some(1), ..submission(id, 1) }).unwrap();
    }
    for id in 1..=3 {
        assert_eq!(step(&mut scheduler).0, [(id, 1)]);
    }
    assert!(scheduler.is_idle());
    assert!(scheduler.schedule().chunks.is_empty());
}

#[test]
fn events_come_as_progress_then_tokens_then_the_end() {
    let mut scheduler = Scheduler::new(LIMITS);
    submit(&mut scheduler, 1, 5);
    let told: Vec<Decision> = (0..4).flat_map(|_| step(&mut scheduler).1).collect();
    let tokens = [0, 1, 2, 3, 4, 7, 7, 7].map(TokenId).to_vec();
    assert_eq!(
        told,
        [
            tell(1, Event::Prefill { done: 4, total: 5 }),
            tell(1, Event::Prefill { done: 5, total: 5 }),
            token(1, 7),
            token(1, 7),
            token(1, 7),
            Decision::Leave(Departed {
                sequence: SequenceId(1),
                tokens,
                event: Event::Finished { reason: FinishReason::Length }
            }),
        ]
    );
}

#[test]
fn a_stop_token_ends_the_answer_and_is_its_last_token() {
    let mut scheduler = Scheduler::new(LIMITS);
    submit(&mut scheduler, 1, 1);
    let batch = scheduler.schedule();
    let decisions = scheduler.commit(outcomes(&batch, 99));
    assert_eq!(decisions[1], token(1, 99));
    assert_eq!(left(&decisions)[0].event, Event::Finished { reason: FinishReason::Stop });
    assert_eq!(left(&decisions)[0].tokens, [TokenId(0), TokenId(99)]);
}

#[test]
fn a_stop_token_drawn_as_the_last_one_allowed_counts_as_a_stop() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(Submission { max_tokens: Some(1), ..submission(1, 1) }).unwrap();
    let batch = scheduler.schedule();
    let decisions = scheduler.commit(outcomes(&batch, 99));
    assert_eq!(left(&decisions)[0].event, Event::Finished { reason: FinishReason::Stop });
}

#[test]
fn a_stop_token_within_the_prompt_ends_nothing() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(Submission { prompt: vec![TokenId(99)], ..submission(1, 0) }).unwrap();
    assert!(left(&step(&mut scheduler).1).is_empty());
}

#[test]
fn an_answer_ends_where_the_context_ends() {
    let mut scheduler = Scheduler::new(Limits { context_max: 6, ..LIMITS });
    scheduler.submit(Submission { max_tokens: None, ..submission(1, 4) }).unwrap();
    assert!(left(&step(&mut scheduler).1).is_empty());
    let decisions = step(&mut scheduler).1;
    assert_eq!(left(&decisions)[0].tokens.len(), 6);
    assert_eq!(left(&decisions)[0].event, Event::Finished { reason: FinishReason::Length });
}

#[test]
fn a_request_for_no_tokens_computes_the_prompt_and_asks_for_no_logits() {
    let mut scheduler = Scheduler::new(Limits { context_max: 6, ..LIMITS });
    scheduler.submit(Submission { max_tokens: Some(0), ..submission(1, 6) }).unwrap();
    assert!(left(&step(&mut scheduler).1).is_empty());
    let batch = scheduler.schedule();
    assert_eq!(batch.chunks[0].logits, LogitRows::None);
    let decisions = scheduler.commit(outcomes(&batch, 7));
    assert_eq!(decisions[0], tell(1, Event::Prefill { done: 6, total: 6 }));
    assert_eq!(left(&decisions)[0].event, Event::Finished { reason: FinishReason::Length });
}

#[test]
fn tokens_already_in_the_state_are_not_computed_again() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(Submission { computed: 4, ..submission(1, 6) }).unwrap();
    let batch = scheduler.schedule();
    assert_eq!(batch.chunks[0].tokens, [TokenId(4), TokenId(5)]);
    assert_eq!(scheduler.commit(outcomes(&batch, 7))[0], tell(1, Event::Prefill { done: 6, total: 6 }));
}

#[test]
fn a_sequence_cancelled_while_its_chunk_is_computed_leaves_at_once_and_its_outcome_is_passed_over() {
    let mut scheduler = Scheduler::new(LIMITS);
    submit(&mut scheduler, 1, 1);
    submit(&mut scheduler, 2, 1);
    let batch = scheduler.schedule();
    let departed = scheduler.cancel(SequenceId(1)).unwrap();
    assert_eq!(departed.event, Event::Finished { reason: FinishReason::Cancelled });
    assert_eq!(scheduler.cancel(SequenceId(1)), None);
    assert_eq!(scheduler.submit(submission(1, 1)), Err(SubmitError::Duplicate(SequenceId(1))));
    let decisions = scheduler.commit(outcomes(&batch, 7));
    assert_eq!(decisions[1], token(2, 7));
    assert_eq!(decisions.len(), 2);
    scheduler.submit(submission(1, 1)).unwrap();
}

#[test]
fn a_failed_sequence_leaves_and_the_others_go_on() {
    let mut scheduler = Scheduler::new(LIMITS);
    submit(&mut scheduler, 1, 1);
    submit(&mut scheduler, 2, 1);
    scheduler.schedule();
    let drawn = Outcome::Drawn { token: TokenId(7), logprobs: None };
    let decisions = scheduler.commit(vec![Outcome::Failed { message: "why".into() }, drawn]);
    assert_eq!(left(&decisions)[0].event, Event::Failed { message: "why".into() });
    assert_eq!(step(&mut scheduler).0, [(2, 1)]);
}

#[test]
fn sequences_that_lost_their_state_are_recomputed_alone_in_turns_with_the_others() {
    let mut scheduler = Scheduler::new(LIMITS);
    submit(&mut scheduler, 1, 2);
    submit(&mut scheduler, 2, 2);
    step(&mut scheduler);
    assert_eq!(lens(&scheduler.schedule()), [(1, 1), (2, 1)]);
    assert_eq!(scheduler.commit(vec![Outcome::Lost, Outcome::Lost]), []);
    submit(&mut scheduler, 3, 5);
    assert_eq!(step(&mut scheduler).0, [(1, 3)], "prompt and first answer token in one chunk");
    assert_eq!(step(&mut scheduler).0, [(1, 1), (3, 3)], "whoever is past the failure shares steps again");
    assert_eq!(step(&mut scheduler).0, [(2, 3)]);
    assert_eq!(step(&mut scheduler).0, [(2, 1), (3, 2)]);
}

#[test]
fn a_recomputation_takes_short_steps_too_while_somebody_answers() {
    let mut scheduler = Scheduler::new(Limits { batch_tokens_max: 10, batch_tokens_answering: 3, ..LIMITS });
    scheduler.submit(Submission { max_tokens: None, ..submission(1, 1) }).unwrap();
    step(&mut scheduler);
    submit(&mut scheduler, 2, 8);
    step(&mut scheduler);
    assert_eq!(lens(&scheduler.schedule()), [(1, 1), (2, 2)]);
    let drawn = Outcome::Drawn { token: TokenId(7), logprobs: None };
    scheduler.commit(vec![drawn, Outcome::Lost]);
    assert_eq!(step(&mut scheduler).0, [(2, 3)]);
    assert_eq!(step(&mut scheduler).0, [(1, 1)]);
}

#[test]
fn what_cannot_be_served_is_refused_with_its_numbers() {
    let mut scheduler = Scheduler::new(LIMITS);
    assert_eq!(
        scheduler.submit(submission(1, 100)),
        Err(SubmitError::TooLong { prompt: 100, context_max: 100 })
    );
    assert_eq!(
        scheduler.submit(submission(1, 0)),
        Err(SubmitError::NothingToCompute { prompt: 0, computed: 0 })
    );
    assert_eq!(
        scheduler.submit(Submission { computed: 3, ..submission(1, 3) }),
        Err(SubmitError::NothingToCompute { prompt: 3, computed: 3 })
    );
    assert!(scheduler.is_idle());
}

#[test]
fn a_sequence_that_has_not_taken_a_step_can_begin_further_on() {
    let mut scheduler = Scheduler::new(Limits { sequences_max: 2, ..LIMITS });
    submit(&mut scheduler, 0, 6);
    submit(&mut scheduler, 1, 9);
    submit(&mut scheduler, 2, 9);
    assert_eq!(scheduler.beginners(), [SequenceId(0), SequenceId(1)], "the third has no slot");
    assert_eq!(step(&mut scheduler).0, [(0, 4)]);
    assert_eq!(scheduler.beginners(), [SequenceId(1)]);
    scheduler.begin_at(SequenceId(1), 7);
    assert_eq!(scheduler.computed(SequenceId(1)), Some(7));
    assert_eq!(step(&mut scheduler).0, [(0, 2), (1, 2)]);
    assert!(scheduler.beginners().is_empty());
}
