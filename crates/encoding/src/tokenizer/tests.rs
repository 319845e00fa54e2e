#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use cuvier_types::TokenId;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{TextStream, Tokenizer, TokenizerError};
use crate::control::{Control, Task};
use crate::prompt::Prompt;

const REDUCED: &str = include_str!("../../../../fixtures/tokenizer/reduced.json");
const RECORDED: &str = include_str!("../../../../fixtures/tokenizer/ids.jsonl");

fn reduced() -> Tokenizer {
    Tokenizer::from_bytes(REDUCED.as_bytes()).unwrap()
}

/// Each string with its ids by the official file and by the reduced one.
fn recorded() -> impl Iterator<Item = (String, Vec<u32>, Vec<u32>)> {
    RECORDED.lines().map(|line| serde_json::from_str(line).unwrap())
}

fn numbers(ids: &[TokenId]) -> Vec<u32> {
    ids.iter().map(|id| id.0).collect()
}

#[test]
fn reduced_vocabulary_gives_the_recorded_ids_for_every_string() {
    let tokenizer = reduced();
    assert!(recorded().count() >= 5000);
    for (text, _, want) in recorded() {
        assert_eq!(numbers(&tokenizer.encode_with_control(&text)), want, "{text:?}");
        assert_eq!(tokenizer.decode(&tokenizer.encode_with_control(&text)), text);
        assert_eq!(tokenizer.decode(&tokenizer.encode_text(&text)), text);
    }
}

#[test]
fn official_vocabulary_gives_the_recorded_ids_for_every_string() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/fixtures/tokenizer/tokenizer.json");
    let path =
        std::env::var_os("CUVIER_OFFICIAL_TOKENIZER").map_or_else(|| PathBuf::from(default), PathBuf::from);
    if !path.exists() {
        eprintln!("not run: {} is missing; `cargo xtask fixtures tokenizer` gets it", path.display());
        return;
    }
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    eprintln!("official tokenizer loaded in {:?}", start.elapsed());
    assert_eq!(tokenizer.vocab_size(), 129_280);
    for (text, want, _) in recorded() {
        assert_eq!(numbers(&tokenizer.encode_with_control(&text)), want, "{text:?}");
        assert_eq!(tokenizer.decode(&tokenizer.encode_text(&text)), text);
    }
    let control = tokenizer.control();
    let ids =
        [control.bos, control.eos, control.user, control.assistant, control.think_start, control.think_end];
    assert_eq!(ids.map(|id| id.0), [0, 1, 128_803, 128_804, 128_821, 128_822]);
    assert_eq!(control.dsml, TokenId(128_825));
    assert!(Control::ALL.iter().all(|&token| control.id(token).is_some()));
    assert_eq!(control.id(Control::Task(Task::Title)), Some(TokenId(128_836)));
    for id in 0..129_280 {
        assert!(tokenizer.token_bytes(TokenId(id)).is_some(), "{id}");
    }
}

#[test]
fn no_text_becomes_a_control_token() {
    let tokenizer = reduced();
    for control in Control::ALL {
        let text = format!("a{0} {0}{0}\n", control.text());
        let ids = tokenizer.encode_text(&text);
        assert!(ids.iter().all(|&id| tokenizer.control().control(id).is_none()), "{text}");
        assert_eq!(tokenizer.decode(&ids), text);
        let id = tokenizer.control().id(control).unwrap();
        assert_eq!(tokenizer.encode_with_control(control.text()), [id]);
        assert_eq!(tokenizer.token_bytes(id), Some(control.text().as_bytes()));
        assert_eq!(tokenizer.control().control(id), Some(control));
    }
}

#[test]
fn a_token_of_the_prompt_that_the_vocabulary_lacks_is_named() {
    let mut file: Value = serde_json::from_str(REDUCED).unwrap();
    let added = file["added_tokens"].as_array_mut().unwrap();
    // The last ones go, so that the others keep their ids.
    let keep = added.iter().position(|token| token["content"] == "<｜title｜>").unwrap();
    added.truncate(keep);
    let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
    let mut prompt = Prompt::continuation("x");
    assert_eq!(tokenizer.encode_prompt(&prompt).unwrap()[0], tokenizer.control().bos);
    prompt.push_control(Control::Task(Task::Title));
    let missing = tokenizer.encode_prompt(&prompt).unwrap_err();
    assert_eq!(missing.to_string(), "this model's vocabulary has no token `<｜title｜>`");
}

