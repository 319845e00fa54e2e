//! Whether the model thinks, and how hard: every spelling that clients use, one meaning.

use cuvier_encoding::Thinking;
use serde_json::Value;

use crate::ApiError;
use crate::wire::{Fields, json_kind};

/// What was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Off, or how hard.
    pub thinking: Thinking,
    /// The most tokens of reasoning, if the client set a budget.
    pub budget: Option<usize>,
}

impl Applied {
    /// The name that is echoed: `off`, `low`, `high` or `max`.
    pub fn name(self) -> &'static str {
        match self.thinking {
            Thinking::Off => "off",
            Thinking::Low => "low",
            Thinking::High => "high",
            Thinking::Max => "max",
        }
    }

    /// Whether the model thinks at all.
    pub fn is_on(self) -> bool {
        self.thinking != Thinking::Off
    }
}

/// What one spelling says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wish {
    on: Option<bool>,
    effort: Option<Thinking>,
    budget: Option<usize>,
}

/// Reads every spelling in a request. A switch that says off wins over any effort; an effort turns thinking on.
///
/// `model` is the id that was asked for: `deepseek-chat` never thinks, `deepseek-reasoner` always.
///
/// # Errors
/// If a spelling has a value that it cannot have.
pub fn read(fields: &Fields<'_>, model: &str, default: Thinking) -> Result<Applied, ApiError> {
    let wishes = [
        of_thinking(fields)?,
        of_switches(fields)?,
        of_mode(fields)?,
        of_effort(fields, "reasoning_effort")?,
        of_object(fields, "reasoning")?,
        of_object(fields, "output_config")?,
    ];
    let off = |effort: &Option<Thinking>| *effort == Some(Thinking::Off);
    let alias = match model {
        "deepseek-chat" => Some(false),
        "deepseek-reasoner" => Some(true),
        _ => None,
    };
    let is_off = wishes.iter().any(|wish| wish.on == Some(false) || off(&wish.effort));
    let is_on = wishes.iter().any(|wish| wish.on == Some(true));
    let effort = wishes.iter().find_map(|wish| wish.effort.filter(|&effort| effort != Thinking::Off));
    let budget = wishes.iter().find_map(|wish| wish.budget);
    let default_effort = if default == Thinking::Off { Thinking::High } else { default };
    let thinking = match (is_off, effort, is_on, alias) {
        (true, ..) | (false, None, false, Some(false)) => Thinking::Off,
        (false, Some(effort), ..) => effort,
        (false, None, true, _) | (false, None, false, Some(true)) => default_effort,
        (false, None, false, None) => default,
    };
    Ok(Applied { thinking, budget: budget.filter(|_| thinking != Thinking::Off) })
}

/// `thinking`: `{type, budget_tokens}`, or a boolean.
fn of_thinking(fields: &Fields<'_>) -> Result<Wish, ApiError> {
    match fields.get("thinking") {
        None => Ok(Wish::default()),
        Some(Value::Bool(on)) => Ok(Wish { on: Some(*on), ..Wish::default() }),
        Some(value) => {
            let object = Fields::of(value, fields.path("thinking"))?;
            let on = match object.string("type")? {
                None => None,
                Some("disabled" | "none" | "off") => Some(false),
                Some("enabled" | "adaptive" | "between_tools" | "auto" | "on") => Some(true),
                Some(other) => return Err(object.refuse("type", format!("is unknown: `{other}`"))),
            };
            let budget = object.integer("budget_tokens")?.map(|n| n as usize);
            Ok(Wish { on, effort: effort(&object, "effort")?, budget })
        }
    }
}

/// `enable_thinking` and its relatives, at the top or in `chat_template_kwargs`; `think`, which may be an effort.
fn of_switches(fields: &Fields<'_>) -> Result<Wish, ApiError> {
    let mut wish = Wish::default();
    let kwargs = fields.object("chat_template_kwargs")?;
    for (place, keys) in
        [(Some(fields), &["enable_thinking"][..]), (kwargs.as_ref(), &["thinking", "enable_thinking"][..])]
    {
        for key in keys {
            wish.on = wish.on.or(place.map(|place| place.boolean(key)).transpose()?.flatten());
        }
    }
    match fields.get("think") {
        Some(Value::Bool(on)) => wish.on = wish.on.or(Some(*on)),
        Some(_) => wish.effort = effort(fields, "think")?,
        None => {}
    }
    for key in ["thinking_budget", "max_thinking_tokens"] {
        wish.budget = wish.budget.or(fields.integer(key)?.map(|n| n as usize));
    }
    Ok(wish)
}

