//! Conversations: however a history is reached, what follows it is the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::sync::atomic::Ordering;
use std::time::Duration;

use cuvier_engine::{Conversation, EngineError, EngineHandle, RequestError, RestoreError};
use cuvier_types::{Event, FinishReason, TokenId};
use fake::{CONTEXT, Fake, NAN, collect, expected, plain, prompt, request, start, tokens};
use proptest::prelude::*;

fn send(conversation: &Conversation, new: Vec<TokenId>, seed: u64, n: usize) -> Vec<TokenId> {
    tokens(conversation.send(request(new, seed, n)).unwrap(), FinishReason::Length)
}

#[test]
fn a_conversation_answers_as_one_prompt_with_the_whole_history_would() {
    let model = Fake::default();
    let n_computed = model.n_computed.clone();
    let engine = start(model, 16, 4);
    let conversation = engine.open().unwrap();
    let mut history = Vec::new();
    for turn in 0..4 {
        history.extend(prompt(turn, 15));
        let want = expected(&history, &fake::sampled(turn.into()), 12);
        assert_eq!(send(&conversation, prompt(turn, 15), turn.into(), 12), want);
        history.extend(want);
        assert_eq!(conversation.tokens().unwrap(), history);
    }
    assert_eq!(n_computed.load(Ordering::SeqCst), history.len() - 1, "nothing was computed twice");
}

#[test]
fn forks_share_their_past_and_go_their_own_ways() {
    let engine = plain();
    let trunk = engine.open().unwrap();
    let mut history = prompt(1, 30);
    history.extend(send(&trunk, prompt(1, 30), 0, 8));
    let forks: Vec<_> = (0..3).map(|_| trunk.fork().unwrap()).collect();
    for (i, fork) in forks.iter().enumerate() {
        let new = prompt(10 + i as u32, 4);
        let want = expected(&[history.clone(), new.clone()].concat(), &fake::sampled(1), 9);
        assert_eq!(send(fork, new, 1, 9), want);
    }
    assert_eq!(trunk.tokens().unwrap(), history);
    drop(trunk);
    assert_eq!(forks[0].tokens().unwrap().len(), history.len() + 13);
}

#[test]
fn an_answer_can_be_drawn_again_from_the_end_of_a_history_without_new_tokens() {
    let engine = plain();
    let conversation = engine.open().unwrap();
    send(&conversation, prompt(1, 30), 0, 0);
    let fork = conversation.fork().unwrap();
    assert_eq!(send(&conversation, vec![], 5, 6), expected(&prompt(1, 30), &fake::sampled(5), 6));
    assert_eq!(send(&fork, vec![], 6, 6), expected(&prompt(1, 30), &fake::sampled(6), 6));
}

#[test]
fn any_number_of_tokens_can_be_taken_back() {
    let engine = plain();
    for n_back in 0..=38 {
        let conversation = engine.open().unwrap();
        let mut history = prompt(1, 30);
        history.extend(send(&conversation, prompt(1, 30), 0, 8));
        conversation.rollback(n_back).unwrap();
        history.truncate(38 - n_back);
        assert_eq!(conversation.tokens().unwrap(), history);
        history.extend(prompt(2, 3));
        assert_eq!(
            send(&conversation, prompt(2, 3), 4, 5),
            expected(&history, &fake::sampled(4), 5),
            "{n_back}"
        );
    }
}

#[test]
fn taking_back_more_than_there_is_is_refused_with_both_numbers() {
    let engine = plain();
    let conversation = engine.open().unwrap();
    send(&conversation, prompt(1, 3), 0, 2);
    let error = conversation.rollback(6).unwrap_err();
    assert_eq!(error.to_string(), "cannot take back 6 tokens of a conversation of 5");
    assert_eq!(conversation.tokens().unwrap().len(), 5);
}

