//! Words that have a better one, and things that stand in the wrong place.

use super::Source;

/// Names of files that say nothing.
const EMPTY_NAMES: [&str; 4] = ["utils", "common", "misc", "helpers"];
/// The rooms where `unsafe` is allowed.
const UNSAFE_ROOMS: [&str; 3] = ["crates/kernels/", "crates/tensor/", "crates/weights/"];

/// Everything this file knows to look for.
pub fn check(sources: &[Source]) -> Vec<String> {
    let mut findings = kernels_without_tests(sources);
    for source in sources {
        let stem = source.path.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or("");
        if EMPTY_NAMES.contains(&stem) {
            findings.push(format!("{}: a file name that says nothing", source.path));
        }
        if source.path.ends_with(".rs") && !source.path.starts_with("crates/xtask/") {
            for (index, line) in source.code().iter().enumerate() {
                findings.extend(
                    check_line(source, line).map(|what| format!("{}:{}: {what}", source.path, index + 1)),
                );
            }
        }
    }
    findings
}

fn check_line(source: &Source, line: &str) -> Option<&'static str> {
    let text = line.trim_start();
    let is_comment = text.starts_with("//");
    let unsafe_allowed = UNSAFE_ROOMS.iter().any(|room| source.path.starts_with(room));
    if !source.path.starts_with("crates/cli/")
        && (text.contains("env::var") || text.contains("env::vars"))
        && !source.is_test()
    {
        return Some("the environment is read in `cli` only");
    }
    if !is_comment && !unsafe_allowed && text.contains("unsafe ") {
        return Some("`unsafe` outside kernels, tensor and weights");
    }
    if is_comment && ["TODO", "FIXME", "XXX", "HACK"].iter().any(|word| text.contains(word)) {
        return Some("an unfinished thought: open an issue");
    }
    if !source.is_test()
        && !is_comment
        && [".unwrap()", "todo!(", "unimplemented!(", "dbg!("].iter().any(|w| text.contains(w))
    {
        return Some("`expect` with a reason, or an error");
    }
    None
}

/// Folders of operations that lack a test file.
fn kernels_without_tests(sources: &[Source]) -> Vec<String> {
    let in_kernels = |source: &&Source| is_operation(&source.path);
    sources
        .iter()
        .filter(in_kernels)
        .filter(|source| {
            let folder = source.path.trim_end_matches("mod.rs");
            let tested_beside = sources.iter().any(|other| other.path == format!("{folder}tests.rs"));
            !tested_beside && !source.lines.iter().any(|line| line == "#[cfg(test)]")
        })
        .map(|source| format!("{}: an operation without tests", source.path))
        .collect()
}

/// `crates/kernels/src/NAME/mod.rs`, but for what tests share.
fn is_operation(path: &str) -> bool {
    let name = path.strip_prefix("crates/kernels/src/").and_then(|path| path.strip_suffix("/mod.rs"));
    name.is_some_and(|name| !name.contains('/') && name != "testing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, line: &str) -> Source {
        Source { path: path.to_owned(), lines: vec![line.to_owned()] }
    }

    #[test]
    fn what_stands_in_the_wrong_place_is_found() {
        let found = |path, line| check(&[source(path, line)]).len();
        assert_eq!(found("crates/model/src/a.rs", "    std::env::var(\"A\")"), 1);
        assert_eq!(found("crates/cli/src/a.rs", "    std::env::var(\"A\")"), 0);
        assert_eq!(found("crates/model/src/a.rs", "    unsafe { f() }"), 1);
        assert_eq!(found("crates/model/src/utils.rs", ""), 1);
        assert_eq!(found("crates/model/src/a.rs", "    x.unwrap();"), 1);
        assert_eq!(found("crates/kernels/src/new/mod.rs", ""), 1);
    }
}
