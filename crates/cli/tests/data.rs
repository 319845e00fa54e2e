//! `cuvier data` as its users see it.

use std::path::Path;
use std::process::{Command, Output};

fn data(arguments: &[&str]) -> Output {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf/recipe/nano-data.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuvier"));
    command.args(["data", "--config"]).arg(recipe).args(arguments).output().expect("the program starts")
}

#[test]
fn data_is_written_once_and_again_only_by_force() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("data");
    let out_text = out.to_str().expect("UTF-8");
    let first = data(&["-o", out_text]);
    assert!(first.status.success() && first.stdout.is_empty(), "{}", String::from_utf8_lossy(&first.stderr));
    for name in ["train.jsonl", "held_out.jsonl", "tokenizer.json", "tokenizer_config.json", "data.json"] {
        assert!(out.join(name).exists(), "{name}");
    }
    let again = data(&["-o", out_text]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"));
    assert!(data(&["-o", out_text, "--force"]).status.success());
}

#[test]
fn show_prints_samples_one_a_line_and_no_folder_is_wrong_usage() {
    let shown = data(&["--show", "3"]);
    assert!(shown.status.success());
    let lines = String::from_utf8(shown.stdout).expect("UTF-8");
    assert_eq!(lines.lines().count(), 2 * 3);
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    assert_eq!(data(&[]).status.code(), Some(2));
}
