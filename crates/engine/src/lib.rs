//! `engine`: the step loop. Schedule, forward, sample, commit.
//!
//! Door: [`Engine::start`] takes a [`Model`] and gives an [`EngineHandle`]; [`EngineHandle::submit`] takes a
//! [`Request`] and gives an [`EventStream`]; [`EngineHandle::open`] gives a [`Conversation`] that remembers.
//!
//! **Invariant:** one thread per engine owns the model and the state of every sequence; the handle's channel is the
//! only way across, but for forks that the cache writes and reads on threads of its own. Several engines live in one
//! process without knowing of each other.
//! **Invariant:** the tokens of an answer are a function of its prompt, its [`SamplingParams`] and its [`Guide`] alone:
//! not of other sequences, of chunks, of forks, of cached prefixes, nor of what was saved and restored.
//! **Invariant:** every stream ends with exactly one last event; a sequence that fails, fails alone.
//! **Invariant:** a request is checked at the door; past it, it is valid.
//!
//! [`SamplingParams`]: cuvier_types::SamplingParams

#![forbid(unsafe_code)]

mod cache;
mod checksum;
mod conversation;
mod error;
pub mod guide;
mod handle;
mod keep;
mod model;
mod request;
pub mod sampler;
mod saved;
mod shelf;
mod step;
mod stream;
mod transformer;

#[cfg(fuzzing)]
pub use cache::fuzz_disk_header;
pub use cache::{CacheConfig, CacheStats, DiskCache};
pub use conversation::Conversation;
pub use cuvier_model::LayerReads;
pub use error::{CacheError, EngineError, RequestError, RestoreError, with_causes};
pub use guide::Guide;
pub use handle::{Engine, EngineConfig, EngineHandle};
pub use model::{Logits, Model, ReadReport, RollbackTooFar};
pub use request::Request;
pub use stream::{EventStream, Listener, Ticket, Timeout};
pub use transformer::TransformerModel;
