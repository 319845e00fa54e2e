//! The options of an answer that protocols spell alike.

use cuvier_types::{SamplingParams, TokenId};
use serde_json::Value;

use crate::wire::{Fields, json_kind};
use crate::{ApiError, App};

const STOPS_MAX: usize = 16;
const SEED_BYTES: usize = 8;

/// The knobs that all protocols spell alike. Ranges are the engine's to check, by name.
///
/// # Errors
/// If one has the wrong kind, or biases a token that is not a number.
pub(crate) fn read_sampling(app: &App, fields: &Fields<'_>) -> Result<SamplingParams, ApiError> {
    let number = |key: &str, default: f32| fields.number(key).map(|number| number.unwrap_or(default));
    let top_k = match fields.get("top_k").and_then(Value::as_i64) {
        Some(-1) => 0,
        _ => fields.integer("top_k")?.unwrap_or(0).min(u64::from(u32::MAX)) as u32,
    };
    Ok(SamplingParams {
        temperature: number("temperature", app.config.temperature)?,
        // Some clients write 0 for "the likeliest only", which is what the smallest share keeps.
        top_p: number("top_p", app.config.top_p)?.max(f32::MIN_POSITIVE),
        top_k,
        min_p: number("min_p", 0.0)?,
        repetition_penalty: number("repetition_penalty", 1.0)?,
        presence_penalty: number("presence_penalty", 0.0)?,
        frequency_penalty: number("frequency_penalty", 0.0)?,
        logit_bias: read_bias(fields)?,
        seed: read_seed(fields)?,
        logprobs: None,
    })
}

/// `seed`, of either sign; without one, one that nobody knows.
fn read_seed(fields: &Fields<'_>) -> Result<u64, ApiError> {
    match fields.get("seed") {
        None => {
            let mut bytes = [0; SEED_BYTES];
            getrandom::fill(&mut bytes).expect("the system gives random bytes");
            Ok(u64::from_le_bytes(bytes))
        }
        Some(value) => {
            let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
            seed.ok_or_else(|| fields.refuse("seed", "must be a whole number of 64 bits"))
        }
    }
}

fn read_bias(fields: &Fields<'_>) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let Value::Object(map) = value else {
        return Err(fields.refuse("logit_bias", format!("must be an object, not {}", json_kind(value))));
    };
    let entry = |(token, bias): (&String, &Value)| {
        let token = token.parse().ok().map(TokenId);
        token.zip(bias.as_f64().map(|bias| bias as f32))
    };
    let entries: Option<Vec<_>> = map.iter().map(entry).collect();
    entries.ok_or_else(|| fields.refuse("logit_bias", "must give numbers to token ids"))
}

/// `stop`: a string, or up to 16.
///
/// # Errors
/// If it is anything else.
pub(crate) fn read_stop(fields: &Fields<'_>, key: &str) -> Result<Vec<String>, ApiError> {
    match fields.get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(stop)) => Ok(vec![stop.clone()]),
        Some(Value::Array(stops)) if stops.len() <= STOPS_MAX => {
            let texts: Option<Vec<_>> = stops.iter().map(|stop| stop.as_str().map(str::to_owned)).collect();
            texts.ok_or_else(|| fields.refuse(key, "must be a list of strings"))
        }
        Some(Value::Array(_)) => Err(fields.refuse(key, format!("must have at most {STOPS_MAX} strings"))),
        Some(other) => {
            Err(fields.refuse(key, format!("must be a string or a list, not {}", json_kind(other))))
        }
    }
}

/// The id of the model that is asked for, and of the one that answers; without a wish it is the one loaded.
///
/// # Errors
/// If no model answers to the id.
pub(crate) fn read_model<'a>(app: &'a App, fields: &Fields<'a>) -> Result<(&'a str, String), ApiError> {
    let asked = fields.string("model")?.unwrap_or(&app.config.model);
    let served = app.served(asked).ok_or_else(|| {
        fields.refuse("model", format!("is `{asked}`, which is not served here; `{}` is", app.config.model))
    })?;
    Ok((asked, served))
}

/// Whether usage is to come in a chunk of its own.
///
/// # Errors
/// If it is no boolean.
pub(super) fn read_include_usage(fields: &Fields<'_>) -> Result<bool, ApiError> {
    let Some(options) = fields.object("stream_options")? else { return Ok(false) };
    Ok(options.boolean("include_usage")?.unwrap_or(false))
}
