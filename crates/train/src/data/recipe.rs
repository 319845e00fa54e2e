//! The config of `cuvier data`: which samples, how many, for which tokenizer.

use std::fs;
use std::path::{Path, PathBuf};

use cuvier_encoding::Generation;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::bpe::VOCAB_MIN;
use super::error::{DataError, OptionError};
use super::generators::{abstain, arithmetic, facts, grammar, identity, recall, tools};
use super::sample::Task;
use super::text;

/// A config that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What all samples follow from.
    pub seed: u64,
    /// Which release of the chat format tokens are counted in.
    pub generation: Generation,
    /// Which vocabulary.
    pub tokenizer: TokenizerChoice,
    /// What to make, in order.
    pub sources: Vec<Source>,
    /// The config's file, for errors.
    pub file: PathBuf,
    /// The SHA-256 of the config, in hexadecimal.
    pub sha256: String,
}

/// Which vocabulary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerChoice {
    /// The embedded model's.
    #[default]
    Embedded,
    /// That of the model in a folder; relative to the config.
    Model(PathBuf),
    /// A new one of so many tokens, learned from the samples to train on.
    #[serde(deserialize_with = "vocab_size")]
    Size(usize),
}

/// So many samples of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it begins in the config, from 1.
    pub line: usize,
    /// Samples to train on; of text, all pages if nothing is said.
    pub samples: Option<usize>,
    /// Samples to hold out; of text, all pages that are held out if nothing is said.
    pub held_out: Option<usize>,
    /// What they are like.
    pub options: Options,
}

/// What the samples of a source are like, by task.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named as its task")]
pub enum Options {
    Arithmetic(arithmetic::Options),
    Recall(recall::Options),
    Facts(facts::Options),
    Tools(tools::Options),
    Abstain(abstain::Options),
    Grammar(grammar::Options),
    Identity(identity::Options),
    Text(text::Options),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(default)]
    seed: u64,
    #[serde(default = "latest", deserialize_with = "generation")]
    generation: Generation,
    #[serde(default)]
    tokenizer: TokenizerChoice,
}

impl Recipe {
    /// Reads a config. Relative paths in it count from its folder; `text_folder` is where the pages of text sources
    /// are that name no `path`.
    ///
    /// # Errors
    /// If the file cannot be read, or as in [`parse`](Self::parse).
    pub fn read(file: &Path, text_folder: Option<&Path>) -> Result<Self, DataError> {
        let text =
            fs::read_to_string(file).map_err(|source| DataError::Io { path: file.to_owned(), source })?;
        Self::parse(&text, file, text_folder)
    }

    /// Takes the text of a config that is, or could be, in `file`.
    ///
    /// # Errors
    /// A key or value that should not be there, with its line.
    pub fn parse(text: &str, file: &Path, text_folder: Option<&Path>) -> Result<Self, DataError> {
        let config = |mut source: Error| {
            source.set_input(Some(text));
            DataError::Config { file: file.to_owned(), source: Box::new(source) }
        };
        let (head, sources) = split_sources(text).map_err(config)?;
        let mut head: Head = read(head).map_err(config)?;
        let folder = file.parent().unwrap_or(Path::new(""));
        if let TokenizerChoice::Model(model) = &mut head.tokenizer {
            *model = folder.join(&model);
        }
        let sources = sources
            .into_iter()
            .map(|table| {
                let line = text[..table.span().start].matches('\n').count() + 1;
                let mut source = Source::parse(table, line).map_err(config)?;
                let task = source.options.task();
                source.check().map_err(|source| DataError::Option {
                    file: file.to_owned(),
                    line,
                    task,
                    source,
                })?;
                if let Options::Text(options) = &mut source.options {
                    let path = options.path.as_ref().map(|path| folder.join(path));
                    let path = path.or_else(|| text_folder.map(Path::to_owned));
                    options.path = Some(path.ok_or(DataError::NoPath { file: file.to_owned(), line })?);
                }
                Ok(source)
            })
            .collect::<Result<_, _>>()?;
        let sha256 = hexadecimal_sha256(text.as_bytes());
        let Head { seed, generation, tokenizer } = head;
        Ok(Self { seed, generation, tokenizer, sources, file: file.to_owned(), sha256 })
    }
}

