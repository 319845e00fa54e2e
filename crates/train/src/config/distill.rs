//! What a run of distillation is told: a TOML file, checked.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::raw::{RawHeldOut, RawOptimizer};
use super::read::optimizer;
use super::source::Source;
use crate::optim::OptimizerOptions;

/// A run of distillation.
#[derive(Clone, Debug, PartialEq)]
pub struct DistillConfig {
    /// The checkpoint to begin with.
    pub from: PathBuf,
    /// The folder for checkpoints and metrics.
    pub out: PathBuf,
    /// Steps.
    pub steps: u64,
    /// What chance follows from.
    pub seed: u64,
    /// Questions of a step, one answer to each.
    pub questions: usize,
    /// Tokens of an answer, at most.
    pub tokens_max: usize,
    /// Whom to learn from, each in its own domain.
    pub teachers: Vec<Teacher>,
    /// Held-out questions are asked after every so many steps.
    pub held_out_every_steps: u64,
    /// How many of them in each domain.
    pub held_out_questions: usize,
    /// Constants of the optimisers.
    pub optimizer: OptimizerOptions,
    /// Learning rate.
    pub rate: f32,
    /// Gradients are scaled down to this norm.
    pub clip: f64,
}

/// A model that knows a domain.
#[derive(Clone, Debug, PartialEq)]
pub struct Teacher {
    /// Its checkpoint, with the student's tokenizer.
    pub model: PathBuf,
    /// The folder of prepared documents whose questions it is asked.
    pub data: PathBuf,
    /// What its domain counts in the loss, and in the choice of questions. Weights are taken relative to their sum.
    pub weight: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    from: Option<Spanned<String>>,
    out: Option<Spanned<String>>,
    steps: Option<Spanned<u64>>,
    seed: Option<Spanned<u64>>,
    questions: Option<Spanned<u64>>,
    tokens_max: Option<Spanned<u64>>,
    #[serde(default)]
    teacher: Vec<RawTeacher>,
    #[serde(default)]
    held_out: RawHeldOut,
    #[serde(default)]
    optimizer: RawOptimizer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTeacher {
    model: Option<Spanned<String>>,
    data: Option<Spanned<String>>,
    weight: Option<Spanned<f64>>,
}

impl DistillConfig {
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
        if raw.teacher.is_empty() {
            return Err(source.missing("`[[teacher]]` is missing: whom to learn from"));
        }
        let teacher = |teacher: &RawTeacher| -> Result<Teacher, ConfigError> {
            Ok(Teacher {
                model: source.folder("teacher.model", &teacher.model, "the folder of a checkpoint")?,
                data: source.folder("teacher.data", &teacher.data, "the folder of prepared documents")?,
                weight: source.within("teacher.weight", &teacher.weight, 1.0, 1e-6..=1e6)?,
            })
        };
        let held_out = &raw.held_out;
        let every_steps = source.within("held_out.every_steps", &held_out.every_steps, 20, 1..=1 << 40)?;
        Ok(Self {
            from: source.folder("from", &raw.from, "the folder of a checkpoint to begin with")?,
            out: source.folder("out", &raw.out, "the folder for checkpoints and metrics")?,
            steps: source.within("steps", &raw.steps, 100, 1..=1 << 40)?,
            seed: raw.seed.as_ref().map_or(0, |seed| *seed.get_ref()),
            questions: count("questions", &raw.questions, 64, 1 << 20)?,
            tokens_max: count("tokens_max", &raw.tokens_max, 64, 1 << 20)?,
            teachers: raw.teacher.iter().map(teacher).collect::<Result<_, _>>()?,
            held_out_every_steps: every_steps,
            held_out_questions: count("held_out.questions", &held_out.questions, 128, 1 << 20)?,
            optimizer,
            rate,
            clip,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "from = \"a\"\nout = \"c\"\n[[teacher]]\nmodel = \"t\"\ndata = \"d\"\n";

    #[test]
    fn a_configuration_needs_two_folders_and_a_teacher() {
        let config = DistillConfig::parse(LEAST, "x.toml").expect("it is whole");
        assert_eq!((config.questions, config.teachers.len(), config.teachers[0].weight), (64, 1, 1.0));
        let error =
            DistillConfig::parse("from = \"a\"\nout = \"c\"\n", "x.toml").expect_err("nobody teaches");
        assert!(error.to_string().contains("`[[teacher]]` is missing"), "{error}");
        let error =
            DistillConfig::parse(&LEAST.replace("data = \"d\"\n", ""), "x.toml").expect_err("no data");
        assert!(error.to_string().contains("`teacher.data` is missing"), "{error}");
    }

    #[test]
    fn a_value_that_is_not_possible_is_named_with_its_line() {
        let error = |line: &str| {
            DistillConfig::parse(&format!("{LEAST}{line}\n"), "x.toml").expect_err("not possible").to_string()
        };
        assert!(
            error("weight = 0.0").starts_with("x.toml:6: `teacher.weight` is 0"),
            "{}",
            error("weight = 0.0")
        );
        assert!(error("wieght = 2").contains("wieght"));
    }
}
