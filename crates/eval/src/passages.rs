//! Documents that a model reads: from a file, or made here.

use std::path::Path;

use cuvier_train::data::generators::{abstain, arithmetic, grammar, identity, recall, tools};
use cuvier_train::data::{
    Body, DataError, Document, Encoder, Rng, Ruler, Sample, SampleFile, Split, Task, Think,
};
use cuvier_types::TokenId;
use serde_json::{Map, Value, json};

use crate::EvalError;
use crate::questions::{asked, distinct};

/// A document, or a piece of a long text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// What it is for.
    pub task: Task,
    /// Its tokens, and which of them count.
    pub document: Document,
}

/// Documents, and what became of those that could not be taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Passages {
    /// In order; none is empty.
    pub list: Vec<Passage>,
    /// What was asked for, and how many conversations were left out because they are too long.
    pub asked: Map<String, Value>,
}

/// What the extension says that samples are in, one a line.
const SAMPLES: &str = "jsonl";

impl Passages {
    /// The documents of a file: of samples if its name ends with `.jsonl`, else one plain text. Of samples, the first
    /// `n` are taken.
    ///
    /// A text longer than `context` tokens is cut into pieces that each open with the begin of sentence; a longer
    /// conversation is left out.
    ///
    /// # Errors
    /// If the file cannot be read or written in this vocabulary, or nothing is left.
    pub fn read(
        file: &Path,
        n: Option<usize>,
        context: usize,
        encoder: Encoder<'_>,
    ) -> Result<Self, EvalError> {
        let is_samples = file.extension().is_some_and(|extension| extension == SAMPLES);
        let samples = if is_samples {
            SampleFile::open(file)?.take(n.unwrap_or(usize::MAX)).collect::<Result<_, _>>()?
        } else {
            let text = std::fs::read_to_string(file)
                .map_err(|source| DataError::Io { path: file.to_owned(), source })?;
            vec![Sample::text(Task::Text, text)]
        };
        let mut asked = Map::new();
        asked.insert("data".to_owned(), json!(file.display().to_string()));
        asked.insert("documents".to_owned(), json!(samples.len()));
        Self::new(samples, context, encoder, asked)
    }

    /// Held-out samples of tasks, `n` of each at most.
    ///
    /// # Errors
    /// If they cannot be written in this vocabulary, or nothing is left.
    pub fn made(n: usize, seed: u64, context: usize, encoder: Encoder<'_>) -> Result<Self, EvalError> {
        let mut asked = asked(n, seed);
        asked.insert("data".to_owned(), json!("made"));
        Self::new(drawn(n, seed, encoder), context, encoder, asked)
    }

    /// The tasks that there are passages of, in order of their first.
    #[must_use]
    pub fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for passage in &self.list {
            if !tasks.contains(&passage.task) {
                tasks.push(passage.task);
            }
        }
        tasks
    }

    fn new(
        samples: Vec<Sample>,
        context: usize,
        encoder: Encoder<'_>,
        mut asked: Map<String, Value>,
    ) -> Result<Self, EvalError> {
        let (mut list, mut too_long) = (Vec::new(), 0);
        for sample in samples {
            let (task, document) = (sample.task, encoder.document(&sample)?);
            if document.len() <= context {
                list.push(Passage { task, document });
            } else if matches!(sample.body, Body::Text(_)) {
                list.extend(pieces(&document, context).map(|document| Passage { task, document }));
            } else {
                too_long += 1;
            }
        }
        list.retain(|passage| passage.document.n_trained() > 0);
        asked.insert("context".to_owned(), json!(context));
        asked.insert("too_long".to_owned(), json!(too_long));
        if list.is_empty() {
            let from = asked["data"].as_str().unwrap_or_default().to_owned();
            return Err(EvalError::NoPassage { from, context_max: context });
        }
        Ok(Self { list, asked })
    }
}

/// Draws a sample.
type Draw<'a> = &'a dyn Fn(&mut Rng) -> Option<Sample>;

