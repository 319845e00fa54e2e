use std::path::PathBuf;

use cuvier_encoding::{Generation, Tokenizer};

use super::super::error::told;
use super::*;

fn calf() -> Tokenizer {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf/tokenizer.json");
    Tokenizer::from_file(&file).expect("the embedded model's tokenizer")
}

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("samples.jsonl");
    std::fs::write(&file, text).expect("written");
    (folder, file)
}

#[test]
fn a_broken_line_is_named_by_file_and_number() {
    let good = r#"{"task": "text", "text": "a"}"#;
    let (_folder, file) = written(&format!("{good}\n\n{{\"task\": \"sums\", \"text\": \"a\"}}\n"));
    let tokenizer = calf();
    let encoder = Encoder { tokenizer: &tokenizer, generation: Generation::Revised0731 };
    let error = told(&read_documents(&file, encoder).expect_err("an unknown task"));
    assert!(error.contains("samples.jsonl, line 3: ") && error.contains("sums"), "{error}");
    let (_folder, file) = written(&format!("{good}\n{good}\n"));
    assert_eq!(read_documents(&file, encoder).expect("two documents").len(), 2);
    let (_folder, file) = written("{\"task\": \"chat\", \"messages\": [{\"role\": \"user\"}]}");
    let error = told(&read_documents(&file, encoder).expect_err("no answer"));
    assert!(error.contains("samples.jsonl, line 1: "), "{error}");
}

#[test]
fn what_a_line_must_not_have_is_refused() {
    let refused = |line: &str| Sample::from_line(line).expect_err(line).to_string();
    assert!(refused(r#"{"task": "text"}"#).contains("either"));
    assert!(refused(r#"{"task": "text", "text": "a", "messages": []}"#).contains("either"));
    assert!(refused(r#"{"task": "text", "text": "a", "think": "low"}"#).contains("think"));
    assert!(refused(r#"{"task": "text", "text": "a", "weight": 2}"#).contains("weight"));
    assert!(refused(r#"{"task": "chat", "messages": [{"role": "bot"}]}"#).contains("role"));
    assert!(refused("not JSON").contains("line 1"));
}

#[test]
fn tools_stand_beside_the_messages_in_a_file_and_on_the_system_message_in_memory() {
    let line = r#"{"task":"chat","tools":[{"type":"function","function":{"name":"now"}}],"messages":[{"role":"user","content":"?"}],"think":"off"}"#;
    let sample = Sample::from_line(line).expect("a sample");
    assert_eq!(sample.to_line(), line);
    let Body::Chat(chat) = &sample.body else { panic!("a conversation") };
    assert_eq!(chat.conversation.messages[0].role, Role::System);
    assert_eq!(chat.tools().len(), 1);
    let with_system = r#"{"task":"chat","tools":[{"type":"function","function":{"name":"now"}}],"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"?"}],"think":"high","answer":{"number":3}}"#;
    assert_eq!(Sample::from_line(with_system).expect("a sample").to_line(), with_system);
}
