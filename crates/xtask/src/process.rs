//! Other programs, called so that a failure says which and why.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// What a program writes to stderr is quoted from its end, up to this many lines.
const QUOTED_LINES_MAX: usize = 12;

/// Runs a program that speaks to the terminal itself.
pub fn call(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("{command:?}");
    let status = command.status().map_err(|error| not_started(command, error))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// What a program writes to stdout.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().map_err(|error| not_started(command, error))?;
    if !status.success() {
        bail!("{command:?}: {status}\n{}", last_lines(&String::from_utf8_lossy(&stderr)));
    }
    String::from_utf8(stdout).with_context(|| format!("{command:?}: its output"))
}

/// The end of what a program said.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(QUOTED_LINES_MAX)..].join("\n")
}

fn not_started(command: &Command, error: std::io::Error) -> anyhow::Error {
    let program = OsStr::to_string_lossy(command.get_program());
    match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("`{program}` is needed and not there"),
        _ => anyhow::anyhow!("`{program}`: {error}"),
    }
}

/// A line of what the system knows of a running process, `VmRSS` or `VmHWM`, in bytes; 0 where it does not tell.
pub fn memory_of(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = output(&mut Command::new("no-such-program-anywhere")).expect_err("it is not there");
        assert_eq!(error.to_string(), "`no-such-program-anywhere` is needed and not there");
    }

    #[test]
    fn only_the_end_of_a_long_complaint_is_quoted() {
        let complaint: Vec<_> = (0..100).map(|line| line.to_string()).collect();
        let quoted = last_lines(&complaint.join("\n"));
        assert_eq!(quoted.lines().count(), QUOTED_LINES_MAX);
        assert!(quoted.ends_with("99"));
    }
}
