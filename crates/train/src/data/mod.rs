//! What a model is trained on: documents, made here or read from files.

mod document;
mod error;
pub mod generators;
mod jsonl;
mod rng;
mod ruler;
mod sample;
mod split;
mod verdict;
mod words;

pub use document::{Document, Encoder};
pub use error::{DataError, OptionError, SampleError};
pub use jsonl::{SampleFile, read_documents};
pub use rng::Rng;
pub use ruler::Ruler;
pub use sample::{Answer, Body, Call, Chat, Sample, Task, Think};
pub use split::Split;
pub use verdict::Verdict;
