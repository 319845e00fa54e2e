//! `server`: HTTP in, server-sent events out. OpenAI's chat, completions and responses, Anthropic's messages, the web
//! page.
//!
//! Door: [`App::new`] takes an engine and its tokenizer; [`serve`] answers connections until it is told to stop.
//!
//! A request goes down as `ask::Ask`, which every protocol is read into, and comes up as
//! `generation::Piece`s, which every protocol writes in its own way. Nothing in between knows a protocol.
//!
//! **Invariant:** an answer that is streamed and one that is not are written from the same pieces.
//! **Invariant:** a client that leaves frees its slot within one step: what streams owns the engine's ticket.
//! **Invariant:** no bytes from outside make it panic, and none are kept that no limit bounds.
//! **Absent on purpose:** tensors, layers, and any call to the outside.

#![forbid(unsafe_code)]

mod access;
mod anthropic;
mod app;
mod ask;
mod body;
mod config;
mod constraint;
mod error;
mod gate;
mod generation;
mod http;
mod lowering;
mod metrics;
mod openai;
mod page;
mod recall;
mod responses;
mod routes;
mod start;
mod thinking;
mod wire;

pub use app::App;
pub use config::ServerConfig;
pub use cuvier_engine::guide::VocabularyError;
pub use error::{ApiError, Protocol};
pub use http::serve;
