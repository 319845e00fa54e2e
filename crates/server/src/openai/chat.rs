//! `POST /chat/completions`.

use super::chat_answer::{Choices, Wire};
use super::messages::{read_format, read_messages, read_tool_choice, read_tools};
use super::{read_include_usage, read_model, read_sampling, read_stop};
use crate::ask::{Ask, Chat, Subject};
use crate::body::Asked;
use crate::routes::Answer;
use crate::wire::{Fields, event_stream};
use crate::{ApiError, thinking};

/// Choices of one request.
const N_MAX: u64 = 8;
/// Likeliest tokens reported with each.
const TOP_LOGPROBS_MAX: u64 = 20;

pub(crate) async fn answer(asked: Asked) -> Answer {
    let wanted = read(&asked)?;
    asked.app.check_n_answers(wanted.n)?;
    let generations = asked.app.start_choices(wanted.ask, wanted.n).await?;
    let choices = Choices::new(asked.app, generations, wanted.wire);
    if wanted.stream { Ok(event_stream(choices)) } else { choices.document().await }
}

struct Wanted {
    ask: Ask,
    /// Choices.
    n: u64,
    stream: bool,
    wire: Wire,
}

fn read(Asked { app, scope, body }: &Asked) -> Result<Wanted, ApiError> {
    let fields = Fields::of(body, "")?;
    let (asked_model, model) = read_model(app, &fields)?;
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
    let wire = Wire {
        model,
        thinking: applied,
        logprobs: sampling.logprobs.is_some(),
        include_usage: read_include_usage(&fields)?,
    };
    let ask = Ask {
        subject: Subject::Chat(Box::new(chat.finish()?)),
        sampling,
        max_tokens: read_limit(&fields)?,
        stop: read_stop(&fields, "stop")?,
        scope: *scope,
    };
    let stream = fields.boolean("stream")?.unwrap_or(false);
    Ok(Wanted { ask, n: read_n(&fields)?, stream, wire })
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