#[test]
fn a_saved_conversation_goes_on_in_another_engine_while_two_others_are_alive() {
    let (old, new) = (plain(), start(Fake::default(), 7, 4));
    let conversation = old.open().unwrap();
    let mut history = prompt(1, 30);
    history.extend(send(&conversation, prompt(1, 30), 0, 8));
    let bytes = conversation.save().unwrap();
    drop(old);

    let busy: Vec<_> = (5..7).map(|i| new.submit(request(prompt(i, 50), 0, 60)).unwrap()).collect();
    let restored = new.restore(bytes.clone()).unwrap();
    assert_eq!(restored.tokens().unwrap(), history);
    assert_eq!(restored.save().unwrap(), bytes, "saving is a function of the history");
    history.extend(prompt(2, 3));
    assert_eq!(send(&restored, prompt(2, 3), 4, 5), expected(&history, &fake::sampled(4), 5));
    for (i, stream) in (5..7).zip(busy) {
        assert_eq!(tokens(stream, FinishReason::Length), expected(&prompt(i, 50), &fake::sampled(0), 60));
    }
}

#[test]
fn a_conversation_saved_after_a_far_rollback_or_before_its_first_word_is_whole() {
    let engine = plain();
    let conversation = engine.open().unwrap();
    let empty = engine.restore(conversation.save().unwrap()).unwrap();
    assert_eq!(send(&empty, prompt(1, 4), 0, 5), expected(&prompt(1, 4), &fake::sampled(0), 5));
    send(&conversation, prompt(1, 30), 0, 8);
    conversation.rollback(20).unwrap();
    let restored = engine.restore(conversation.save().unwrap()).unwrap();
    let mut history = prompt(1, 18);
    assert_eq!(restored.tokens().unwrap(), history);
    history.extend(prompt(2, 3));
    assert_eq!(send(&restored, prompt(2, 3), 4, 5), expected(&history, &fake::sampled(4), 5));
}

#[test]
fn a_damaged_or_foreign_save_is_refused_and_says_why() {
    let engine = plain();
    let conversation = engine.open().unwrap();
    send(&conversation, prompt(1, 9), 0, 3);
    let bytes = conversation.save().unwrap();
    let refused = |engine: &EngineHandle, bytes: Vec<u8>| match engine.restore(bytes) {
        Err(EngineError::Restore(error)) => error,
        other => panic!("{other:?}"),
    };
    for len in 0..bytes.len() {
        refused(&engine, bytes[..len].to_vec());
    }
    let mut altered = bytes.clone();
    *altered.last_mut().unwrap() ^= 1;
    assert!(matches!(refused(&engine, altered), RestoreError::Checksum { .. }));
    let other = start(Fake { fingerprint: 1, ..Fake::default() }, 16, 4);
    let error = refused(&other, bytes);
    assert_eq!(error.to_string(), "the saved state does not fit this model: not a state of this model");
    assert_eq!(conversation.tokens().unwrap().len(), 12, "the engine goes on");
}

#[test]
fn a_conversation_that_is_answering_is_busy() {
    let (model, steps) = Fake::gated();
    let engine = start(model, 16, 4);
    let conversation = engine.open().unwrap();
    let stream = conversation.send(request(prompt(1, 3), 0, 300)).unwrap();
    steps.wait();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| conversation.fork());
        // The reply comes between two steps.
        while !asked.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
            steps.go();
            steps.wait();
        }
        assert!(matches!(asked.join().unwrap(), Err(EngineError::Busy)));
    });
    steps.open();
    tokens(stream, FinishReason::Length);
    assert_eq!(conversation.tokens().unwrap().len(), 303);
}

#[test]
fn dropping_the_stream_leaves_the_conversation_with_what_was_drawn_so_far() {
    let (model, steps) = Fake::gated();
    let engine = start(model, 16, 4);
    let conversation = engine.open().unwrap();
    let stream = conversation.send(request(prompt(1, 3), 0, 50)).unwrap();
    for _ in 0..4 {
        steps.wait();
        steps.go();
    }
    steps.wait();
    drop(stream);
    steps.open();
    let history = conversation.tokens().unwrap();
    assert_eq!(history[..3], prompt(1, 3));
    assert_eq!(history[3..], expected(&prompt(1, 3), &fake::sampled(0), 50)[..5]);
    assert_eq!(send(&conversation, prompt(2, 2), 1, 4), {
        expected(&[history, prompt(2, 2)].concat(), &fake::sampled(1), 4)
    });
}