/// `mode`: `fast` or `expert`, as DeepSeek's own pages name them.
fn of_mode(fields: &Fields<'_>) -> Result<Wish, ApiError> {
    let on = match fields.get("mode").and_then(Value::as_str) {
        Some("fast") => Some(false),
        Some("expert") => Some(true),
        _ => None,
    };
    Ok(Wish { on, ..Wish::default() })
}

fn of_effort(fields: &Fields<'_>, key: &str) -> Result<Wish, ApiError> {
    Ok(Wish { effort: effort(fields, key)?, ..Wish::default() })
}

/// `reasoning: {effort, enabled, max_tokens}` and `output_config: {effort}`.
fn of_object(fields: &Fields<'_>, key: &str) -> Result<Wish, ApiError> {
    let Some(object) = fields.object(key)? else { return Ok(Wish::default()) };
    Ok(Wish {
        on: object.boolean("enabled")?,
        effort: effort(&object, "effort")?,
        budget: object.integer("max_tokens")?.map(|n| n as usize),
    })
}

/// An effort by name, or as V4.1's number from 1 to 100.
fn effort(fields: &Fields<'_>, key: &str) -> Result<Option<Thinking>, ApiError> {
    let thinking = match fields.get(key) {
        None => return Ok(None),
        Some(Value::String(name)) => match name.as_str() {
            "none" | "off" | "disabled" => Thinking::Off,
            "minimal" | "low" => Thinking::Low,
            "medium" | "high" | "xhigh" | "auto" => Thinking::High,
            "max" | "ultra" => Thinking::Max,
            other => {
                let what = format!("must be none, minimal, low, medium, high, xhigh or max, not `{other}`");
                return Err(fields.refuse(key, what));
            }
        },
        Some(Value::Number(_)) => match fields.integer(key)? {
            Some(0) => Thinking::Off,
            Some(1..=25) => Thinking::Low,
            Some(26..=75) => Thinking::High,
            Some(76..=100) => Thinking::Max,
            _ => return Err(fields.refuse(key, "must be 0 to 100")),
        },
        Some(other) => return Err(fields.refuse(key, format!("must be a string, not {}", json_kind(other)))),
    };
    Ok(Some(thinking))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    fn applied(request: Value, model: &str) -> &'static str {
        read(&Fields::of(&request, "").unwrap(), model, Thinking::High).unwrap().name()
    }

    #[test]
    fn every_spelling_of_off_is_off() {
        for request in [
            json!({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}),
            json!({"thinking": false}),
            json!({"enable_thinking": false}),
            json!({"chat_template_kwargs": {"thinking": false}}),
            json!({"chat_template_kwargs": {"enable_thinking": false}}),
            json!({"think": false}),
            json!({"mode": "fast"}),
            json!({"reasoning_effort": "none"}),
            json!({"reasoning": {"effort": "none"}}),
            json!({"reasoning": {"enabled": false}}),
            json!({"output_config": {"effort": "none"}}),
        ] {
            assert_eq!(applied(request.clone(), "m"), "off", "{request}");
        }
        assert_eq!(applied(json!({}), "deepseek-chat"), "off");
    }

    #[test]
    fn every_spelling_of_an_effort_is_read() {
        for (request, want) in [
            (json!({}), "high"),
            (json!({"reasoning_effort": "minimal"}), "low"),
            (json!({"reasoning_effort": "medium"}), "high"),
            (json!({"reasoning_effort": "xhigh"}), "high"),
            (json!({"reasoning": {"effort": "max"}}), "max"),
            (json!({"output_config": {"effort": "low"}}), "low"),
            (json!({"think": "ultra"}), "max"),
            (json!({"thinking": {"type": "adaptive"}}), "high"),
            (json!({"mode": "expert"}), "high"),
            (json!({"reasoning_effort": 20}), "low"),
        ] {
            assert_eq!(applied(request.clone(), "deepseek-reasoner"), want, "{request}");
        }
        assert_eq!(applied(json!({"reasoning_effort": "low"}), "deepseek-chat"), "low");
    }

    #[test]
    fn a_budget_is_kept_only_while_the_model_thinks() {
        let read =
            |request: Value| read(&Fields::of(&request, "").unwrap(), "m", Thinking::Off).unwrap().budget;
        assert_eq!(read(json!({"thinking": {"type": "enabled", "budget_tokens": 1024}})), Some(1024));
        assert_eq!(read(json!({"thinking": {"type": "disabled", "budget_tokens": 1024}})), None);
    }

    #[test]
    fn an_unknown_effort_is_refused_by_name() {
        let request = json!({"reasoning": {"effort": "hard"}});
        let error = read(&Fields::of(&request, "").unwrap(), "m", Thinking::High).unwrap_err();
        assert!(error.to_string().starts_with("`reasoning.effort` must be none"), "{error}");
    }
}
