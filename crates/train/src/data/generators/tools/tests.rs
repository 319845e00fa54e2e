use cuvier_encoding::{ParsedCall, PromptOptions, encode_conversation};
use serde_json::json;

use super::super::super::sample::Body;
use super::*;

fn said(name: &str, arguments: &Value) -> Completion {
    let call = ParsedCall { index: 0, name: name.to_owned(), arguments: arguments.to_string() };
    Completion { tool_calls: vec![call], ..Completion::default() }
}

fn wanted() -> Answer {
    let arguments = json!({ "minutes": 5, "label": "tea" });
    Answer::Calls(vec![Call { name: "set_timer".to_owned(), arguments }])
}

#[test]
fn a_call_is_right_by_name_and_value_not_by_order() {
    let verdict = |name, arguments| verify(&wanted(), &said(name, &arguments));
    assert_eq!(verdict("set_timer", json!({ "label": "tea", "minutes": 5 })), Verdict::Right);
    assert_eq!(verdict("set_timer", json!({ "label": "tea", "minutes": 5.0 })), Verdict::Right);
    assert_eq!(verdict("set_timer", json!({ "label": "tea", "minutes": "5" })), Verdict::Wrong);
    assert_eq!(verdict("set_timer", json!({ "minutes": 5 })), Verdict::Wrong);
    assert_eq!(verdict("get_weather", json!({ "minutes": 5, "label": "tea" })), Verdict::Wrong);
}

#[test]
fn calling_where_nothing_fits_is_wrong_and_so_is_silence() {
    let none = Answer::Calls(Vec::new());
    let says = Completion { content: "I have no tool for that.".to_owned(), ..Completion::default() };
    assert_eq!(verify(&none, &says), Verdict::Right);
    assert_eq!(verify(&none, &Completion::default()), Verdict::Wrong);
    assert_eq!(verify(&none, &said("set_timer", &json!({}))), Verdict::Wrong);
    assert_eq!(verify(&wanted(), &says), Verdict::Wrong);
}

#[test]
fn the_wanted_tool_is_offered_exactly_when_it_is_to_be_called() {
    let mut rng = Rng::new(8);
    for _ in 0..200 {
        let sample = sample(&mut rng, &Options::default(), Split::Train).expect("a sample");
        let Body::Chat(chat) = &sample.body else { panic!("a conversation") };
        let offered: Vec<&str> =
            chat.tools().iter().filter_map(|tool| tool.function["name"].as_str()).collect();
        assert!((1..=3).contains(&offered.len()));
        let calls = chat.conversation.messages.iter().flat_map(|message| &message.tool_calls);
        assert!(calls.into_iter().all(|call| offered.contains(&call.name.as_str())));
    }
}

#[test]
fn what_a_call_says_stands_in_the_request() {
    let mut rng = Rng::new(21);
    for entry in &CATALOGUE {
        for _ in 0..50 {
            let request = (entry.request)(&mut rng);
            let arguments = request.arguments.as_object().expect("an object");
            let stated = arguments.values().filter_map(Value::as_str);
            assert!(stated.into_iter().all(|text| request.text.contains(text)), "{}", request.text);
            assert!(request.values.iter().all(|value| request.answer.contains(value.as_str())));
        }
    }
}

#[test]
fn the_call_in_the_prompt_is_read_back_as_the_call_that_is_wanted() {
    let options = Options { forms: vec![Form::Call], think: vec![Think::Low], ..Options::default() };
    let mut rng = Rng::new(13);
    for _ in 0..100 {
        let sample = sample(&mut rng, &options, Split::Train).expect("a sample");
        let Body::Chat(chat) = &sample.body else { panic!("a conversation") };
        let options = PromptOptions {
            generation: cuvier_encoding::Generation::Revised0731,
            thinking: chat.think.into(),
        };
        let text = |conversation| encode_conversation(conversation, options).expect("a prompt").text();
        let whole = text(&chat.conversation);
        let answer = whole.strip_prefix(text(&chat.question()).as_str()).expect("the question comes first");
        assert_eq!(sample.verdict(answer), Some(Verdict::Right), "{answer}");
    }
}
