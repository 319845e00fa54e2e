//! A recipe carried out: samples drawn, a tokenizer learned or taken, files written.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use cuvier_encoding::{PromptOptions, Segment, Tokenizer, encode_conversation};

use super::bpe::TokenizerFiles;
use super::counts::{Counts, Made, summary};
use super::document::Encoder;
use super::error::DataError;
use super::generators::{abstain, arithmetic, facts, grammar, identity, recall, tools};
use super::recipe::{Options, Recipe, Source, TokenizerChoice};
use super::rng::Rng;
use super::ruler::Ruler;
use super::sample::{Body, Sample};
use super::split::Split;
use super::text::Pages;

/// A recipe whose pages of text are read.
#[derive(Debug)]
pub struct Making<'a> {
    recipe: &'a Recipe,
    /// By source; none but for text.
    pages: Vec<Option<Pages>>,
    embedded: TokenizerFiles,
}

/// Bytes that a tokenizer is learned from, about: more changes few merges.
const LEARNED_FROM_MAX: usize = 64 << 20;
const TRAIN: &str = "train.jsonl";
const HELD_OUT: &str = "held_out.jsonl";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SUMMARY: &str = "data.json";

impl<'a> Making<'a> {
    /// Reads what the recipe needs from outside. `embedded` is the tokenizer for a recipe that names none.
    ///
    /// # Errors
    /// If a folder of text cannot be read.
    pub fn new(recipe: &'a Recipe, embedded: TokenizerFiles) -> Result<Self, DataError> {
        let read = |source: &Source| match &source.options {
            Options::Text(options) => {
                let no_path = || DataError::NoPath { file: recipe.file.clone(), line: source.line };
                Pages::read(options.path.as_deref().ok_or_else(no_path)?, options).map(Some)
            }
            _ => Ok(None),
        };
        let pages = recipe.sources.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { recipe, pages, embedded })
    }

    /// The first `n` samples to train on of each source, distances measured by an estimate where the recipe learns a
    /// tokenizer of its own.
    ///
    /// # Errors
    /// If the options leave nothing to draw, or the tokenizer cannot be used.
    pub fn preview(&self, n: usize) -> Result<Vec<Sample>, DataError> {
        let files = match &self.recipe.tokenizer {
            TokenizerChoice::Size(_) => None,
            _ => Some(self.tokenizer_files()?),
        };
        let tokenizer = files.map(|files| files.load(Path::new(TOKENIZER))).transpose()?;
        let ruler = tokenizer.as_ref().map_or(Ruler::Estimate, Ruler::Tokenizer);
        let sources = 0..self.recipe.sources.len();
        sources.flat_map(|source| self.samples(source, Split::Train, ruler).take(n)).collect()
    }

    /// Writes `train.jsonl`, `held_out.jsonl`, the tokenizer and, last, `data.json` into `folder`. `report` hears of
    /// each source when it is written.
    ///
    /// # Errors
    /// If the folder holds files and `force` does not allow to overwrite them, a file cannot be written, the tokenizer
    /// cannot be learned or used, or the options leave nothing to draw.
    pub fn write(
        &self,
        folder: &Path,
        force: bool,
        report: &mut dyn FnMut(&Made),
    ) -> Result<Vec<Made>, DataError> {
        prepare(folder, force)?;
        let files = self.tokenizer_files()?;
        let tokenizer = files.load(&folder.join(TOKENIZER))?;
        write_file(folder, TOKENIZER, &files.tokenizer)?;
        write_file(folder, TOKENIZER_CONFIG, &files.config)?;
        let mut train = Lines::create(folder, TRAIN)?;
        let mut held_out = Lines::create(folder, HELD_OUT)?;
        let mut made = Vec::new();
        for source in 0..self.recipe.sources.len() {
            let one = Made {
                task: self.recipe.sources[source].options.task(),
                train: self.write_half(source, Split::Train, &tokenizer, &mut train)?,
                held_out: self.write_half(source, Split::HeldOut, &tokenizer, &mut held_out)?,
            };
            report(&one);
            made.push(one);
        }
        train.finish()?;
        held_out.finish()?;
        let summary = summary(self.recipe, &made, &files, tokenizer.vocab_size());
        write_file(folder, SUMMARY, format!("{summary:#}\n").as_bytes())?;
        Ok(made)
    }

    /// The samples of one half of a source: each follows from the seed, the source's place, the half and its number.
    fn samples<'b>(
        &'b self,
        index: usize,
        split: Split,
        ruler: Ruler<'b>,
    ) -> Box<dyn Iterator<Item = Result<Sample, DataError>> + Send + 'b> {
        let source = &self.recipe.sources[index];
        let asked = match split {
            Split::Train => source.samples,
            Split::HeldOut => source.held_out,
        };
        if let Some(pages) = &self.pages[index] {
            let n = asked.unwrap_or(usize::MAX).min(pages.len(split));
            return Box::new((0..n).filter_map(move |page| pages.sample(split, page)).map(Ok));
        }
        let list = 2 * index as u64 + u64::from(split == Split::HeldOut);
        Box::new((0..asked.unwrap_or(0) as u64).map(move |item| {
            let mut rng = Rng::of(self.recipe.seed, list, item);
            let exhausted =
                || DataError::Exhausted { task: source.options.task(), held_out: split == Split::HeldOut };
            draw(&source.options, &mut rng, split, ruler).ok_or_else(exhausted)
        }))
    }

    fn tokenizer_files(&self) -> Result<TokenizerFiles, DataError> {
        match &self.recipe.tokenizer {
            TokenizerChoice::Embedded => Ok(self.embedded.clone()),
            TokenizerChoice::Model(folder) => TokenizerFiles::of_model(folder),
            TokenizerChoice::Size(size) => TokenizerFiles::train(self.texts()?.into_iter(), *size),
        }
    }

    /// The text that a tokenizer is learned from: of all sources alike, what the model will read.
    fn texts(&self) -> Result<Vec<String>, DataError> {
        let each_max = LEARNED_FROM_MAX / self.recipe.sources.len().max(1);
        let mut texts = Vec::new();
        for source in 0..self.recipe.sources.len() {
            let mut bytes = 0;
            let mut samples = self.samples(source, Split::Train, Ruler::Estimate);
            while let (true, Some(sample)) = (bytes < each_max, samples.next()) {
                let sample_texts = self.sample_texts(&sample?)?;
                bytes += sample_texts.iter().map(String::len).sum::<usize>();
                texts.extend(sample_texts);
            }
        }
        Ok(texts)
    }

    fn sample_texts(&self, sample: &Sample) -> Result<Vec<String>, DataError> {
        let chat = match &sample.body {
            Body::Text(text) => return Ok(vec![text.clone()]),
            Body::Chat(chat) => chat,
        };
        let options = PromptOptions { generation: self.recipe.generation, thinking: chat.think.into() };
        let prompt = encode_conversation(&chat.conversation, options)
            .map_err(|source| DataError::Sample { task: sample.task, source: source.into() })?;
        let texts = prompt.segments().iter().filter_map(|segment| match segment {
            Segment::Text(text) => Some(text.clone()),
            Segment::Control(_) | Segment::Sampled(_) => None,
        });
        Ok(texts.collect())
    }

    fn write_half(
        &self,
        source: usize,
        split: Split,
        tokenizer: &Tokenizer,
        lines: &mut Lines,
    ) -> Result<Counts, DataError> {
        let encoder = Encoder { tokenizer, generation: self.recipe.generation };
        let mut counts = Counts::default();
        for sample in self.samples(source, split, Ruler::Tokenizer(tokenizer)) {
            let sample = sample?;
            let document = encoder
                .document(&sample)
                .map_err(|source| DataError::Sample { task: sample.task, source })?;
            counts.add(&document);
            lines.push(&sample.to_line())?;
        }
        Ok(counts)
    }
}

