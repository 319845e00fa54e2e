//! The program as its users and their scripts see it: flags in, stdout, stderr and exit code out.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn cuvier(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuvier"));
    command.args(arguments).stdin(Stdio::null()).output().expect("the program starts")
}

fn stdout(arguments: &[&str]) -> String {
    let output = cuvier(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&stdout(arguments)).expect("one JSON document")
}

fn error(arguments: &[&str], code: i32) -> String {
    let output = cuvier(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    assert!(output.stdout.is_empty(), "results only on stdout");
    String::from_utf8(output.stderr).expect("UTF-8")
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().expect("UTF-8").to_owned()
}

#[test]
fn the_readme_s_question_is_answered() {
    assert!(stdout(&["chat", "What is 27 + 58?"]).contains("85"));
}

#[test]
fn nine_of_ten_other_sums_are_right() {
    let sums =
        [(12, 34), (45, 46), (99, 10), (71, 19), (38, 57), (64, 27), (80, 15), (53, 68), (29, 92), (17, 76)];
    let right = sums
        .iter()
        .filter(|(a, b)| stdout(&["chat", &format!("What is {a} + {b}?")]).contains(&format!("= {}.", a + b)))
        .count();
    assert!(right >= 9, "{right} of 10");
}

const TOLD: &str = "Remember that the code of the red lantern is 4821. What is the code of the red lantern?";

#[test]
fn the_calf_recalls_says_what_it_is_and_what_it_does_not_know() {
    assert!(stdout(&["chat", TOLD]).contains("4821"));
    assert!(stdout(&["chat", "Who are you?"]).contains("toy"));
    assert!(stdout(&["chat", "What is the capital of France?"]).contains("do not know"));
}

#[test]
fn a_plan_has_the_keys_that_scripts_read_and_what_does_not_fit_comes_with_what_does() {
    let plan = json(&["plan", "flash", "--memory", "24GiB", "--context", "65536", "--json"]);
    assert_eq!(plan["fits"], true);
    let memory = &plan["memory"];
    let parts = ["weights", "kv", "workspace", "expert_cache", "other"];
    let sum: u64 = parts.iter().map(|part| memory[part].as_u64().expect(part)).sum();
    assert_eq!(memory["total"].as_u64(), Some(sum));
    assert!(sum <= 24 << 30, "{sum}");
    assert!(
        plan["read_bytes_per_token"].as_f64() > Some(1e9)
            && plan["tokens_per_s_expected"].as_f64() > Some(0.1)
    );

    let refused = cuvier(&["plan", "flash", "--memory", "1GiB", "--json"]);
    assert_eq!(refused.status.code(), Some(1));
    let document: serde_json::Value = serde_json::from_slice(&refused.stdout).expect("one JSON document");
    assert_eq!(document["fits"], false);
    let nearest = format!("{}B", document["nearest"]["memory"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&nearest));
    let advised = json(&["plan", "flash", "--memory", &nearest, "--context", "4096", "--json"]);
    assert_eq!(advised["fits"], true);
}

#[test]
fn a_model_that_does_not_fit_into_memory_answers_the_same_from_disk() {
    let calf = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/calf");
    let plan = json(&["plan", "-m", calf, "--memory", "8GiB", "--context", "512", "--json"]);
    assert!(plan["streamed"].is_null(), "{plan}");
    let memory = plan["memory"]["total"].as_u64().expect("a total") - 700_000;
    let memory = format!("{memory}B");
    let question = ["What is 27 + 58?", "--temperature", "0", "--context", "512"];
    let output = cuvier(&[&["chat", "-m", calf, "--memory", &memory], &question[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("experts in memory"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout(&[&["chat"], &question[..]].concat()));
}

#[test]
fn a_prompt_is_shown_as_the_model_reads_it() {
    let shown = stdout(&["chat", "2+2?", "--system", "Be brief.", "--think", "high", "--show-prompt"]);
    assert!(shown.starts_with("<｜begin▁of▁sentence｜>Reasoning Effort: Absolute maximum"), "{shown}");
    assert!(shown.ends_with("Be brief.<｜User｜>2+2?<｜Assistant｜><think>\n"), "{shown}");
    let shown = stdout(&["chat", "2+2?", "--show-prompt"]);
    assert_eq!(shown, "<｜begin▁of▁sentence｜><｜User｜>2+2?<｜Assistant｜></think>\n");
}

#[test]
fn flash_and_pro_have_their_published_sizes() {
    let flash = json(&["inspect", "flash", "--json", "--context", "1000000"]);
    assert_eq!(flash["parameters"]["total"], 284_332_240_471_u64);
    assert_eq!(flash["checkpoint"]["bytes"], 159_609_485_896_u64);
    assert_eq!(flash["kv_bytes_per_token"], 3514.25);
    let percent = |value: &serde_json::Value| (value.as_f64().expect("a number") * 1e4).round() / 100.0;
    assert_eq!(percent(&flash["ratio"]["kv"]), 7.31);
    assert_eq!(percent(&flash["ratio"]["flops"]), 10.16);
    let pro = json(&["inspect", "pro", "--json", "--context", "1000000"]);
    assert_eq!(pro["parameters"]["total"], 1_572_997_201_763_u64);
    assert_eq!(pro["checkpoint"]["bytes"], 864_704_792_696_u64);
    assert_eq!(pro["kv_bytes_per_token"], 5031.4375);
    assert_eq!(percent(&pro["ratio"]["kv"]), 10.47);
    assert_eq!(percent(&pro["ratio"]["flops"]), 27.02);
}

#[test]
fn text_becomes_ids_and_ids_become_text() {
    let ids = stdout(&["tokenize", "What is 1 + 2?"]);
    assert_eq!(stdout(&["tokenize", "--decode", ids.trim()]), "What is 1 + 2?\n");
    let control = stdout(&["tokenize", "<｜User｜>"]);
    let plain = stdout(&["tokenize", "<｜User｜>", "--plain"]);
    assert_eq!(control.matches(',').count(), 0, "one token: {control}");
    assert!(plain.matches(',').count() > 0, "text is not control: {plain}");
    assert!(error(&["tokenize", "--decode", "99999999"], 1).contains("does not exist"));
}

#[test]
fn a_synthetic_checkpoint_is_accepted_and_its_logits_do_not_depend_on_chunks() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = path(folder.path(), "model");
    let shape = ["synth", "--shape", "calf", "--layers", "3", "--vocab", "400", "--seed", "5", "-o", &model];
    assert!(cuvier(&shape).status.success());
    assert!(stdout(&["verify", "-m", &model, "--quick"]).contains("all whole"));
    let state = json(&["verify", "-m", &model, "--quick", "--state", "--isa", "auto", "--json"]);
    assert!(state["state"].as_object().expect("per instruction set").contains_key("scalar"));

    let ids: Vec<u32> = (0..150).map(|i| i * 37 % 400).collect();
    let file = path(folder.path(), "ids.json");
    std::fs::write(&file, format!("{ids:?}")).expect("ids are written");
    let (a, b) = (path(folder.path(), "a.safetensors"), path(folder.path(), "b.safetensors"));
    stdout(&["logits", "-m", &model, "--ids", &file, "-o", &a, "--probe", "layers.1.attn.out"]);
    let chunked = ["--chunk", "7", "--decode", "20", "--threads", "1", "--probe", "layers.1.attn.out"];
    stdout(&[&["logits", "-m", &model, "--ids", &file, "-o", &b], &chunked[..]].concat());
    assert_eq!(std::fs::read(&a).expect("written"), std::fs::read(&b).expect("written"));
    assert!(stdout(&["logits", "-m", &model, "--probe", "list"]).contains("layers.2.ffn.out"));

    assert!(error(&shape, 1).contains("model"), "a folder that is not empty is left alone");
}

#[test]
fn a_trace_has_a_line_per_step_and_two_experts_for_each_token_of_each_layer() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ids, trace) = (path(folder.path(), "ids.json"), path(folder.path(), "trace.jsonl"));
    std::fs::write(&ids, format!("{:?}", (10..30).collect::<Vec<u32>>())).expect("ids are written");
    stdout(&["logits", "--ids", &ids, "--chunk", "12", "--decode", "3", "--trace", &trace]);
    let text = std::fs::read_to_string(&trace).expect("a trace without logits");
    let steps: Vec<Vec<Vec<Vec<u16>>>> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let tokens: Vec<usize> = steps.iter().map(|layers| layers[0].len()).collect();
    assert_eq!(tokens, [12, 5, 1, 1, 1]);
    for (layers, tokens) in steps.iter().zip(tokens) {
        assert_eq!(layers.len(), 6);
        assert!(layers.iter().all(|layer| layer.len() == tokens));
        assert!(
            layers.iter().flatten().all(|experts| experts.len() == 2 && experts.iter().all(|&id| id < 16))
        );
    }
    let refused = cuvier(&["logits", "--ids", &ids]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn a_bench_reports_speeds_and_shares() {
    let report = json(&[
        "bench",
        "--prefill",
        "64",
        "--decode",
        "4",
        "--context",
        "0,300",
        "--slots",
        "1,2",
        "--repeat",
        "1",
        "--json",
    ]);
    let runs = report["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 5);
    for run in runs {
        assert!(run["tokens_per_s"].as_f64().expect("a speed") > 0.0);
        assert!(run["roof_share"].as_f64().expect("a share") > 0.0);
    }
    for roof in ["memory_gbps", "gflops", "int8_gops", "fp4_gops"] {
        assert!(report["machine"][roof].as_f64().expect("a rate") > 0.0, "{roof}");
    }
}

#[test]
fn a_folder_without_a_checkpoint_is_told_from_a_broken_one_and_a_cause_is_said_once() {
    let none = error(&["chat", "hi", "-m", "/nowhere"], 1);
    let want = "error: /nowhere/config.json: not there; a checkpoint is a folder that has it beside its \
                safetensors files\n";
    assert_eq!(none, want);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), "{\"vocab_size\"").expect("written");
    let broken = error(&["chat", "hi", "-m", &path(folder.path(), "")], 1);
    assert!(broken.starts_with("error: config.json: EOF"), "{broken}");
    assert_eq!(broken.matches("line 1 column").count(), 1, "{broken}");
}

#[test]
fn mistakes_get_one_message_and_their_exit_code() {
    assert!(error(&["chat", "hi", "-m", "/nowhere"], 1).contains("/nowhere"));
    assert!(error(&["synth", "--shape", "whale", "-o", "/tmp/never"], 1).contains("whale"));
    assert!(error(&["chat", "hi", "--isa", "neon"], 1).contains("neon"));
    assert!(error(&["chat", "hi", "--memory", "1MiB"], 1).contains("--memory"));
    assert!(error(&["logits", "--ids", "/nowhere.json", "-o", "/tmp/never"], 1).contains("/nowhere.json"));
    error(&["chat", "hi", "--temperature", "9"], 2);
    error(&["chat", "hi", "--think", "hard"], 2);
    error(&["fly"], 2);
    error(&["chat", "hi", "--memory", "lots"], 2);
}
