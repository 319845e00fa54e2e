//! Requests through the engine: exactness, order of events, cancels, failures, shutdown.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::sync::atomic::Ordering;
use std::time::Duration;

use cuvier_engine::guide::{Allowed, GuideError};
use cuvier_engine::{Engine, EngineConfig, EngineError, Guide, Request, RequestError, Timeout};
use cuvier_types::{Event, FinishReason, SamplingParams, TokenId};
use fake::{BOOM, CONTEXT, Fake, NAN, POISON, VOCAB, collect, expected, prompt, request, start, tokens};

const CANCELLED: Event = Event::Finished { reason: FinishReason::Cancelled };

#[test]
fn an_answer_is_the_same_alone_and_in_a_crowd_at_any_chunk_size_and_number_of_slots() {
    for batch_tokens_max in [1, 2, 3, 5, 7, 16, 64, 512] {
        for sequences_max in [1, 2, 5, 30] {
            let engine = start(Fake::default(), batch_tokens_max, sequences_max);
            let asked: Vec<_> = (0..12).map(|i| (prompt(i, 1 + 11 * i as usize), u64::from(i))).collect();
            let streams: Vec<_> = asked
                .iter()
                .map(|(prompt, seed)| engine.submit(request(prompt.clone(), *seed, 20)).unwrap())
                .collect();
            for ((prompt, seed), stream) in asked.iter().zip(streams) {
                let want = expected(prompt, &fake::sampled(*seed), 20);
                assert_eq!(tokens(stream, FinishReason::Length), want, "{batch_tokens_max}, {sequences_max}");
            }
        }
    }
}

#[test]
fn events_come_as_progress_then_tokens_then_one_end() {
    let engine = start(Fake::default(), 4, 2);
    let events: Vec<Event> = engine.submit(request(prompt(1, 6), 0, 2)).unwrap().collect();
    let token = |index: usize| Event::Token {
        token: expected(&prompt(1, 6), &fake::sampled(0), 2)[index],
        logprobs: None,
    };
    assert_eq!(
        events,
        [
            Event::Prefill { done: 0, total: 6 },
            Event::Prefill { done: 4, total: 6 },
            Event::Prefill { done: 6, total: 6 },
            token(0),
            token(1),
            Event::Finished { reason: FinishReason::Length },
        ]
    );
}

#[test]
fn a_stop_token_ends_the_answer_and_is_its_last_token() {
    let engine = fake::plain();
    let want = expected(&prompt(1, 6), &fake::sampled(0), 20);
    let stop = want[7];
    let n = 1 + want.iter().position(|&token| token == stop).unwrap();
    let asked = Request { stop_tokens: vec![stop], ..request(prompt(1, 6), 0, 20) };
    assert_eq!(tokens(engine.submit(asked).unwrap(), FinishReason::Stop), want[..n]);
}

#[test]
fn an_answer_without_a_limit_ends_with_the_context() {
    let engine = fake::plain();
    let asked = Request { max_tokens: None, ..request(prompt(1, 390), 0, 0) };
    assert_eq!(tokens(engine.submit(asked).unwrap(), FinishReason::Length).len(), CONTEXT - 390);
}

#[test]
fn a_request_for_no_tokens_computes_its_prompt_and_ends() {
    let model = Fake::default();
    let n_computed = model.n_computed.clone();
    let engine = start(model, 16, 4);
    assert_eq!(tokens(engine.submit(request(prompt(1, 40), 0, 0)).unwrap(), FinishReason::Length), []);
    assert_eq!(n_computed.load(Ordering::SeqCst), 40);
}

#[test]
fn log_probabilities_are_told_with_each_token_when_asked_for() {
    let engine = fake::plain();
    let mut asked = request(prompt(1, 6), 0, 3);
    asked.sampling.logprobs = Some(2);
    let with = engine.submit(asked).unwrap().filter_map(|event| match event {
        Event::Token { logprobs, .. } => Some(logprobs.unwrap()),
        _ => None,
    });
    let with: Vec<_> = with.collect();
    assert_eq!(with.len(), 3);
    assert!(with.iter().all(|l| l.top.len() == 2 && l.top[0].1 >= l.top[1].1 && l.top[0].1 >= l.logprob));
}

