use std::path::Path;

use proptest::prelude::*;

use super::super::sample::{Task, Think};
use super::*;

fn calf() -> Tokenizer {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf/tokenizer.json");
    Tokenizer::from_file(&file).expect("the embedded model's tokenizer")
}

fn document(line: &str) -> Result<Document, SampleError> {
    let sample = Sample::from_line(line).expect("a sample");
    let tokenizer = calf();
    Encoder { tokenizer: &tokenizer, generation: Generation::Revised0731 }.document(&sample)
}

/// The text of each run of trained tokens.
fn trained(document: &Document) -> Vec<String> {
    let tokenizer = calf();
    let mut runs: Vec<Vec<TokenId>> = Vec::new();
    let mut was_trained = false;
    for (&token, &is_trained) in document.tokens.iter().zip(&document.trained) {
        if is_trained && !was_trained {
            runs.push(Vec::new());
        }
        if let (true, Some(run)) = (is_trained, runs.last_mut()) {
            run.push(token);
        }
        was_trained = is_trained;
    }
    runs.iter().map(|run| tokenizer.decode(run)).collect()
}

#[test]
fn all_of_a_text_is_trained_but_its_begin() {
    let document = document(r#"{"task": "text", "text": "Mist over <|x|> hills."}"#).expect("a document");
    assert_eq!(trained(&document), ["Mist over <|x|> hills.<｜end▁of▁sentence｜>"]);
    assert!(!document.trained[0] && document.is_text());
    assert_eq!(document.n_trained() + 1, document.len());
}

#[test]
fn of_a_conversation_what_the_assistant_says_is_trained() {
    let answered = document(
        r#"{"task": "chat", "messages": [{"role": "system", "content": "Be kind."},
        {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4."}]}"#,
    );
    let answered = answered.expect("a document");
    assert_eq!(trained(&answered), ["4.<｜end▁of▁sentence｜>"]);
    assert!(!answered.is_text());
    let thought = document(
        r#"{"task": "chat", "think": "max", "messages": [{"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "reasoning_content": "2, then 2 more.", "content": "4."}]}"#,
    );
    let thought = thought.expect("a document");
    assert_eq!(trained(&thought), ["2, then 2 more.</think>4.<｜end▁of▁sentence｜>"]);
}

#[test]
fn every_answer_of_several_turns_is_trained_while_none_of_them_changes() {
    let turns = r#"[{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2."},
        {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4."}]"#;
    let both = document(&format!(r#"{{"task": "chat", "messages": {turns}}}"#)).expect("a document");
    assert_eq!(trained(&both), ["2.<｜end▁of▁sentence｜>", "4.<｜end▁of▁sentence｜>"]);
    // A thinking assistant's old turns lose their thoughts, so the old answer stands where it was never asked for.
    let last = document(&format!(r#"{{"task": "chat", "think": "low", "messages": {turns}}}"#));
    assert_eq!(trained(&last.expect("a document")), ["</think>4.<｜end▁of▁sentence｜>"]);
}

#[test]
fn a_call_and_the_answer_after_its_result_are_both_trained() {
    let document = document(
        r#"{"task": "tools", "think": "low", "tools": [{"type": "function", "function": {"name": "now"}}],
        "messages": [{"role": "user", "content": "What time is it?"},
        {"role": "assistant", "reasoning_content": "Ask.", "tool_calls": [{"id": "a", "function": {"name": "now"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "12:30"},
        {"role": "assistant", "reasoning_content": "Read.", "content": "Half past twelve."}]}"#,
    );
    let runs = trained(&document.expect("a document"));
    assert_eq!(runs.len(), 2);
    assert!(runs[0].starts_with("Ask.</think>\n\n<｜DSML｜tool_calls>"), "{}", runs[0]);
    assert!(runs[0].ends_with("</｜DSML｜tool_calls><｜end▁of▁sentence｜>"), "{}", runs[0]);
    assert_eq!(runs[1], "Read.</think>Half past twelve.<｜end▁of▁sentence｜>");
}

#[test]
fn a_conversation_without_a_last_answer_is_refused() {
    let asked = document(r#"{"task": "chat", "messages": [{"role": "user", "content": "2 + 2?"}]}"#);
    assert!(matches!(asked, Err(SampleError::NoAnswer)));
    let nothing = document(r#"{"task": "chat", "messages": []}"#);
    assert!(matches!(nothing, Err(SampleError::NoAnswer)));
}

#[test]
fn an_answer_that_melts_into_the_text_before_it_is_refused() {
    let melted = document(
        r#"{"task": "chat", "messages": [{"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "Hello."}]}"#,
    );
    assert!(matches!(melted, Err(SampleError::NotContinued { message: 1 })));
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ a-z0-9.\n]{0,20}",
        Just("<｜User｜>".to_owned()),
        Just("</think>".to_owned()),
        Just("naïve 鯨 \u{fe0f}".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_tokens_a_model_is_given_begin_the_document_and_are_not_trained_at_their_end(
        turns in prop::collection::vec((any_text(), any_text(), any_text()), 1..4),
        think in prop_oneof![Just(Think::Off), Just(Think::Low), Just(Think::High), Just(Think::Max)],
        system in any_text(),
    ) {
        use cuvier_encoding::Message;
        let mut messages = vec![Message::text(Role::System, system)];
        for (asked, thought, said) in turns {
            messages.push(Message::text(Role::User, asked));
            messages.push(Chat::reply(think, thought, said));
        }
        let chat = Chat { conversation: Conversation { messages }, think };
        let tokenizer = calf();
        let encoder = Encoder { tokenizer: &tokenizer, generation: Generation::Revised0731 };
        let question = encoder.question(&chat).expect("a prompt");
        let sample = Sample { task: Task::Chat, body: Body::Chat(chat), answer: None };
        let document = encoder.document(&sample).expect("a document");
        prop_assert!(document.tokens.starts_with(&question));
        prop_assert!(!document.trained[question.len() - 1]);
        prop_assert!(document.trained[question.len()..].iter().all(|&trained| trained));
        prop_assert_eq!(document.tokens.len(), document.trained.len());
        prop_assert_eq!(document.tokens.last().copied(), tokenizer.control().id(Control::Eos));
    }
}
