//! Which room may use which: arrows only point down.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// A room and the rooms that it may use. Tests and examples may also use what stands behind `|`.
const ROOMS: [(&str, &str); 13] = [
    ("cli", "server train eval engine encoding model hub weights types"),
    ("server", "encoding engine types"),
    ("train", "encoding engine model weights kernels tensor types"),
    ("eval", "train encoding engine model types | weights"),
    ("engine", "scheduler model types | encoding weights"),
    ("model", "weights kernels tensor types"),
    ("hub", "weights types"),
    ("weights", "tensor types"),
    ("kernels", "tensor"),
    ("scheduler", "types"),
    ("encoding", "types"),
    ("tensor", ""),
    ("types", ""),
];

/// Dependencies between rooms that the table does not allow.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for (room, uses) in ROOMS {
        let path = root.join("crates").join(room).join("Cargo.toml");
        let manifest = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        findings.extend(check_manifest(room, uses, &manifest));
    }
    Ok(findings)
}

fn check_manifest(room: &str, uses: &str, manifest: &str) -> Vec<String> {
    let (code, tests) = uses.split_once('|').unwrap_or((uses, ""));
    let mut findings = Vec::new();
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if let Some(dependency) = line.strip_prefix("cuvier-") {
            let name: String = dependency.chars().take_while(|c| c.is_ascii_lowercase()).collect();
            let in_tests = section == "[dev-dependencies]" && tests.split_whitespace().any(|t| t == name);
            if !in_tests && !code.split_whitespace().any(|used| used == name) {
                findings.push(format!("crates/{room}/Cargo.toml: {section} `{room}` may not use `{name}`"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_points_up_is_found() {
        let manifest = "[dependencies]\ncuvier-types.workspace = true\ncuvier-model.workspace = true\n";
        assert_eq!(check_manifest("encoding", "types", manifest).len(), 1);
        assert_eq!(check_manifest("encoding", "types model", manifest).len(), 0);
        assert_eq!(check_manifest("encoding", "types | model", manifest).len(), 1);
    }
}
