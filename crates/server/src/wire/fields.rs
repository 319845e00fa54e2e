//! Reading an object of a request: every refusal names the path of the field.

use cuvier_encoding::json_kind;
use serde_json::{Map, Value};

use crate::ApiError;

/// The fields of one JSON object and the path to it. `null` counts as absent everywhere.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which stands at `path`; the path of the whole request is empty.
    pub fn of(value: &'a Value, path: impl Into<String>) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            other if path.is_empty() => {
                let message = format!("the request must be an object, not {}", json_kind(other));
                Err(ApiError::Invalid { message, param: None })
            }
            other => Err(ApiError::field(path, format!("must be an object, not {}", json_kind(other)))),
        }
    }

    /// The path of a field.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The error of a field.
    pub fn refuse(&self, key: &str, what: impl std::fmt::Display) -> ApiError {
        ApiError::field(self.path(key), what)
    }

    /// A field of any kind.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The first of several spellings that is there.
    pub fn first<'k>(&self, keys: &[&'k str]) -> Option<(&'k str, &'a Value)> {
        keys.iter().find_map(|key| Some((*key, self.get(key)?)))
    }

    fn read<T>(
        &self,
        key: &str,
        want: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.refuse(key, format!("must be {want}, not {}", json_kind(value)))),
        }
    }

    /// A string.
    pub fn string(&self, key: &str) -> Result<Option<&'a str>, ApiError> {
        self.read(key, "a string", Value::as_str)
    }

    /// A string that must be there.
    pub fn need_string(&self, key: &str) -> Result<&'a str, ApiError> {
        self.string(key)?.ok_or_else(|| self.refuse(key, "is missing"))
    }

    /// A boolean.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ApiError> {
        self.read(key, "a boolean", Value::as_bool)
    }

    /// A number. What f32 cannot hold becomes an infinity, which the engine's check refuses by name.
    pub fn number(&self, key: &str) -> Result<Option<f32>, ApiError> {
        Ok(self.read(key, "a number", Value::as_f64)?.map(|number| number as f32))
    }

    /// A whole number of at least 0; `3.0` counts.
    pub fn integer(&self, key: &str) -> Result<Option<u64>, ApiError> {
        self.read(key, "a whole number, 0 or more", |value| {
            let as_float = || value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n));
            value.as_u64().or_else(|| as_float().map(|n| n as u64))
        })
    }

    /// A list.
    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>, ApiError> {
        self.read(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>, ApiError> {
        self.get(key).map(|value| Self::of(value, self.path(key))).transpose()
    }

    /// The objects of a list, each with its path; an absent list is empty.
    pub fn objects(&self, key: &str) -> Result<Vec<Fields<'a>>, ApiError> {
        let list = self.list(key)?.unwrap_or_default();
        let at = |index: usize| format!("{}[{index}]", self.path(key));
        list.iter().enumerate().map(|(index, value)| Self::of(value, at(index))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_names_the_path_of_the_field() {
        let request = json!({"messages": [{}, {"content": 3}], "n": 1.5});
        let fields = Fields::of(&request, "").unwrap();
        let messages = fields.objects("messages").unwrap();
        let error = messages[1].string("content").unwrap_err();
        assert_eq!(error.to_string(), "`messages[1].content` must be a string, not a number");
        assert_eq!(messages[0].need_string("role").unwrap_err().to_string(), "`messages[0].role` is missing");
        assert!(fields.integer("n").is_err());
    }

    #[test]
    fn null_is_absent_and_a_whole_float_is_an_integer() {
        let request = json!({"stop": null, "max_tokens": 32000.0, "top_k": -1});
        let fields = Fields::of(&request, "").unwrap();
        assert_eq!(fields.string("stop").unwrap(), None);
        assert_eq!(fields.integer("max_tokens").unwrap(), Some(32000));
        assert!(fields.integer("top_k").is_err());
    }

    #[test]
    fn a_request_that_is_no_object_is_refused() {
        assert!(Fields::of(&json!([]), "").is_err());
    }
}