#[test]
fn a_prompt_that_begins_like_an_earlier_one_is_not_computed_again_and_answers_the_same() {
    let model = Fake::default();
    let n_computed = model.n_computed.clone();
    let engine = start(model, 16, 4);
    let first = tokens(engine.submit(request(prompt(3, 100), 1, 10)).unwrap(), FinishReason::Length);
    // The next turn of a chat: prompt, answer, something new.
    let longer = [prompt(3, 100), first.clone(), prompt(4, 5)].concat();
    let before = n_computed.load(Ordering::SeqCst);
    let events: Vec<Event> = engine.submit(request(longer.clone(), 2, 10)).unwrap().collect();
    assert_eq!(events[0], Event::Prefill { done: 109, total: 115 });
    assert_eq!(n_computed.load(Ordering::SeqCst) - before, 6 + 9);
    let drawn: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Token { token, .. } => Some(*token),
            _ => None,
        })
        .collect();
    assert_eq!(drawn, expected(&longer, &fake::sampled(2), 10));
    // The same prompt again: all but its last token is there, behind the answer that followed it.
    let again = engine.submit(request(prompt(3, 100), 1, 10)).unwrap();
    let events: Vec<Event> = again.collect();
    assert_eq!(events[0], Event::Prefill { done: 99, total: 100 });
    assert!(matches!(events[2], Event::Token { token, .. } if token == first[0]));
}

#[test]
fn more_requests_than_slots_are_all_answered() {
    let engine = start(Fake::default(), 4, 2);
    let streams: Vec<_> = (0..40).map(|i| engine.submit(request(prompt(i, 9), 5, 4)).unwrap()).collect();
    for (i, stream) in streams.into_iter().enumerate() {
        let want = expected(&prompt(i as u32, 9), &fake::sampled(5), 4);
        assert_eq!(tokens(stream, FinishReason::Length), want);
    }
}

#[test]
fn a_request_can_be_cancelled_queued_in_its_prompt_and_in_its_answer() {
    let (model, steps) = Fake::gated();
    let engine = start(model, 4, 2);
    let answering = engine.submit(request(prompt(1, 2), 0, 100)).unwrap();
    assert_eq!(steps.wait(), [(0, 2)]);
    let reading = engine.submit(request(prompt(2, 50), 0, 5)).unwrap();
    let queued = engine.submit(request(prompt(3, 2), 0, 5)).unwrap();
    steps.go();
    assert_eq!(steps.wait(), [(0, 1), (1, 3)]);
    queued.cancel();
    reading.cancel();
    answering.cancel();
    steps.go();
    assert_eq!(collect(queued), (vec![], CANCELLED));
    assert_eq!(collect(reading), (vec![], CANCELLED));
    let (told, end) = collect(answering);
    assert_eq!((told.len(), end), (2, CANCELLED), "what the step under way drew is told");
    steps.open();
    assert_eq!(tokens(engine.submit(request(prompt(3, 2), 0, 5)).unwrap(), FinishReason::Length).len(), 5);
}

#[test]
fn a_dropped_stream_cancels_its_answer_within_one_step() {
    let (model, steps) = Fake::gated();
    let engine = start(model, 4, 2);
    let dropped = engine.submit(request(prompt(1, 2), 0, 100)).unwrap();
    steps.wait();
    let other = engine.submit(request(prompt(2, 2), 0, 3)).unwrap();
    steps.go();
    assert_eq!(steps.wait(), [(0, 1), (1, 2)]);
    drop(dropped);
    steps.go();
    assert_eq!(steps.wait(), [(1, 1)]);
    steps.open();
    assert_eq!(tokens(other, FinishReason::Length), expected(&prompt(2, 2), &fake::sampled(0), 3));
}

