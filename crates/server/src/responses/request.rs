//! A request of responses: what it asks, and its answer started.

use serde_json::json;

use super::answer::{Items, Wire};
use super::items::read_input;
use super::tools::{Tools, read_choice};
use crate::ask::{Ask, Chat, Format, Subject};
use crate::body::Asked;
use crate::openai::{read_model, read_sampling};
use crate::routes::Answer;
use crate::wire::{Fields, event_stream};
use crate::{ApiError, thinking};

pub(crate) async fn answer(asked: Asked) -> Answer {
    let Wanted { ask, wire, stream } = read(&asked)?;
    let generation = match ask {
        Some(ask) => Some(asked.app.start(ask).await?),
        None => None,
    };
    let items = Items::new(wire, generation);
    if stream { Ok(event_stream(items)) } else { items.document(asked.app.config.blank_lines_after).await }
}

struct Wanted {
    /// Nothing, where nothing was asked: a client that warms up.
    ask: Option<Ask>,
    wire: Wire,
    stream: bool,
}

fn read(Asked { app, scope, body }: &Asked) -> Result<Wanted, ApiError> {
    let fields = Fields::of(body, "")?;
    refuse_stored(&fields)?;
    let (asked_model, model) = read_model(app, &fields)?;
    let applied = thinking::read(&fields, asked_model, app.config.thinking)?;
    let tools = Tools::read(&fields)?;
    let limit = match fields.integer("max_output_tokens")? {
        Some(0) => return Err(fields.refuse("max_output_tokens", "must be at least 1")),
        limit => limit.map(|limit| limit as usize),
    };
    let conversation = read_input(&fields)?;
    let format = read_format(&fields)?;
    let wire = Wire::new(&fields, model, applied, tools.clone())?;
    let chat = conversation.map(|conversation| {
        let chat = Chat {
            conversation,
            applied,
            tools: tools.tools,
            tool_choice: read_choice(&fields)?,
            parallel: fields.boolean("parallel_tool_calls")?.unwrap_or(true),
            format,
            call_prefix: "call_",
        };
        chat.finish()
    });
    let ask = match chat.transpose()? {
        None => None,
        Some(chat) => Some(Ask {
            subject: Subject::Chat(Box::new(chat)),
            sampling: read_sampling(app, &fields)?,
            max_tokens: limit,
            stop: Vec::new(),
            scope: *scope,
        }),
    };
    Ok(Wanted { ask, wire, stream: fields.boolean("stream")?.unwrap_or(false) })
}

/// What needs a store of earlier responses, which a server of open ends does not keep. Silence would lose history.
fn refuse_stored(fields: &Fields<'_>) -> Result<(), ApiError> {
    for key in ["previous_response_id", "conversation"] {
        if fields.get(key).is_some() {
            return Err(fields.refuse(key, "is not supported; replay the full input instead"));
        }
    }
    if fields.boolean("background")?.unwrap_or(false) {
        return Err(fields.refuse("background", "is not supported; stream the answer instead"));
    }
    Ok(())
}

/// `text.format`.
fn read_format(fields: &Fields<'_>) -> Result<Format, ApiError> {
    let text = fields.object("text")?;
    let Some(format) = text.map(|text| text.object("format")).transpose()?.flatten() else {
        return Ok(Format::Text);
    };
    match format.need_string("type")? {
        "text" => Ok(Format::Text),
        "json_object" => Ok(Format::JsonObject),
        "json_schema" => {
            let schema = format.get("schema").cloned().unwrap_or_else(|| json!({"type": "object"}));
            Ok(Format::JsonSchema { schema, strict: format.boolean("strict")?.unwrap_or(false) })
        }
        other => Err(format.refuse("type", format!("is unknown: `{other}`"))),
    }
}
