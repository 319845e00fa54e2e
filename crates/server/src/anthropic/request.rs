//! A request of messages: what it asks, and its answer started.

use serde_json::json;

use super::answer::Blocks;
use super::messages::{read_conversation, read_tool_choice, read_tools};
use crate::ask::{Ask, Chat, Format, Subject};
use crate::body::Asked;
use crate::openai::{read_sampling, read_stop};
use crate::routes::Answer;
use crate::wire::{Fields, event_stream, json_response};
use crate::{ApiError, thinking};

/// Of a request that does not say it, which Anthropic's own service refuses.
const MAX_TOKENS: usize = 32_000;

pub(crate) async fn answer(asked: Asked) -> Answer {
    let wanted = read(&asked)?;
    let app = asked.app;
    let shows_thinking = !wanted.omits_thinking;
    let generation = app.start(wanted.ask).await?;
    let blocks = Blocks::new(app.config.model.clone(), wanted.applied, shows_thinking, generation);
    if wanted.stream { Ok(event_stream(blocks)) } else { blocks.document().await }
}

/// How many tokens the prompt of a request has, without answering it.
pub(crate) async fn count_tokens(asked: Asked) -> Answer {
    let wanted = read(&asked)?;
    Ok(json_response(&json!({"input_tokens": asked.app.count(wanted.ask).await?})))
}

struct Wanted {
    ask: Ask,
    applied: thinking::Applied,
    omits_thinking: bool,
    stream: bool,
}

fn read(Asked { app, scope, body }: &Asked) -> Result<Wanted, ApiError> {
    let fields = Fields::of(body, "")?;
    // Clients of Anthropic's ask for its models by name; whichever is loaded answers.
    let model = fields.string("model")?.unwrap_or_default();
    let applied = thinking::read(&fields, model, app.config.thinking)?;
    let (tool_choice, parallel) = read_tool_choice(&fields)?;
    let chat = Chat {
        conversation: read_conversation(&fields)?,
        applied,
        tools: read_tools(&fields)?,
        tool_choice,
        parallel,
        format: read_format(&fields)?,
        call_prefix: "toolu_",
    };
    let display =
        fields.object("thinking")?.map(|thinking| thinking.string("display")).transpose()?.flatten();
    let max_tokens = match fields.integer("max_tokens")? {
        Some(0) => return Err(fields.refuse("max_tokens", "must be at least 1")),
        limit => limit.map_or(MAX_TOKENS, |limit| limit as usize),
    };
    let ask = Ask {
        subject: Subject::Chat(Box::new(chat.finish()?)),
        sampling: read_sampling(app, &fields)?,
        max_tokens: Some(max_tokens),
        stop: read_stop(&fields, "stop_sequences")?,
        scope: *scope,
    };
    let stream = fields.boolean("stream")?.unwrap_or(false);
    Ok(Wanted { ask, applied, omits_thinking: display == Some("omitted"), stream })
}

/// `output_config.format`.
fn read_format(fields: &Fields<'_>) -> Result<Format, ApiError> {
    let config = fields.object("output_config")?;
    let Some(format) = config.map(|config| config.object("format")).transpose()?.flatten() else {
        return Ok(Format::Text);
    };
    match format.need_string("type")? {
        "json_schema" => {
            let schema = format.get("schema").ok_or_else(|| format.refuse("schema", "is missing"))?;
            Ok(Format::JsonSchema { schema: schema.clone(), strict: true })
        }
        "json_object" => Ok(Format::JsonObject),
        "text" => Ok(Format::Text),
        other => Err(format.refuse("type", format!("is unknown: `{other}`"))),
    }
}