/// Every task but that of facts, which only a model knows that has learned them.
fn drawn(n: usize, seed: u64, encoder: Encoder<'_>) -> Vec<Sample> {
    let think = Think::ALL.to_vec();
    let ruler = Ruler::Tokenizer(encoder.tokenizer);
    let half = Split::HeldOut;
    let arithmetic = arithmetic::Options { think: think.clone(), ..Default::default() };
    let recall = recall::Options { think: think.clone(), ..Default::default() };
    let tools = tools::Options { think: think.clone(), ..Default::default() };
    let abstain = abstain::Options { think: think.clone(), ..Default::default() };
    let grammar = grammar::Options { think: think.clone(), ..Default::default() };
    let identity = identity::Options { think };
    let draws: [Draw<'_>; 6] = [
        &|rng| arithmetic::sample(rng, &arithmetic, half),
        &|rng| recall::sample(rng, &recall, half, ruler),
        &|rng| tools::sample(rng, &tools, half),
        &|rng| abstain::sample(rng, &abstain, half),
        &|rng| grammar::sample(rng, &grammar, half),
        &|rng| identity::sample(rng, &identity, half),
    ];
    (0..).zip(draws).flat_map(|(list, draw)| distinct(n, seed, list, draw)).collect()
}

/// A text in pieces of at most `context` tokens; no token is lost or counts twice.
fn pieces(document: &Document, context: usize) -> impl Iterator<Item = Document> + '_ {
    let begin: TokenId = document.tokens[0];
    document.tokens[1..].chunks(context.max(2) - 1).map(move |tokens| Document {
        tokens: std::iter::once(begin).chain(tokens.iter().copied()).collect(),
        trained: (0..=tokens.len()).map(|place| place > 0).collect(),
    })
}

#[cfg(test)]
mod tests {
    use cuvier_encoding::{Generation, Tokenizer};
    use cuvier_train::data::Chat;

    use super::*;

    fn tokenizer() -> Tokenizer {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf/tokenizer.json");
        Tokenizer::from_file(&file).expect("the calf's tokenizer")
    }

    #[test]
    fn a_text_is_cut_into_pieces_and_a_long_conversation_is_left_out() {
        let tokenizer = tokenizer();
        let encoder = Encoder { tokenizer: &tokenizer, generation: Generation::Revised0731 };
        let folder = tempfile::tempdir().expect("a folder");
        let text = folder.path().join("a.txt");
        std::fs::write(&text, "one two three ".repeat(50)).expect("written");
        let whole = Passages::read(&text, None, 10_000, encoder).expect("read");
        let cut = Passages::read(&text, None, 64, encoder).expect("read");
        let trained =
            |passages: &Passages| passages.list.iter().map(|p| p.document.n_trained()).sum::<usize>();
        assert_eq!(whole.list.len(), 1);
        assert!(cut.list.len() > 1 && cut.list.iter().all(|passage| passage.document.len() <= 64));
        assert_eq!(trained(&whole), trained(&cut));

        let lines = folder.path().join("b.jsonl");
        let chat = Chat::ask(Think::Off, "word ".repeat(100), String::new(), "yes".to_owned());
        let sample = Sample { task: Task::Chat, body: Body::Chat(chat), answer: None };
        std::fs::write(&lines, sample.to_line()).expect("written");
        assert_eq!(Passages::read(&lines, None, 10_000, encoder).expect("read").list.len(), 1);
        let error = Passages::read(&lines, None, 64, encoder).expect_err("nothing left");
        assert!(error.to_string().contains("b.jsonl"), "{error}");
    }

    #[test]
    fn passages_made_here_are_the_same_for_a_seed_and_of_every_task() {
        let tokenizer = tokenizer();
        let encoder = Encoder { tokenizer: &tokenizer, generation: Generation::Revised0731 };
        let made = |seed| Passages::made(2, seed, 4_096, encoder).expect("made");
        assert_eq!(made(1), made(1));
        assert_ne!(made(1).list, made(2).list);
        assert_eq!(made(1).tasks().len(), 6);
    }
}