#[test]
fn a_cancelled_prompt_is_not_computed_again_when_it_is_sent_again() {
    let (model, steps) = Fake::gated();
    let engine = start(model, 10, 2);
    let gone = engine.submit(request(prompt(1, 100), 0, 5)).unwrap();
    steps.wait();
    steps.go();
    steps.wait();
    drop(gone);
    steps.open();
    let events: Vec<Event> = engine.submit(request(prompt(1, 100), 0, 5)).unwrap().collect();
    assert_eq!(events[0], Event::Prefill { done: 20, total: 100 });
}

#[test]
fn dropping_the_engine_cancels_live_streams_and_joins_its_thread() {
    let engine = start(Fake::default(), 4, 2);
    let streams: Vec<_> = (0..5)
        .map(|i| engine.submit(Request { max_tokens: None, ..request(prompt(i, 3), 0, 0) }).unwrap())
        .collect();
    let conversation = engine.open().unwrap();
    drop(engine);
    for stream in streams {
        let (_, end) = collect(stream);
        assert!(matches!(end, Event::Finished { .. }), "{end:?}");
    }
    assert!(matches!(conversation.send(request(prompt(1, 1), 0, 1)), Err(EngineError::Stopped)));
    assert!(matches!(conversation.tokens(), Err(EngineError::Stopped)));
}

#[test]
fn a_sequence_with_non_finite_logits_fails_alone() {
    let engine = fake::plain();
    let good = engine.submit(request(prompt(1, 30), 0, 30)).unwrap();
    let bad = engine.submit(request([prompt(2, 5), vec![NAN]].concat(), 0, 5)).unwrap();
    let (told, end) = collect(bad);
    assert_eq!(told, []);
    assert!(matches!(end, Event::Failed { message } if message.contains("non-finite")));
    assert_eq!(tokens(good, FinishReason::Length), expected(&prompt(1, 30), &fake::sampled(0), 30));
}

#[test]
fn only_the_guilty_sequence_of_a_failed_step_fails_and_the_others_answer_the_same() {
    for position in [0, 3, 20] {
        let (model, steps) = Fake::gated();
        let engine = start(model, 8, 8);
        let good: Vec<_> = (0..3).map(|i| engine.submit(request(prompt(i, 10), 0, 40)).unwrap()).collect();
        let poisoned = [prompt(7, position), vec![POISON], prompt(8, 5)].concat();
        let bad = engine.submit(request(poisoned, 0, 5)).unwrap();
        let late = engine.submit(request(prompt(9, 10), 0, 40)).unwrap();
        steps.wait();
        steps.open();
        let (told, end) = collect(bad);
        assert_eq!(told, []);
        assert_eq!(end, Event::Failed { message: "the model cannot compute this token".into() });
        for (i, stream) in good.into_iter().enumerate() {
            let want = expected(&prompt(i as u32, 10), &fake::sampled(0), 40);
            assert_eq!(tokens(stream, FinishReason::Length), want);
        }
        assert_eq!(tokens(late, FinishReason::Length), expected(&prompt(9, 10), &fake::sampled(0), 40));
    }
}

#[test]
fn a_model_that_panics_ends_every_stream_and_the_engine_says_so() {
    let engine = fake::plain();
    let stream = engine.submit(request(vec![BOOM], 0, 5)).unwrap();
    assert_eq!(collect(stream), (vec![], Event::Failed { message: "the engine has stopped".into() }));
    let conversation = engine.open();
    assert!(matches!(conversation, Err(EngineError::Stopped)) || conversation.unwrap().tokens().is_err());
}

#[test]
fn two_engines_in_one_process_do_not_know_of_each_other() {
    let (one, two) = (fake::plain(), start(Fake { fingerprint: 1, ..Fake::default() }, 3, 1));
    let streams: Vec<_> = (0..6)
        .map(|i| {
            let engine = if i % 2 == 0 { &one } else { &two };
            engine.submit(request(prompt(i, 20), 1, 20)).unwrap()
        })
        .collect();
    drop(two);
    for (i, stream) in streams.into_iter().enumerate() {
        let (told, end) = collect(stream);
        let want = expected(&prompt(i as u32, 20), &fake::sampled(1), 20);
        assert_eq!(told, want[..told.len()]);
        assert!(i % 2 == 1 || end == Event::Finished { reason: FinishReason::Length });
    }
}

