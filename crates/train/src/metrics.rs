//! The numbers of a run, one line of JSON per step.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

/// One step. Numbers that are not finite are `null` in the file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Which, from 0.
    pub step: u64,
    /// Tokens seen up to and with it.
    pub tokens: u64,
    /// What the step's batch lost, in nats per token.
    pub loss: Losses,
    /// Loss on documents that are not trained on, in nats per token, where it was measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Learning rate.
    #[serde(deserialize_with = "number")]
    pub rate: f64,
    /// Norm of all gradients before they were clipped.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// [`crate::routers::max_violation`] of layers that route by score, mean over the layers.
    #[serde(deserialize_with = "number")]
    pub max_violation: f64,
    /// The same of hash layers, which nothing balances.
    #[serde(deserialize_with = "number")]
    pub max_violation_hash: f64,
    /// Whether weights of some steps before chose the experts: see [`crate::anticipation::Anticipation`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_anticipated: bool,
    /// Tokens of the step by its seconds.
    #[serde(deserialize_with = "number")]
    pub tokens_per_second: f64,
    /// Seconds since the run, or this part of it, began.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
}

/// Parts of the loss, before their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// Of all parts with their weights.
    #[serde(deserialize_with = "number")]
    pub total: f64,
    /// Of the next token.
    #[serde(deserialize_with = "number")]
    pub next: f64,
    /// Of the token after the next, by the MTP block.
    #[serde(deserialize_with = "number")]
    pub mtp: f64,
    /// Of unbalanced experts within a sequence; 1 is balance.
    #[serde(deserialize_with = "number")]
    pub balance: f64,
    /// Of the indexer against the attention it stands for.
    #[serde(deserialize_with = "number")]
    pub indexer: f64,
}

/// Why metrics could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The operating system refused.
    #[error("{}: {doing}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A line is not the metrics of a step.
    #[error("{}:{line}: {source}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Why not.
        source: serde_json::Error,
    },
}

/// A file that a run appends to.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the file of a run that makes `step` next. What an earlier part of the run wrote of this step and later
    /// ones is dropped: it will be made again.
    ///
    /// # Errors
    /// If a line is not the metrics of a step, or the disk refuses.
    pub fn open(path: &Path, step: u64) -> Result<Self, MetricsError> {
        let mut kept = read_metrics(path)?;
        kept.retain(|metrics| metrics.step < step);
        let part = path.with_extension("part");
        let error = |doing| move |source| MetricsError::Io { file: path.to_owned(), doing, source };
        let file = File::create(&part).map_err(error("creating"))?;
        let mut log = Self { path: path.to_owned(), file };
        for metrics in kept {
            log.append(&metrics)?;
        }
        fs::rename(&part, path).map_err(error("renaming into place"))?;
        Ok(log)
    }

    /// Adds a step. It is in the file, and every reader sees it, when this returns.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<(), MetricsError> {
        let error = |source| MetricsError::Io { file: self.path.clone(), doing: "appending", source };
        let mut line = serde_json::to_vec(metrics).map_err(io::Error::from).map_err(error)?;
        line.push(b'\n');
        // One write, so that a run that is cut off leaves at most one broken line.
        self.file.write_all(&line).and_then(|()| self.file.flush()).map_err(error)
    }
}

/// The steps in a file, in its order; none if it is not there. A last line without an end, which a run that was cut
/// off leaves, is not one of them.
///
/// # Errors
/// If the file cannot be read, or a line is not the metrics of a step.
pub fn read_metrics(path: &Path) -> Result<Vec<StepMetrics>, MetricsError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(MetricsError::Io { file: path.to_owned(), doing: "reading", source }),
    };
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let parse = |(index, line)| {
        serde_json::from_str(line).map_err(|source| MetricsError::Line {
            file: path.to_owned(),
            line: index + 1,
            source,
        })
    };
    lines.enumerate().map(parse).collect()
}

/// `null` stands for what JSON has no number for.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn step(step: u64) -> StepMetrics {
        let loss = 5.0 / (1.0 + step as f64);
        StepMetrics {
            step,
            tokens: 100 * (step + 1),
            loss: Losses { total: 1.3 * loss, next: loss, mtp: loss, balance: 1.0, indexer: 0.1 },
            validation: step.is_multiple_of(2).then_some(loss + 0.1),
            rate: 1e-3,
            grad_norm: 0.7,
            max_violation: 0.5,
            max_violation_hash: 0.9,
            is_anticipated: step == 3,
            tokens_per_second: 1e4,
            seconds: 0.01 * step as f64,
        }
    }

    #[test]
    fn a_run_that_goes_on_drops_the_steps_it_makes_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, 0).expect("opens");
        for at in 0..5 {
            log.append(&step(at)).expect("appended");
            assert_eq!(read_metrics(&path).expect("read").len() as u64, at + 1);
        }
        // Cut off within a line.
        fs::write(&path, fs::read_to_string(&path).expect("text") + "{\"step\": 5, ").expect("written");
        let mut log = MetricsLog::open(&path, 3).expect("opens");
        log.append(&StepMetrics { seconds: 9.0, ..step(3) }).expect("appended");
        let read = read_metrics(&path).expect("read");
        assert_eq!(read, [step(0), step(1), step(2), StepMetrics { seconds: 9.0, ..step(3) }]);
    }

    #[test]
    fn what_is_no_number_is_read_as_none_and_a_broken_line_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics.jsonl");
        assert_eq!(read_metrics(&path).expect("nothing"), []);
        let mut log = MetricsLog::open(&path, 0).expect("opens");
        log.append(&StepMetrics { grad_norm: f64::INFINITY, ..step(0) }).expect("appended");
        assert!(read_metrics(&path).expect("read")[0].grad_norm.is_nan());
        fs::write(&path, "{}\n").expect("written");
        let error = read_metrics(&path).expect_err("not a step").to_string();
        assert!(error.ends_with("metrics.jsonl:1: missing field `step` at line 1 column 2"), "{error}");
    }
}
