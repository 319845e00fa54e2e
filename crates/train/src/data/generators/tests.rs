//! What holds for every generator.

use cuvier_encoding::{Generation, PromptOptions, encode_conversation};

use super::super::rng::Rng;
use super::super::ruler::Ruler;
use super::super::sample::{Body, Sample, Think};
use super::super::split::Split;
use super::super::verdict::Verdict;
use super::*;

type Generator = (&'static str, fn(&mut Rng, Split) -> Option<Sample>);

fn thinking() -> Vec<Think> {
    vec![Think::Off, Think::Low, Think::High, Think::Max]
}

/// All of them, in every form and at every effort.
fn all() -> [Generator; 7] {
    [
        ("arithmetic", |rng, split| {
            let options = arithmetic::Options { think: thinking(), ..Default::default() };
            arithmetic::sample(rng, &options, split)
        }),
        ("recall", |rng, split| {
            let forms = vec![recall::Form::Single, recall::Form::Several, recall::Form::Chain];
            let options = recall::Options { forms, think: thinking(), ..Default::default() };
            recall::sample(rng, &options, split, Ruler::Estimate)
        }),
        ("facts", |rng, split| {
            let options = facts::Options { think: thinking(), ..Default::default() };
            facts::sample(rng, &options, split)
        }),
        ("tools", |rng, split| {
            let options = tools::Options { think: thinking(), ..Default::default() };
            tools::sample(rng, &options, split)
        }),
        ("abstain", |rng, split| {
            let options = abstain::Options { think: thinking(), ..Default::default() };
            abstain::sample(rng, &options, split)
        }),
        ("grammar", |rng, split| {
            let options = grammar::Options { think: thinking(), ..Default::default() };
            grammar::sample(rng, &options, split)
        }),
        ("identity", |rng, split| identity::sample(rng, &identity::Options { think: thinking() }, split)),
    ]
}

/// The text after the question, as a model would write it.
fn own_answer(sample: &Sample) -> Option<String> {
    let Body::Chat(chat) = &sample.body else { return None };
    let options = PromptOptions { generation: Generation::Revised0731, thinking: chat.think.into() };
    let text = |conversation| encode_conversation(conversation, options).expect("a prompt").text();
    let whole = text(&chat.conversation);
    let question = text(&chat.question());
    Some(whole.strip_prefix(question.as_str()).expect("the question comes first").to_owned())
}

#[test]
fn every_sample_s_own_answer_is_the_one_that_is_wanted() {
    for (name, draw) in all() {
        for split in [Split::Train, Split::HeldOut] {
            for item in 0..150 {
                let sample = draw(&mut Rng::of(1, 0, item), split).expect("a sample");
                let Some(answer) = own_answer(&sample) else { continue };
                let verdict = sample.verdict(&answer).expect("a verdict");
                assert!(sample.wants(verdict), "{name}: {verdict:?}: {}", sample.to_line());
                assert!(verdict != Verdict::Wrong);
            }
        }
    }
}

#[test]
fn nonsense_and_silence_are_wrong_for_every_generator() {
    for (name, draw) in all() {
        for item in 0..50 {
            let sample = draw(&mut Rng::of(2, 0, item), Split::Train).expect("a sample");
            for answer in ["", "</think>"] {
                let verdict = sample.verdict(answer);
                assert!(
                    verdict.is_none_or(|verdict| verdict == Verdict::Wrong),
                    "{name}: {}",
                    sample.to_line()
                );
            }
            let is_silent_tool = sample.to_line().contains("\"calls\":[]");
            let verdict = sample.verdict("</think>zzz");
            assert!(is_silent_tool || verdict.is_none_or(|verdict| verdict == Verdict::Wrong), "{name}");
        }
    }
}

#[test]
fn a_sample_is_a_function_of_its_stream() {
    for (name, draw) in all() {
        let drawn = |seed| draw(&mut Rng::new(seed), Split::Train).map(|sample| sample.to_line());
        assert_eq!(drawn(5), drawn(5), "{name}");
        assert!((6..20).any(|seed| drawn(seed) != drawn(5)), "{name}");
    }
}

#[test]
fn a_line_reads_back_as_the_sample_it_was_written_from() {
    for (name, draw) in all() {
        for item in 0..100 {
            let sample = draw(&mut Rng::of(3, 0, item), Split::Train).expect("a sample");
            let line = sample.to_line();
            assert!(!line.contains('\n'));
            assert_eq!(Sample::from_line(&line).expect(name), sample, "{line}");
        }
    }
}

#[test]
fn what_thinks_has_thoughts_and_what_does_not_has_none() {
    for (name, draw) in all() {
        for item in 0..100 {
            let sample = draw(&mut Rng::of(4, 0, item), Split::Train).expect("a sample");
            let Body::Chat(chat) = &sample.body else { continue };
            let last = chat.conversation.messages.last().expect("an answer");
            assert_eq!(last.reasoning_content.is_some(), chat.think != Think::Off, "{name}");
        }
    }
}