impl Source {
    fn parse(table: Spanned<DeTable<'_>>, line: usize) -> Result<Self, Error> {
        let span = table.span();
        let is_ours = |key: &str| matches!(key, "task" | "samples" | "held_out");
        let fields = table.into_inner().into_iter();
        let (ours, options): (Vec<_>, Vec<_>) = fields.partition(|(key, _)| is_ours(key.get_ref()));
        let Counts { task, samples, held_out } =
            read(Spanned::new(span.clone(), ours.into_iter().collect()))?;
        let options = Options::parse(task, Spanned::new(span, options.into_iter().collect()))?;
        Ok(Self { line, samples, held_out, options })
    }

    fn check(&self) -> Result<(), OptionError> {
        let is_text = matches!(self.options, Options::Text(_));
        OptionError::unless(is_text || self.samples.is_some(), "samples", "a number", &self.samples)?;
        self.options.check()
    }
}

/// What every source has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    task: MadeTask,
    samples: Option<usize>,
    held_out: Option<usize>,
}

/// The tasks that samples can be made for.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MadeTask {
    Arithmetic,
    Recall,
    Facts,
    Tools,
    Abstain,
    Grammar,
    Identity,
    Text,
}

impl Options {
    fn parse(task: MadeTask, table: Spanned<DeTable<'_>>) -> Result<Self, Error> {
        Ok(match task {
            MadeTask::Arithmetic => Self::Arithmetic(read(table)?),
            MadeTask::Recall => Self::Recall(read(table)?),
            MadeTask::Facts => Self::Facts(read(table)?),
            MadeTask::Tools => Self::Tools(read(table)?),
            MadeTask::Abstain => Self::Abstain(read(table)?),
            MadeTask::Grammar => Self::Grammar(read(table)?),
            MadeTask::Identity => Self::Identity(read(table)?),
            MadeTask::Text => Self::Text(read(table)?),
        })
    }

    /// The task of its samples.
    #[must_use]
    pub fn task(&self) -> Task {
        match self {
            Self::Arithmetic(_) => Task::Arithmetic,
            Self::Recall(_) => Task::Recall,
            Self::Facts(_) => Task::Facts,
            Self::Tools(_) => Task::Tools,
            Self::Abstain(_) => Task::Abstain,
            Self::Grammar(_) => Task::Grammar,
            Self::Identity(_) => Task::Identity,
            Self::Text(_) => Task::Text,
        }
    }

    fn check(&self) -> Result<(), OptionError> {
        match self {
            Self::Arithmetic(options) => options.check(),
            Self::Recall(options) => options.check(),
            Self::Facts(options) => options.check(),
            Self::Tools(options) => options.check(),
            Self::Abstain(options) => options.check(),
            Self::Grammar(options) => options.check(),
            Self::Identity(options) => options.check(),
            Self::Text(options) => options.check(),
        }
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(super) fn hexadecimal_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

type Table<'a> = Spanned<DeTable<'a>>;

/// The config without its sources, and these. They are read one by one and not as one enum, because serde would take
/// a tagged enum through a buffer that has forgotten where everything stands.
fn split_sources(text: &str) -> Result<(Table<'_>, Vec<Table<'_>>), Error> {
    let document = DeTable::parse(text)?;
    let span = document.span();
    let fields = document.into_inner().into_iter();
    let (sources, head): (Vec<_>, Vec<_>) = fields.partition(|(key, _)| key.get_ref() == "source");
    let mut tables = Vec::new();
    for (_, value) in sources {
        let DeValue::Array(items) = value.into_inner() else {
            return Err(Error::custom("`source` must be a list: write [[source]]"));
        };
        for item in items {
            let span = item.span();
            let DeValue::Table(table) = item.into_inner() else {
                return Err(Error::custom("`source` must be a list of tables: write [[source]]"));
            };
            tables.push(Spanned::new(span, table));
        }
    }
    Ok((Spanned::new(span, head.into_iter().collect()), tables))
}

fn read<'a, T: Deserialize<'a>>(table: Table<'a>) -> Result<T, Error> {
    T::deserialize(toml::Deserializer::from(table))
}

fn latest() -> Generation {
    Generation::Revised0731
}

fn generation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Generation, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn vocab_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let size = usize::deserialize(deserializer)?;
    if size < VOCAB_MIN {
        return Err(D::Error::custom(format!(
            "`size` must be at least {VOCAB_MIN}: bytes and control tokens"
        )));
    }
    Ok(size)
}

#[cfg(test)]
mod tests;