#[test]
fn a_handle_serves_several_threads() {
    let engine = fake::plain();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let engine = &engine;
            scope.spawn(move || {
                let stream = engine.submit(request(prompt(i, 20), 1, 20)).unwrap();
                let want = expected(&prompt(i, 20), &fake::sampled(1), 20);
                assert_eq!(tokens(stream, FinishReason::Length), want);
            });
        }
    });
}

#[test]
fn waiting_for_an_event_ends_when_the_time_is_up_and_loses_nothing() {
    let (model, steps) = Fake::gated();
    let engine = start(model, 4, 2);
    let mut stream = engine.submit(request(prompt(1, 2), 0, 1)).unwrap();
    steps.wait();
    let soon = Duration::from_millis(5);
    assert_eq!(stream.next_within(soon), Ok(Some(Event::Prefill { done: 0, total: 2 })));
    assert_eq!(stream.next_within(soon), Err(Timeout));
    steps.go();
    let later = Duration::from_secs(60);
    assert_eq!(stream.next_within(later), Ok(Some(Event::Prefill { done: 2, total: 2 })));
    assert!(matches!(stream.next_within(later), Ok(Some(Event::Token { .. }))));
    assert!(matches!(stream.next_within(later), Ok(Some(Event::Finished { .. }))));
    assert_eq!(stream.next_within(later), Ok(None));
}

#[test]
fn a_bad_request_is_refused_at_the_door_with_what_is_wrong() {
    let engine = fake::plain();
    let refused = |request| match engine.submit(request) {
        Err(EngineError::Request(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(request(vec![], 0, 1)), RequestError::EmptyPrompt);
    let token = TokenId(VOCAB as u32);
    assert!(matches!(refused(request(vec![token], 0, 1)), RequestError::TokenOutOfVocabulary { .. }));
    let error = refused(request(prompt(1, CONTEXT), 0, 1));
    assert_eq!(
        error.to_string(),
        "a prompt of 400 tokens leaves no room to answer in a context of 400 tokens"
    );
    let hot = SamplingParams { temperature: 3.0, ..SamplingParams::default() };
    let hot = Request { sampling: hot, ..Request::new(prompt(1, 1)) };
    assert!(matches!(refused(hot), RequestError::ParameterOutOfRange { name: "temperature", .. }));
}

#[test]
fn a_config_without_room_is_refused_by_name() {
    let config = EngineConfig { sequences_max: 0, ..EngineConfig::default() };
    let error = Engine::start(Fake::default(), config).unwrap_err();
    assert!(matches!(error, EngineError::ZeroLimit { name: "sequences_max" }));
}

/// Allows a few tokens in turns, then nothing.
#[derive(Debug)]
struct Script(Vec<TokenId>);

impl Guide for Script {
    fn allowed(&mut self) -> Result<Allowed, GuideError> {
        self.0.last().map(|&token| Allowed::One(token)).ok_or(GuideError::Stuck)
    }

    fn observe(&mut self, _: TokenId) -> Result<(), GuideError> {
        self.0.pop();
        Ok(())
    }
}

#[test]
fn a_guide_decides_what_is_drawn_and_one_that_fails_takes_no_other_sequence_with_it() {
    let engine = fake::plain();
    let script = [3, 1, 2].map(TokenId);
    let guided = |n| Request {
        guide: Some(Box::new(Script(script.into_iter().rev().collect()))),
        ..request(prompt(1, 6), 0, n)
    };
    let whole = engine.submit(guided(3)).unwrap();
    let stuck = engine.submit(guided(4)).unwrap();
    let other = engine.submit(request(prompt(1, 6), 0, 20)).unwrap();
    assert_eq!(tokens(whole, FinishReason::Length), script);
    let message = GuideError::Stuck.to_string();
    assert_eq!(stuck.last(), Some(Event::Failed { message }));
    assert_eq!(tokens(other, FinishReason::Length), expected(&prompt(1, 6), &fake::sampled(0), 20));
}
