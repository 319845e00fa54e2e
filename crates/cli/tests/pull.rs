//! `cuvier pull`, and `cuvier verify` of what it brought, as their users see them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../hub/tests/server/mod.rs"]
mod server;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use server::{Fault, Hub};

/// The program, with the environment's hubs, tokens and proxies taken away.
fn cuvier(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuvier"));
    for name in ["CUVIER_HUB", "HF_ENDPOINT", "CUVIER_HUB_TOKEN", "HF_TOKEN", "HTTPS_PROXY"] {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn error(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A hub that has the calf.
fn calf() -> Hub {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    Hub::start(&names.map(|name| (name, fs::read(folder.join(name)).unwrap())))
}

#[test]
fn a_checkpoint_is_pulled_verified_broken_named_and_mended() {
    let hub = calf();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model").to_str().unwrap().to_owned();
    let pull = ["pull", "o/r", "--endpoint", &hub.address, "-o", &model];
    let told = stdout(&cuvier(&pull, &[]));
    assert!(told.contains(&format!("o/r at {}: 5 files", server::COMMIT)), "{told}");
    assert!(stdout(&cuvier(&["verify", "-m", &model], &[])).contains("all whole"));
    let again = stdout(&cuvier(&[&pull[..], &["--json"]].concat(), &[]));
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["fetched"], serde_json::json!([]));
    assert_eq!(again["files"].as_array().unwrap().len(), 5);

    let shard = Path::new(&model).join("model.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let told = error(&cuvier(&["verify", "-m", &model], &[]), 1);
    assert!(told.contains("model.safetensors: not as it was downloaded within bytes 0.."), "{told}");
    assert!(told.contains("which hold `") && told.contains("--recheck"), "{told}");
    stdout(&cuvier(&[&pull[..], &["--recheck"]].concat(), &[]));
    assert!(stdout(&cuvier(&["verify", "-m", &model], &[])).contains("all whole"));
}

#[test]
fn a_model_is_described_before_it_is_downloaded() {
    let hub = calf();
    let told = stdout(&cuvier(&["pull", "o/r", "--dry-run", "--json"], &[("CUVIER_HUB", &hub.address)]));
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(told["tensors"].as_u64().unwrap() > 100);
    assert!(told["download_bytes"].as_u64() > told["weight_bytes"].as_u64());
}

#[test]
fn without_a_hub_the_usage_is_wrong_and_told() {
    let told = error(&cuvier(&["pull", "o/r"], &[]), 2);
    assert!(
        told.contains("--endpoint") && told.contains("CUVIER_HUB") && told.contains("HF_ENDPOINT"),
        "{told}"
    );
    error(&cuvier(&["pull", "../r", "--endpoint", "http://127.0.0.1:1"], &[]), 2);
    error(&cuvier(&["pull", "o/r", "--endpoint", "ftp://127.0.0.1"], &[]), 2);
    error(&cuvier(&["pull", "o/r", "--endpoint", "http://127.0.0.1:1", "--connections", "0"], &[]), 2);
}

#[test]
fn the_token_is_sent_and_never_printed() {
    let hub = calf();
    hub.faults(|_, _| Some(Fault::Status(403, "")));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "from_file\n").unwrap();
    let out = folder.path().join("model");
    let pull = ["pull", "o/r", "--endpoint", &hub.address, "-o", out.to_str().unwrap()];
    let told = error(&cuvier(&pull, &[("HF_TOKEN", "hf_environment")]), 1);
    assert!(told.contains("403") && !told.contains("hf_environment"), "{told}");
    let with_file = [&pull[..], &["--token-file", file.to_str().unwrap()]].concat();
    let told = error(&cuvier(&with_file, &[("HF_TOKEN", "hf_environment")]), 1);
    assert!(!told.contains("from_file"), "{told}");
    let sent: Vec<_> = hub.seen().into_iter().filter_map(|seen| seen.authorization).collect();
    assert_eq!(sent, ["Bearer hf_environment", "Bearer from_file"]);
}