fn draw(options: &Options, rng: &mut Rng, split: Split, ruler: Ruler<'_>) -> Option<Sample> {
    match options {
        Options::Arithmetic(options) => arithmetic::sample(rng, options, split),
        Options::Recall(options) => recall::sample(rng, options, split, ruler),
        Options::Facts(options) => facts::sample(rng, options, split),
        Options::Tools(options) => tools::sample(rng, options, split),
        Options::Abstain(options) => abstain::sample(rng, options, split),
        Options::Grammar(options) => grammar::sample(rng, options, split),
        Options::Identity(options) => identity::sample(rng, options, split),
        // Pages are not drawn.
        Options::Text(_) => None,
    }
}

/// A folder to write into. Its old summary goes first: a folder that has one is complete.
fn prepare(folder: &Path, force: bool) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(io)?;
    let is_empty = fs::read_dir(folder).map_err(io)?.next().is_none();
    if !is_empty && !force {
        return Err(DataError::NotEmpty { path: folder.to_owned() });
    }
    let summary = folder.join(SUMMARY);
    if summary.exists() {
        fs::remove_file(&summary).map_err(|source| DataError::Io { path: summary, source })?;
    }
    Ok(())
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), DataError> {
    let path = folder.join(name);
    fs::write(&path, bytes).map_err(|source| DataError::Io { path, source })
}

/// A file that grows line by line.
struct Lines {
    path: std::path::PathBuf,
    file: BufWriter<File>,
}

impl Lines {
    fn create(folder: &Path, name: &str) -> Result<Self, DataError> {
        let path = folder.join(name);
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file: BufWriter::new(file) }),
            Err(source) => Err(DataError::Io { path, source }),
        }
    }

    fn push(&mut self, line: &str) -> Result<(), DataError> {
        writeln!(self.file, "{line}").map_err(|source| DataError::Io { path: self.path.clone(), source })
    }

    fn finish(mut self) -> Result<(), DataError> {
        self.file.flush().map_err(|source| DataError::Io { path: self.path, source })
    }
}

#[cfg(test)]
mod tests;