/// The reduced file with one change.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TokenizerError> {
    let mut file: Value = serde_json::from_str(REDUCED).unwrap();
    change(&mut file);
    Tokenizer::from_bytes(file.to_string().as_bytes())
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    changed(change).map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
}

#[test]
fn a_broken_file_is_refused_with_the_place_that_is_broken() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 19] = [
        (|_| {}, "accepted"),
        (|file| file["model"]["merges"][3] = json!("q zzzzz"), "merge 3, `q` with `zzzzz`"),
        (|file| file["model"]["merges"][3] = json!("onetoken"), "not two tokens"),
        (|file| file["model"]["merges"][3] = json!(["a", "b", "c"]), "not two tokens"),
        (|file| file["model"]["merges"] = Value::Null, "not a tokenizer.json"),
        (|file| file["model"]["type"] = json!("WordPiece"), "`model.type` must be BPE, is WordPiece"),
        (|file| file["model"]["continuing_subword_prefix"] = json!("##"), "continuing_subword_prefix"),
        (|file| file["model"]["end_of_word_suffix"] = json!("</w>"), "end_of_word_suffix"),
        (|file| file["normalizer"] = json!({ "type": "NFC" }), "`normalizer` must be absent"),
        (|file| file["decoder"] = Value::Null, "`decoder` must be ByteLevel"),
        (|file| file["pre_tokenizer"] = Value::Null, "`pre_tokenizer` must be splits"),
        (
            |file| file["pre_tokenizer"]["pretokenizers"][0]["behavior"] = json!("Removed"),
            "`pre_tokenizer` must be",
        ),
        (|file| file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("("), "tokenizer.json"),
        (
            |file| file["pre_tokenizer"]["pretokenizers"][3]["add_prefix_space"] = json!(true),
            "`pre_tokenizer` must be",
        ),
        (|file| file["model"]["vocab"]["Ġthe"] = json!(u32::MAX), "`Ġthe` has id 4294967295"),
        (|file| file["model"]["vocab"]["Ġthe"] = json!(17), "two tokens have id 17"),
        (|file| file["model"]["vocab"]["Ġthe"] = json!(-1), "not a tokenizer.json"),
        (|file| file["added_tokens"][5]["id"] = json!(99_999), "has id 99999, but its place"),
        (|file| file["added_tokens"] = json!([]), "`<｜begin▁of▁sentence｜>` must be exactly one token"),
    ];
    for (change, want) in cases {
        let got = refusal(change);
        assert!(got.contains(want), "want {want:?}, got {got:?}");
    }
}

#[test]
fn a_vocabulary_without_some_byte_is_refused() {
    let got = refusal(|file| {
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("Ā").unwrap();
        vocab.insert("unused".to_owned(), id);
        file["model"]["merges"] = json!([]);
    });
    assert_eq!(got, "tokenizer.json: the vocabulary lacks byte 0x00");
}

#[test]
fn a_vocabulary_whose_merges_spell_a_control_token_is_refused() {
    let got = refusal(|file| {
        let merges = file["model"]["merges"].as_array_mut().unwrap();
        merges.extend([json!(["<", "think>"])]);
        let added = file["added_tokens"].as_array_mut().unwrap();
        let token = added.iter().position(|token| token["content"] == "<think>").unwrap();
        let id = added[token]["id"].clone();
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        vocab.insert("<think>".to_owned(), id);
        vocab.insert("think>".to_owned(), json!(100_000));
    });
    assert!(got.contains("make `<think>` out of plain text"), "{got}");
}

#[test]
fn each_of_the_seven_tokens_of_every_conversation_is_required() {
    for control in &Control::ALL[..7] {
        let got = refusal(|file| {
            let added = file["added_tokens"].as_array_mut().unwrap();
            let token = added.iter_mut().find(|token| token["content"] == control.text()).unwrap();
            token["content"] = json!("<another>");
            let id = token["id"].clone();
            let vocab = file["model"]["vocab"].as_object_mut().unwrap();
            if vocab.remove(control.text()).is_some() {
                vocab.insert("<another>".to_owned(), id);
            }
        });
        assert!(got.contains(&format!("`{}` must be exactly one token", control.text())), "{got}");
    }
}

