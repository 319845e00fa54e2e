//! OpenAI's chat and completions, with DeepSeek's fields beside them.

pub(crate) mod chat;
mod chat_answer;
pub(crate) mod completions;
mod logprobs;
mod messages;
mod options;

use serde_json::{Value, json};

use crate::App;
use crate::generation::Usage;

pub(crate) use messages::read_content;
use options::read_include_usage;
pub(crate) use options::{read_model, read_sampling, read_stop};

/// Ids under which hosted models are known; whichever model is loaded answers to them.
const HOSTED: [&str; 4] = ["deepseek-v4-flash", "deepseek-v4-pro", "deepseek-chat", "deepseek-reasoner"];

impl App {
    /// The id that answers when `id` is asked for, if one does.
    pub(crate) fn served(&self, id: &str) -> Option<String> {
        let plain = id.strip_suffix("[1m]").unwrap_or(id);
        let own = &self.config.model;
        let is_known =
            plain == own || HOSTED.contains(&plain) || self.config.aliases.iter().any(|alias| alias == plain);
        is_known.then(|| own.clone())
    }

    /// What tells one set of weights and one version of the engine from another.
    pub(crate) fn system_fingerprint(&self) -> String {
        format!("fp_{}_{}", self.config.model, env!("CARGO_PKG_VERSION"))
    }
}

/// An entry of the list of models, which clients of both makers read.
pub(crate) fn model_entry(app: &App, id: &str) -> Value {
    let context = app.engine.context_max();
    json!({
        "id": id, "object": "model", "created": app.started, "owned_by": "cuvier",
        "type": "model", "display_name": id, "created_at": "1970-01-01T00:00:00Z",
        "context_length": context, "max_model_len": context, "max_output_tokens": context,
    })
}

/// `usage` as chat and completions have it.
pub(crate) fn usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_cache_hit_tokens": usage.cached,
        "prompt_cache_miss_tokens": usage.prompt - usage.cached,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}
