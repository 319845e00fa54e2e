//! `POST /chat/completions`.

use axum::extract::{Extension, Request, State};
use cuvier_types::SamplingParams;
use serde_json::Value;

use super::chat_answer::{Choices, Wire};
use super::messages::{read_format, read_messages, read_tool_choice, read_tools};
use super::{read_sampling, read_stop};
use crate::ask::{Ask, Chat, Subject};
use crate::routes::{Answer, Caller, Shared, read_json};
use crate::wire::{Fields, event_stream};
use crate::{ApiError, App, thinking};

/// Choices of one request.
const N_MAX: u64 = 8;
/// Likeliest tokens reported with each.
const TOP_LOGPROBS_MAX: u64 = 20;

pub(crate) async fn answer(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Answer {
    let app = shared.app;
    let body = read_json(&app, request).await?;
    let wanted = read(&app, &body, caller)?;
    app.check_n_answers(wanted.asks.len())?;
    let mut generations = Vec::with_capacity(wanted.asks.len());
    for ask in wanted.asks {
        generations.push(app.start(ask).await?);
    }
    let choices = Choices::new(app, generations, wanted.wire);
    if wanted.stream { Ok(event_stream(choices)) } else { choices.whole().await }
}

struct Wanted {
    /// One per choice.
    asks: Vec<Ask>,
    stream: bool,
    wire: Wire,
}

fn read(app: &App, body: &Value, caller: Caller) -> Result<Wanted, ApiError> {
    let fields = Fields::of(body, "")?;
    let asked_model = fields.string("model")?.unwrap_or(&app.config.model);
    let model = app.served(asked_model).ok_or_else(|| unknown_model(app, asked_model))?;
    let applied = thinking::read(&fields, asked_model, app.config.thinking)?;
    let chat = Chat {
        conversation: read_messages(&fields)?,
        applied,
        tools: read_tools(&fields)?,
        tool_choice: read_tool_choice(&fields)?,
        parallel: fields.boolean("parallel_tool_calls")?.unwrap_or(true),
        format: read_format(&fields)?,
        call_prefix: "call_",
    };
    let mut sampling = read_sampling(app, &fields)?;
    sampling.logprobs = read_logprobs(&fields)?;
    let (limit, n) = (read_limit(&fields)?, read_n(&fields)?);
    let options = fields.object("stream_options")?;
    let include_usage = options.map(|options| options.boolean("include_usage")).transpose()?.flatten();
    let wire = Wire {
        model,
        thinking: applied,
        logprobs: sampling.logprobs.is_some(),
        include_usage: include_usage.unwrap_or(false),
    };
    let ask = Ask {
        subject: Subject::Chat(Box::new(chat.finish()?)),
        sampling,
        max_tokens: limit,
        stop: read_stop(&fields, "stop")?,
        scope: caller.scope,
    };
    let stream = fields.boolean("stream")?.unwrap_or(false);
    Ok(Wanted { asks: each_choice(&ask, n), stream, wire })
}

/// Each choice draws from a seed of its own.
fn each_choice(ask: &Ask, n: u64) -> Vec<Ask> {
    let choice = |index: u64| {
        let seed = ask.sampling.seed.wrapping_add(index);
        Ask { sampling: SamplingParams { seed, ..ask.sampling.clone() }, ..ask.clone() }
    };
    (0..n).map(choice).collect()
}

/// The answer to an id that is not served.
pub(crate) fn unknown_model(app: &App, asked: &str) -> ApiError {
    ApiError::field("model", format!("`{asked}` is not served here; `{}` is", app.config.model))
}

/// `max_completion_tokens`, or `max_tokens` as it once was.
pub(super) fn read_limit(fields: &Fields<'_>) -> Result<Option<usize>, ApiError> {
    for key in ["max_completion_tokens", "max_tokens"] {
        match fields.integer(key)? {
            Some(0) => return Err(fields.refuse(key, "must be at least 1")),
            Some(limit) => return Ok(Some(limit as usize)),
            None => {}
        }
    }
    Ok(None)
}

pub(super) fn read_n(fields: &Fields<'_>) -> Result<u64, ApiError> {
    match fields.integer("n")?.unwrap_or(1) {
        n @ 1..=N_MAX => Ok(n),
        n => Err(fields.refuse("n", format!("must be 1 to {N_MAX}, not {n}"))),
    }
}

fn read_logprobs(fields: &Fields<'_>) -> Result<Option<u8>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    match (wanted, fields.integer("top_logprobs")?) {
        (true, n) if n.unwrap_or(0) <= TOP_LOGPROBS_MAX => Ok(Some(n.unwrap_or(0) as u8)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(fields.refuse("top_logprobs", "needs `logprobs: true`")),
        (true, _) => Err(fields.refuse("top_logprobs", format!("must be at most {TOP_LOGPROBS_MAX}"))),
    }
}