#[test]
fn a_conversation_dropped_while_answering_ends_its_stream() {
    let (model, steps) = Fake::gated();
    let engine = start(model, 16, 4);
    let conversation = engine.open().unwrap();
    let stream = conversation.send(request(prompt(1, 3), 0, 50)).unwrap();
    steps.wait();
    drop(conversation);
    steps.open();
    assert_eq!(collect(stream).1, Event::Finished { reason: FinishReason::Cancelled });
}

#[test]
fn a_failed_answer_can_be_taken_back_and_the_conversation_goes_on() {
    let engine = plain();
    let conversation = engine.open().unwrap();
    let mut history = prompt(1, 30);
    history.extend(send(&conversation, prompt(1, 30), 0, 8));
    let (_, end) = collect(conversation.send(request(vec![NAN], 0, 5)).unwrap());
    assert!(matches!(end, Event::Failed { .. }));
    conversation.rollback(1).unwrap();
    history.extend(prompt(2, 3));
    assert_eq!(send(&conversation, prompt(2, 3), 4, 5), expected(&history, &fake::sampled(4), 5));
}

#[test]
fn a_message_that_the_context_cannot_hold_is_refused_and_changes_nothing() {
    let engine = plain();
    let conversation = engine.open().unwrap();
    assert!(matches!(
        conversation.send(request(vec![], 0, 1)),
        Err(EngineError::Request(RequestError::EmptyPrompt))
    ));
    send(&conversation, prompt(1, 30), 0, 8);
    let error = conversation.send(request(prompt(2, CONTEXT - 38), 0, 1)).unwrap_err();
    assert!(matches!(
        error,
        EngineError::Request(RequestError::PromptTooLong { prompt: 400, context_max: 400 })
    ));
    assert_eq!(conversation.tokens().unwrap().len(), 38);
    send(&conversation, prompt(2, CONTEXT - 39), 0, 1);
}

#[derive(Clone, Debug)]
enum Act {
    Send { n_new: usize, n_draw: usize, seed: u32 },
    Rollback(usize),
    Fork,
    SaveAndRestore,
    Crowd,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0usize..12, 0usize..8, 0u32..9).prop_map(|(n_new, n_draw, seed)| Act::Send { n_new, n_draw, seed }),
        2 => (0usize..40).prop_map(Act::Rollback),
        1 => Just(Act::Fork),
        1 => Just(Act::SaveAndRestore),
        1 => Just(Act::Crowd),
    ];
    prop::collection::vec(act, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_answer_depends_on_its_history_alone_however_that_was_reached(
        acts in acts(),
        batch_tokens_max in 1usize..12,
        sequences_max in 1usize..4,
    ) {
        let engine = start(Fake::default(), batch_tokens_max, sequences_max);
        let mut conversation = engine.open().unwrap();
        let mut history: Vec<TokenId> = Vec::new();
        let mut crowd = Vec::new();
        for act in acts {
            match act {
                Act::Send { n_new, n_draw, seed } => {
                    let n_new = if history.is_empty() { n_new.max(1) } else { n_new };
                    history.extend(prompt(seed, n_new));
                    let want = expected(&history, &fake::sampled(seed.into()), n_draw);
                    prop_assert_eq!(send(&conversation, prompt(seed, n_new), seed.into(), n_draw), want.clone());
                    history.extend(want);
                }
                Act::Rollback(n) => {
                    let n = n.min(history.len());
                    conversation.rollback(n).unwrap();
                    history.truncate(history.len() - n);
                }
                Act::Fork => conversation = conversation.fork().unwrap(),
                Act::SaveAndRestore => conversation = engine.restore(conversation.save().unwrap()).unwrap(),
                Act::Crowd => crowd.push(engine.submit(request(prompt(7, 20), 3, 30)).unwrap()),
            }
            prop_assert_eq!(conversation.tokens().unwrap(), history.clone());
        }
        for stream in crowd {
            prop_assert_eq!(tokens(stream, FinishReason::Length), expected(&prompt(7, 20), &fake::sampled(3), 30));
        }
    }
}
