//! What a run of training is told: a TOML file, checked.

mod distill;
mod grpo;
mod preset;
mod raw;
mod read;
mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use cuvier_weights::{ModelConfig, Precision, WeightsError};
use serde_json::{Map, Value};

use crate::anticipation::AnticipationOptions;
use crate::optim::OptimizerOptions;
use crate::optim::schedule::ScheduleOptions;

pub use distill::{DistillConfig, Teacher};
pub use grpo::{GrpoConfig, Reward};
pub use preset::{Preset, Vocabulary};

/// A run of training. One that exists is consistent.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// The shape, where weights are made anew.
    pub model: ModelChoice,
    /// The checkpoint whose weights and shape the run begins with.
    pub from: Option<PathBuf>,
    /// The folder of prepared documents.
    pub data: PathBuf,
    /// The folder that checkpoints and metrics go to.
    pub out: PathBuf,
    /// How long.
    pub length: RunLength,
    /// What all random numbers follow from.
    pub seed: u64,
    /// Constants of the optimisers.
    pub optimizer: OptimizerOptions,
    /// Gradients are scaled down to this norm.
    pub clip: f64,
    /// What changes over the steps.
    pub schedule: ScheduleOptions,
    /// Weights of the losses beside that of the next token and MTP, which the schedule has.
    pub loss: LossWeights,
    /// Rounding in the forward pass. `None`: none.
    pub qat: Option<Qat>,
    /// Early choice of experts after a spike of the loss. `None`: never.
    pub anticipation: Option<AnticipationOptions>,
    /// A checkpoint is written after every so many steps; one is always written at the end.
    pub checkpoint_every_steps: u64,
    /// How the numbers of the finished model are written.
    pub precision: Precision,
}

/// A preset, and what is changed of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelChoice {
    /// The shape to start from.
    pub preset: Preset,
    /// Keys of `config.json` with other values.
    overrides: Map<String, Value>,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RunLength {
    /// Steps.
    Steps(u64),
    /// At least so many tokens.
    Tokens(u64),
    /// Time; the trainer measures the first steps and then fixes how many there will be.
    Minutes(f64),
}

/// Weights of losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossWeights {
    /// Balance of the experts within a sequence.
    pub balance: f32,
    /// Distance of the indexer's scores from the attention they stand for.
    pub indexer: f32,
}

/// Quantisation-aware training: weights are rounded in the forward pass as the checkpoint will have them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Qat {
    /// From this share of the steps on.
    pub begin: f64,
    /// Routed experts to FP4.
    pub experts: bool,
    /// What attention stores, as the official caches do: the indexer's queries and keys to FP4, all other keys to FP8.
    pub indexer: bool,
    /// All matrices that a release has in FP8, to FP8.
    pub linears: bool,
}

/// What is wrong in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {problem}", .line.map_or(String::new(), |line| format!(":{line}")))]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// Counted from 1; `None` where something is missing.
    pub line: Option<usize>,
    /// What is wrong with which key, and what it can be.
    pub problem: String,
}

impl TrainConfig {
    /// Reads the text of a configuration; `file` is what errors call it.
    ///
    /// # Errors
    /// If it is not TOML, a key is unknown or missing, or a value is not possible; the error names file, line and key
    /// and says what would be.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        read::read(text, file)
    }
}

impl ModelChoice {
    /// A preset as it is.
    pub fn preset(preset: Preset) -> Self {
        Self { preset, overrides: Map::new() }
    }

    /// The shape, for the vocabulary of a tokenizer.
    ///
    /// # Errors
    /// If the vocabulary or a changed key contradicts the rest; the error names the key.
    pub fn config(&self, vocabulary: Vocabulary) -> Result<ModelConfig, WeightsError> {
        const SOURCE: &str = "[model]";
        let preset = self.preset.config(vocabulary)?;
        let json = |source| WeightsError::Json { file: SOURCE.to_owned(), source };
        let mut keys: Map<String, Value> = serde_json::from_str(&preset.to_json()).map_err(json)?;
        for (key, value) in &self.overrides {
            keys.insert(key.clone(), value.clone());
        }
        ModelConfig::parse(&Value::Object(keys).to_string(), SOURCE)
    }
}
