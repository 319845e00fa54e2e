//! The reference implementation, where a Python has it: speed only, on weights of its own.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use super::cases::TINY;
use super::measure::{Tools, number, parse};
use crate::process::last_lines;

/// What the script answers when torch or transformers is absent or too old.
const ABSENT: i32 = 3;

/// What came of it.
pub enum Transformers {
    /// And why.
    NotRun(String),
    Run {
        versions: String,
        /// Tokens per second by name of the work, one of each round.
        speeds: Vec<(String, Vec<f64>)>,
    },
}

/// The answer of one process.
#[derive(Debug, PartialEq)]
struct Round {
    versions: String,
    speeds: Vec<(String, f64)>,
}

impl Transformers {
    /// Adds a round; once it was found absent it is not asked again.
    pub fn measure(&mut self, tools: &Tools, scripts: &Path) -> anyhow::Result<()> {
        if matches!(self, Self::NotRun(_)) {
            return Ok(());
        }
        let mut command = Command::new(&tools.python);
        command.arg(scripts.join("torch_eager.py")).arg(tools.checkpoint(&TINY).join("config.json"));
        command.arg(tools.threads.to_string()).stdin(Stdio::null());
        let answer = match command.output() {
            Ok(answer) => answer,
            Err(error) => {
                *self = Self::NotRun(format!("no Python: {error}"));
                return Ok(());
            }
        };
        let complaint = String::from_utf8_lossy(&answer.stderr);
        if answer.status.code() == Some(ABSENT) {
            *self = Self::NotRun(complaint.trim().to_owned());
            return Ok(());
        }
        if !answer.status.success() {
            bail!("{command:?}: {}\n{}", answer.status, last_lines(&complaint));
        }
        let round =
            parse_round(&String::from_utf8_lossy(&answer.stdout)).context("the output of torch_eager.py")?;
        self.add(round);
        Ok(())
    }

    fn add(&mut self, round: Round) {
        if let Self::Run { versions, speeds } = self {
            *versions = round.versions;
            for (name, speed) in round.speeds {
                match speeds.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, rounds)) => rounds.push(speed),
                    None => speeds.push((name, vec![speed])),
                }
            }
        }
    }
}

fn parse_round(text: &str) -> anyhow::Result<Round> {
    let document = parse(text)?;
    let versions = document.get("versions").and_then(Value::as_str).context("no `versions`")?;
    let speeds = document.get("tokens_per_s").and_then(Value::as_object).context("no `tokens_per_s`")?;
    let mut round = Round { versions: versions.to_owned(), speeds: Vec::new() };
    for name in speeds.keys() {
        round.speeds.push((name.clone(), number(&Value::Object(speeds.clone()), name)?));
    }
    Ok(round)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_gathered_by_name() {
        let text = r#"{"versions":"transformers 5.23.0","tokens_per_s":{"tiny prefill 512":400.5,"tiny decode 128":40}}"#;
        let mut all = Transformers::Run { versions: String::new(), speeds: Vec::new() };
        all.add(parse_round(text).expect("a round"));
        all.add(parse_round(&text.replace("400.5", "401")).expect("a round"));
        let Transformers::Run { versions, speeds } = all else { panic!("it was run") };
        assert_eq!(versions, "transformers 5.23.0");
        assert_eq!(speeds[0], ("tiny prefill 512".to_owned(), vec![400.5, 401.0]));
        assert_eq!(speeds[1], ("tiny decode 128".to_owned(), vec![40.0, 40.0]));
    }

    #[test]
    fn a_broken_answer_is_an_error() {
        assert!(parse_round("{}").is_err());
        assert!(parse_round(r#"{"versions":"a","tokens_per_s":{"b":"fast"}}"#).is_err());
    }
}
