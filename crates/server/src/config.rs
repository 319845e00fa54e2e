//! How a server behaves. Nothing here changes an answer's logits.

use std::time::Duration;

use cuvier_encoding::{Generation, Thinking};

/// Everything that `cuvier serve` can be told, beyond model and engine.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The model's id, as `/v1/models` lists it.
    pub model: String,
    /// Further ids under which it answers.
    pub aliases: Vec<String>,
    /// Chat format of the checkpoint.
    pub generation: Generation,
    /// What a request that does not say it gets.
    pub thinking: Thinking,
    /// Of a request that does not say it.
    pub temperature: f32,
    /// Of a request that does not say it.
    pub top_p: f32,
    /// Keys that are let in; none: everybody is.
    pub api_keys: Vec<String>,
    /// Origins whose pages may read answers; `*` is all.
    pub cors: Vec<String>,
    /// Requests under way and waiting, together; the next is refused.
    pub requests_max: usize,
    /// Longest body, in bytes.
    pub body_max: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long a request may wait for its first token to be computed.
    pub queue_timeout: Duration,
    /// How long an answer that is not streamed may take before blank lines announce it.
    pub blank_lines_after: Duration,
    /// How long answers under way may go on after the server was told to stop.
    pub drain_timeout: Duration,
    /// Open connections; further ones wait.
    pub connections_max: usize,
    /// Writes prompts and answers to the log.
    pub log_prompts: bool,
}

impl ServerConfig {
    /// Defaults for a model of that id.
    pub fn new(model: impl Into<String>, generation: Generation) -> Self {
        Self {
            model: model.into(),
            aliases: Vec::new(),
            generation,
            thinking: Thinking::High,
            temperature: 1.0,
            top_p: 1.0,
            api_keys: Vec::new(),
            cors: Vec::new(),
            requests_max: 64,
            body_max: 32 << 20,
            body_timeout: Duration::from_secs(60),
            queue_timeout: Duration::from_secs(600),
            blank_lines_after: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(60),
            connections_max: 1024,
            log_prompts: false,
        }
    }
}
