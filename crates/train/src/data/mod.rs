//! What a model is trained on: documents, made here or read from files.

mod batches;
mod bpe;
mod document;
mod error;
pub mod generators;
mod jsonl;
mod making;
mod recipe;
mod rng;
mod ruler;
mod sample;
mod split;
pub mod text;
mod verdict;
mod words;

pub use batches::Batches;
pub use bpe::{TokenizerFiles, VOCAB_MIN};
pub use document::{Document, Encoder};
pub use error::{DataError, OptionError, SampleError};
pub use jsonl::{SampleFile, read_documents};
pub use making::{Counts, Made, Making};
pub use recipe::{Options, Recipe, Source, TokenizerChoice};
pub use rng::Rng;
pub use ruler::Ruler;
pub use sample::{Answer, Body, Call, Chat, Sample, Task, Think};
pub use split::Split;
pub use verdict::Verdict;
