//! What a run of GRPO is told: a TOML file, checked.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::raw::{RawHeldOut, RawOptimizer};
use super::read::optimizer;
use super::source::Source;
use crate::grpo::Policy;
use crate::optim::OptimizerOptions;

/// A run of GRPO.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpoConfig {
    /// The checkpoint to begin with, which is also the reference.
    pub from: PathBuf,
    /// The folder of prepared documents: questions are those that a verifier can judge.
    pub data: PathBuf,
    /// The folder for checkpoints and metrics.
    pub out: PathBuf,
    /// Steps.
    pub steps: u64,
    /// What chance follows from.
    pub seed: u64,
    /// Questions of a step.
    pub questions: usize,
    /// Answers to each.
    pub answers: usize,
    /// Tokens of an answer, at most.
    pub tokens_max: usize,
    /// Constants of the objective.
    pub policy: Policy,
    /// What answers are worth.
    pub reward: Reward,
    /// Held-out questions are asked after every so many steps.
    pub held_out_every_steps: u64,
    /// How many of them.
    pub held_out_questions: usize,
    /// Constants of the optimisers.
    pub optimizer: OptimizerOptions,
    /// Learning rate.
    pub rate: f32,
    /// Gradients are scaled down to this norm.
    pub clip: f64,
}

/// What answers are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reward {
    /// 1 if the verifier finds the answer right, else 0.
    Verifier,
    /// A coin for each: the control that must not teach anything.
    Random,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    from: Option<Spanned<String>>,
    data: Option<Spanned<String>>,
    out: Option<Spanned<String>>,
    steps: Option<Spanned<u64>>,
    seed: Option<Spanned<u64>>,
    questions: Option<Spanned<u64>>,
    answers: Option<Spanned<u64>>,
    tokens_max: Option<Spanned<u64>>,
    epsilon: Option<Spanned<f64>>,
    beta: Option<Spanned<f64>>,
    delta: Option<Spanned<f64>>,
    reward: Option<Spanned<String>>,
    #[serde(default)]
    held_out: RawHeldOut,
    #[serde(default)]
    optimizer: RawOptimizer,
}

impl GrpoConfig {
    /// Reads the text of a configuration; `file` is what errors call it.
    ///
    /// # Errors
    /// If it is not TOML, a key is unknown or missing, or a value is not possible; the error names file, line and key.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let source = Source { text, file };
        let raw: Raw = toml::from_str(text).map_err(|error| source.toml(&error))?;
        let (optimizer, rate, clip) = optimizer(&source, &raw.optimizer)?;
        let count = |key, value, default, most| -> Result<usize, ConfigError> {
            Ok(source.within(key, value, default, 1..=most)? as usize)
        };
        let reward = match &raw.reward {
            None => Reward::Verifier,
            Some(name) => match name.get_ref().as_str() {
                "verifier" => Reward::Verifier,
                "random" => Reward::Random,
                other => {
                    return Err(source.not_one_of("reward", name.span(), other, &["verifier", "random"]));
                }
            },
        };
        Ok(Self {
            from: source.folder("from", &raw.from, "the folder of a checkpoint to begin with")?,
            data: source.folder("data", &raw.data, "the folder of prepared documents")?,
            out: source.folder("out", &raw.out, "the folder for checkpoints and metrics")?,
            steps: source.within("steps", &raw.steps, 100, 1..=1 << 40)?,
            seed: raw.seed.as_ref().map_or(0, |seed| *seed.get_ref()),
            questions: count("questions", &raw.questions, 16, 1 << 20)?,
            answers: source.within("answers", &raw.answers, 8, 2..=1 << 12)? as usize,
            tokens_max: count("tokens_max", &raw.tokens_max, 64, 1 << 20)?,
            policy: Policy {
                epsilon: source.within("epsilon", &raw.epsilon, 0.2, 0.0..=100.0)? as f32,
                beta: source.within("beta", &raw.beta, 0.01, 0.0..=100.0)? as f32,
                delta: source.within("delta", &raw.delta, 0.5, 0.0..=100.0)? as f32,
            },
            reward,
            held_out_every_steps: source.within(
                "held_out.every_steps",
                &raw.held_out.every_steps,
                10,
                1..=1 << 40,
            )?,
            held_out_questions: count("held_out.questions", &raw.held_out.questions, 128, 1 << 20)?,
            optimizer,
            rate,
            clip,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "from = \"a\"\ndata = \"b\"\nout = \"c\"\n";

    #[test]
    fn a_configuration_needs_three_folders_and_has_a_value_for_all_else() {
        let config = GrpoConfig::parse(LEAST, "x.toml").expect("it is whole");
        assert_eq!((config.questions, config.answers, config.reward), (16, 8, Reward::Verifier));
        let error = GrpoConfig::parse("from = \"a\"\nout = \"c\"\n", "x.toml").expect_err("no data");
        assert!(error.to_string().contains("`data` is missing"), "{error}");
    }

    #[test]
    fn a_value_that_is_not_possible_is_named_with_its_line() {
        let error = |line: &str| {
            GrpoConfig::parse(&format!("{LEAST}{line}\n"), "x.toml").expect_err("not possible").to_string()
        };
        assert!(error("answers = 1").starts_with("x.toml:4: `answers` is 1"), "{}", error("answers = 1"));
        assert!(error("reward = \"love\"").contains("\"verifier\", \"random\""));
        assert!(error("anwsers = 2").contains("anwsers"));
    }
}
