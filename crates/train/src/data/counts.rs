//! How much data there is: what `data.json` says.

use cuvier_encoding::Generation;
use serde_json::{Value, json};

use super::bpe::TokenizerFiles;
use super::document::Document;
use super::recipe::{Recipe, hexadecimal_sha256};
use super::sample::Task;

/// What a source became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its task.
    pub task: Task,
    /// What is trained on.
    pub train: Counts,
    /// What is held out.
    pub held_out: Counts,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Samples.
    pub samples: usize,
    /// Tokens of all samples.
    pub tokens: usize,
    /// Those of them that are learned.
    pub trained_tokens: usize,
    /// Tokens of the longest sample.
    pub longest: usize,
}

/// What `data.json` says.
pub(super) fn summary(recipe: &Recipe, made: &[Made], files: &TokenizerFiles, vocab_size: usize) -> Value {
    let source = |made: &Made| {
        json!({
            "task": made.task.name(), "train": made.train.to_json(), "held_out": made.held_out.to_json(),
        })
    };
    let total = |half: fn(&Made) -> &Counts| made.iter().map(half).fold(Counts::default(), Counts::with);
    json!({
        "seed": recipe.seed,
        "config_sha256": recipe.sha256,
        "generation": match recipe.generation {
            Generation::Preview => "preview",
            Generation::Revised0731 => "0731",
        },
        "tokenizer": { "vocab_size": vocab_size, "sha256": hexadecimal_sha256(&files.tokenizer) },
        "sources": made.iter().map(source).collect::<Vec<_>>(),
        "total": {
            "train": total(|made| &made.train).to_json(), "held_out": total(|made| &made.held_out).to_json(),
        },
    })
}

impl Counts {
    /// Counts one more document.
    pub(super) fn add(&mut self, document: &Document) {
        self.samples += 1;
        self.tokens += document.len();
        self.trained_tokens += document.n_trained();
        self.longest = self.longest.max(document.len());
    }

    fn with(self, other: &Self) -> Self {
        Self {
            samples: self.samples + other.samples,
            tokens: self.tokens + other.tokens,
            trained_tokens: self.trained_tokens + other.trained_tokens,
            longest: self.longest.max(other.longest),
        }
    }

    fn to_json(self) -> Value {
        json!({
            "samples": self.samples, "tokens": self.tokens, "trained_tokens": self.trained_tokens,
            "longest": self.longest,
        })
    }
}
