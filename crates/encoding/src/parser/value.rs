//! The value of a parameter: from the text between its tags to JSON.

use serde_json::Value;

use super::schemas::Types;
use crate::python_json::write_string;

/// Readers of JSON give up at some depth, often 128. A deeper value goes out as a string, so that with the
/// arguments around it the whole stays readable.
const DEPTH_MAX: usize = 64;

/// A parameter whose closing tag has not come.
#[derive(Clone, Debug)]
pub(super) struct OpenValue {
    pub(super) key: String,
    pub(super) is_string: Option<bool>,
    /// What of the value was read and not given out.
    pub(super) text: String,
    /// The fields so far, where parameters stand inside the parameter: a model's way to write an object.
    pub(super) fields: Option<Vec<String>>,
}

impl OpenValue {
    pub(super) fn new(key: String, is_string: Option<bool>) -> Self {
        Self { key, is_string, text: String::new(), fields: None }
    }

    /// Whether a parameter may begin here: nothing of a plain value was read yet.
    pub(super) fn may_nest(&self) -> bool {
        self.is_string != Some(true) && self.text.trim_ascii().is_empty()
    }

    /// The value as JSON, whatever the model wrote.
    pub(super) fn into_json(self, types: Option<&Types>) -> String {
        if let Some(fields) = self.fields {
            return format!("{{{}}}", fields.join(", "));
        }
        let parsed: Option<Value> =
            serde_json::from_str(&self.text).ok().filter(|value| is_shallow(value, DEPTH_MAX));
        let is_json = match (self.is_string, parsed) {
            (_, None) => false,
            // A number in a parameter that the schema makes a number, marked as a string by mistake.
            (Some(true), Some(value)) => {
                types.is_some_and(|types| !types.allow_string() && types.allow(&value))
            }
            (Some(false), Some(_)) => true,
            (None, Some(_)) => types.is_none_or(|types| !types.allow_string()),
        };
        if is_json { self.text } else { json_string(&self.text) }
    }
}

/// Lists in objects in lists, no further than `levels`.
fn is_shallow(value: &Value, levels: usize) -> bool {
    let Some(levels) = levels.checked_sub(1) else { return false };
    match value {
        Value::Array(items) => items.iter().all(|item| is_shallow(item, levels)),
        Value::Object(fields) => fields.values().all(|field| is_shallow(field, levels)),
        _ => true,
    }
}

/// `"key": value`
pub(super) fn field(key: &str, json: &str) -> String {
    format!("{}: {json}", json_string(key))
}

/// The text as a JSON string.
pub(super) fn json_string(text: &str) -> String {
    let mut out = String::new();
    write_string(&mut out, text);
    out
}

/// The text itself, if it is a JSON object.
pub(super) fn as_object(text: &str) -> Option<&str> {
    matches!(serde_json::from_str(text), Ok(Value::Object(_))).then(|| text.trim_ascii())
}
