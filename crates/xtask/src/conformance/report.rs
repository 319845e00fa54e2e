//! What the checks said, and the table of it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// How a check ended. Only the first counts as passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It could not be tried.
    NotRun,
}

/// One check.
#[derive(Clone, Debug)]
pub struct Line {
    number: u64,
    name: String,
    client: String,
    /// How it ended.
    pub outcome: Outcome,
    reason: String,
}

impl Line {
    /// A file that ended before its last check.
    pub fn broken_file(file: &str, said: &str) -> Self {
        Self {
            number: 0,
            name: format!("{file} ran to its end"),
            client: file.to_owned(),
            outcome: Outcome::Failed,
            reason: said.to_owned(),
        }
    }
}

/// The lines of a file's output; what is not one is passed over.
pub fn read(output: &str) -> Vec<Line> {
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let outcome = match value["result"].as_str()? {
            "passed" => Outcome::Passed,
            "not run" => Outcome::NotRun,
            _ => Outcome::Failed,
        };
        let (name, client) = (text("name")?, text("client")?);
        Some(Line { number: value["check"].as_u64()?, name, client, outcome, reason: text("reason")? })
    };
    output.lines().filter_map(line).collect()
}

/// The table, and the sums below it.
pub fn table(lines: &[Line]) -> String {
    let mut sorted: Vec<&Line> = lines.iter().collect();
    sorted.sort_by_key(|line| line.number);
    let mut text = String::from("| check | what | client | result |\n|---|---|---|---|\n");
    let mut sums: BTreeMap<Outcome, usize> = BTreeMap::new();
    for line in sorted {
        *sums.entry(line.outcome).or_default() += 1;
        let Line { number, name, client, outcome, reason } = line;
        let reason = reason.replace('|', "\\|").replace('\n', " ");
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        text.push_str(&format!("| {number} | {name} | {client} | {outcome}{because} |\n"));
    }
    let sums: Vec<_> = sums.iter().map(|(outcome, n)| format!("{n} {outcome}")).collect();
    text + &sums.join(", ") + "\n"
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}: {}", self.number, self.name, self.outcome, self.reason)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NotRun => "not run",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_was_not_run_is_not_counted_as_passed() {
        let line = |result: &str| {
            format!(r#"{{"check": 7, "name": "n", "client": "c", "result": "{result}", "reason": "a|b"}}"#)
        };
        let output = [line("passed"), "noise".to_owned(), line("not run"), line("odd")].join("\n");
        let table = table(&read(&output));
        assert!(table.ends_with("1 passed, 1 FAILED, 1 not run\n"), "{table}");
        assert!(table.contains("| 7 | n | c | not run: a\\|b |"), "{table}");
    }
}