#[test]
fn bytes_that_are_no_tokenizer_are_refused() {
    for bytes in [
        b"".as_slice(),
        b"{",
        b"[]",
        b"{}",
        b"null",
        b"\xff\xfe",
        b"{\"model\":{\"vocab\":{},\"merges\":[]}}",
    ] {
        assert!(Tokenizer::from_bytes(bytes).is_err(), "{bytes:?}");
    }
    let error = Tokenizer::from_file(std::path::Path::new("no/such/tokenizer.json")).unwrap_err();
    assert!(error.to_string().starts_with("no/such/tokenizer.json: "), "{error}");
}

#[test]
fn both_spellings_of_merges_are_read_alike() {
    let pairs = changed(|file| {
        for merge in file["model"]["merges"].as_array_mut().unwrap() {
            let (left, right) = merge.as_str().unwrap().split_once(' ').unwrap();
            *merge = json!([left, right]);
        }
    })
    .unwrap();
    let text = "Merges are spelled in two ways; 两种写法。";
    assert_eq!(pairs.encode_text(text), reduced().encode_text(text));
}

#[test]
fn a_file_names_the_reason_once_and_in_one_line() {
    let got = refusal(|file| file["normalizer"] = json!({ "type": "x".repeat(10_000) }));
    assert!(got.len() < 400 && !got.contains('\n'), "{got}");
}

/// Strings with control tokens, their parts and white space more often than chance would have them.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        ".{0,8}",
        "[ \t\r\n]{0,4}",
        "[0-9]{1,5}",
        prop::sample::select(Control::ALL.to_vec()).prop_map(|control| control.text().to_owned()),
        prop::sample::select(vec!["<", "｜", "DSML", "</", "think>", "世界", "🐋", "_", "▁"])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_file_with_anything_changed_is_loaded_whole_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(b'"'), Just(b'0')], 0..20usize), 1..4)
    ) {
        let mut file = crate::synthetic_tokenizer_json(280).unwrap().into_bytes();
        for (at, byte, n_removed) in changes {
            let at = at.index(file.len());
            let end = (at + n_removed).min(file.len());
            file.splice(at..end, [byte]);
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes(&file) {
            let text = "Ünchanged <think> 123\n\n世界";
            let ids = tokenizer.encode_text(text);
            prop_assert!(ids.iter().all(|&id| tokenizer.control().control(id).is_none()));
            prop_assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}

proptest! {
    #[test]
    fn user_text_never_yields_a_control_token_and_survives(text in text()) {
        let tokenizer = thread_tokenizer();
        let ids = tokenizer.encode_text(&text);
        prop_assert!(ids.iter().all(|&id| tokenizer.control().control(id).is_none()));
        prop_assert_eq!(tokenizer.decode(&ids), text);
    }

    #[test]
    fn segments_and_the_whole_text_encode_alike_when_the_data_spells_no_control_token(
        parts in prop::collection::vec((".{0,12}|[ \n]{1,3}", prop::option::of(prop::sample::select(Control::ALL.to_vec()))), 0..6)
    ) {
        let tokenizer = thread_tokenizer();
        let mut prompt = Prompt::new();
        for (text, control) in parts {
            // Neither bar occurs in any but a control token, and tags of thinking need both brackets.
            prompt.push_text(&text.replace(['｜', '<', '|'], "-"));
            control.into_iter().for_each(|control| prompt.push_control(control));
        }
        prop_assert_eq!(tokenizer.encode_prompt(&prompt).unwrap(), tokenizer.encode_with_control(&prompt.text()));
    }

    #[test]
    fn text_stream_gives_what_lossy_decoding_of_everything_gives(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80..0xc0u8, 0xe0..0xf5u8], 0..24),
        cuts in prop::collection::vec(0..24usize, 0..6)
    ) {
        let mut stream = TextStream::new();
        let mut text = String::new();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut <= bytes.len()).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            text.push_str(&stream.push(&bytes[pair[0]..pair[1]]));
        }
        text.push_str(&stream.finish());
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }
}

fn thread_tokenizer() -> &'static Tokenizer {
    static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    TOKENIZER.get_or_init(reduced)
}
