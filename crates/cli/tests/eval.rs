//! `cuvier eval` as its users and their scripts see it.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn eval(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuvier"));
    command.arg("eval").args(arguments).stdin(Stdio::null()).output().expect("the program starts")
}

fn json(arguments: &[&str]) -> Value {
    let output = eval(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

fn results(document: &Value) -> &[Value] {
    document["results"].as_array().expect("results")
}

fn error(arguments: &[&str], code: i32) -> String {
    let output = eval(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    assert!(output.stdout.is_empty(), "results only on stdout");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn arithmetic_says_what_was_asked_of_what_and_how_sure_it_is() {
    let document = json(&["arithmetic", "--samples", "4"]);
    assert_eq!(
        (document["eval"].as_str(), document["model"]["name"].as_str()),
        (Some("arithmetic"), Some("calf"))
    );
    assert_eq!(document["model"]["kv"], "fp8");
    let asked = &document["asked"];
    assert_eq!((asked["split"].as_str(), asked["seed"].as_u64()), (Some("held_out"), Some(1)));
    let results = results(&document);
    assert_eq!(results.len(), 4 * 3, "efforts by digits");
    for row in results {
        let sums = &row["sums"];
        assert_eq!(sums["of"].as_u64(), Some(4), "{row}");
        let share = sums["share"].as_f64().expect("a share");
        let ends: Vec<f64> =
            sums["interval"].as_array().expect("ends").iter().filter_map(Value::as_f64).collect();
        assert!(ends[0] <= share && share <= ends[1], "{row}");
    }
    let two_digits = results.iter().find(|row| row["think"] == "off" && row["digits"] == 2).expect("a row");
    assert!(two_digits["sums"]["count"].as_u64() >= Some(3), "the calf adds two digits: {two_digits}");
    // Threads are told, and change nothing else; slots are not even told.
    let mut other = json(&["arithmetic", "--samples", "4", "--threads", "1", "--slots", "3"]);
    other["model"]["threads"] = document["model"]["threads"].clone();
    assert_eq!(document, other);
}

#[test]
fn drafts_change_no_answer() {
    let document = json(&["mtp", "--samples", "1"]);
    for row in results(&document) {
        assert_eq!(row["identical"]["count"], row["identical"]["of"], "{row}");
        let tokens_per_call = row["tokens_per_call"].as_f64().expect("a number");
        assert!((1.0..=2.0).contains(&tokens_per_call), "{row}");
    }
}

#[test]
fn what_the_calf_reads_is_measured_over_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text.txt");
    std::fs::write(&file, "My locker code is 4821. What is my locker code? ".repeat(20)).expect("written");
    let file = file.to_str().expect("UTF-8");
    let text = json(&["bpb", "--data", file, "--context", "128"]);
    let bits = results(&text)[0]["bits_per_byte"]["value"].as_f64().expect("a number");
    assert!(bits > 0.0 && bits < 20.0, "{bits}");
    assert!(results(&text)[0]["documents"].as_u64() > Some(1), "it is cut into pieces");

    let gain = json(&["gain", "--data", file, "--context", "128"]);
    assert_eq!(results(&gain).len(), 2 * 6);
    for row in results(&gain) {
        let forward = row["composite_forward"]["mean"].as_f64().expect("a number");
        assert!((forward - 1.0).abs() < 1e-3, "rows sum to one: {row}");
        assert!(row["backward"]["mean"].as_f64() >= Some(0.99), "{row}");
    }

    let balance = json(&["balance", "--data", file, "--context", "128"]);
    let first = &results(&balance)[0];
    assert_eq!((first["layer"].as_str(), first["routing"].as_str()), (Some("layers.0"), Some("hash")));
    let loads = first["loads"].as_array().expect("loads").iter().filter_map(Value::as_u64).sum::<u64>();
    let last = results(&balance).iter().find(|row| row["layer"] == "layers.5").expect("the last layer");
    assert_eq!(loads, last["loads"].as_array().expect("loads").iter().filter_map(Value::as_u64).sum::<u64>());
}

#[test]
fn a_value_is_recalled_over_a_short_distance_and_the_table_says_so() {
    let arguments = ["needle", "--samples", "3", "--lengths", "256", "--depths", "50"];
    let document = json(&arguments);
    assert!(results(&document)[0]["right"]["count"].as_u64() >= Some(2), "{document}");
    let table = String::from_utf8(eval(&arguments).stdout).expect("UTF-8");
    assert!(table.contains("length \\ depth") && table.contains("held_out"), "{table}");
}

#[test]
fn tools_and_abstention_are_counted_by_kind() {
    for (name, key, kinds) in [
        ("tools", "wanted", ["call", "result", "no tool"]),
        ("abstain", "answer", ["given", "not given", "of the world"]),
    ] {
        let document = json(&[name, "--samples", "2", "--max-tokens", "32"]);
        let found: Vec<&str> = results(&document).iter().filter_map(|row| row[key].as_str()).collect();
        assert_eq!(found, kinds);
    }
}

#[test]
fn mistakes_get_one_message() {
    assert!(error(&["bpb", "--data", "/nowhere.jsonl"], 1).contains("/nowhere.jsonl"));
    assert!(error(&["needle", "--lengths", "9999999"], 1).contains("9999999"));
    assert!(error(&["needle", "--lengths", "100"], 1).contains("no room"));
    error(&["arithmetic", "--lengths", "100"], 2);
    error(&["needle", "--depths", "101"], 2);
    error(&["swim"], 2);
}
