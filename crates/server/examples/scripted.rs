//! A server whose model says what its prompt tells it to, for clients that are to be tried: see `tests/scripted`.
//!
//! `cargo run -p cuvier-server --example scripted -- [requests at most]` prints its address.

#[path = "../tests/scripted/mod.rs"]
mod scripted;

use std::error::Error;
use std::sync::Arc;

use cuvier_encoding::Generation;
use cuvier_engine::{Engine, EngineConfig};
use cuvier_server::{App, ServerConfig};

/// Tokens of a prompt that are computed in one step: few, so that a slow prompt has many.
const BATCH_TOKENS_MAX: usize = 64;
/// As the released models have.
const CONTEXT_MAX: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false).init();
    let mut config = ServerConfig::new("scripted", Generation::Revised0731);
    if let Some(requests_max) = std::env::args().nth(1) {
        config.requests_max = requests_max.parse()?;
    }
    let engine_config = EngineConfig {
        batch_tokens_max: BATCH_TOKENS_MAX,
        sequences_max: config.requests_max,
        ..EngineConfig::default()
    };
    let engine = Engine::start(scripted::Scripted::new(CONTEXT_MAX), engine_config)?;
    let app = Arc::new(App::new(engine, scripted::tokenizer(), config)?);
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("http://{}", listener.local_addr()?);
        cuvier_server::serve(app, listener, std::future::pending()).await;
        Ok(())
    })
}
