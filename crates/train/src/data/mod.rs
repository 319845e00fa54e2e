//! What a model is trained on: documents, made here or read from files.
//!
//! A [`Recipe`] says which samples; [`Making`] draws them, learns a tokenizer if asked to, and writes files; an
//! [`Encoder`] turns a [`Sample`] into a [`Document`], [`read_documents`] a whole file; [`Batches`] says which documents
//! are learned in which step. [`Sample::verdict`] judges another answer to a sample's question.
//!
//! **Invariant:** a sample is a function of the recipe and its number, a step of the seed and its number; no clock, no
//! state.
//! **Invariant:** what is held out follows from a hash of what is asked, so it is the same whatever the seed.
//! **Invariant:** the tokens that [`Encoder::question`] gives a model are a prefix of the document's.

mod batches;
mod bpe;
mod counts;
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
pub use counts::{Counts, Made};
pub use document::{Document, Encoder};
pub use error::{DataError, OptionError, SampleError};
pub use jsonl::{SampleFile, read_documents};
pub use making::Making;
pub use recipe::{Options, Recipe, Source, TokenizerChoice};
pub use rng::Rng;
pub use ruler::Ruler;
pub use sample::{Answer, Body, Call, Chat, Sample, Task, Think};
pub use split::Split;
pub use verdict::Verdict;
