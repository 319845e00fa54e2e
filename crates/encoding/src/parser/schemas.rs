//! What the tools of a request say about their parameters, as far as reading a call needs it.

use std::collections::HashMap;

use serde_json::Value;

use crate::conversation::Tool;

/// The tools of one request, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolSchemas {
    functions: HashMap<String, Function>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Function {
    /// Calls of a strict tool were constrained while they were written; nothing is guessed about them.
    is_strict: bool,
    properties: HashMap<String, Types>,
}

/// The JSON types a schema allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Types {
    names: Vec<String>,
}

impl ToolSchemas {
    /// Reads the names, types and strictness out of the tools.
    #[must_use]
    pub fn new(tools: &[Tool]) -> Self {
        let functions = tools.iter().filter_map(|tool| {
            let name = tool.function["name"].as_str()?.to_owned();
            let properties = tool.function["parameters"]["properties"].as_object();
            let properties = properties
                .into_iter()
                .flatten()
                .map(|(key, schema)| (key.clone(), Types::of(schema)))
                .collect();
            Some((name, Function { is_strict: tool.function["strict"] == true, properties }))
        });
        Self { functions: functions.collect() }
    }

    /// The types of a parameter whose value may have to be read differently from how the model marked it.
    pub(super) fn types(&self, function: &str, key: &str) -> Option<&Types> {
        let function = self.functions.get(function).filter(|function| !function.is_strict)?;
        function.properties.get(key).filter(|types| !types.names.is_empty())
    }

    /// Whether the function is known and has no such parameter.
    pub(super) fn lacks(&self, function: &str, key: &str) -> bool {
        self.functions.get(function).is_some_and(|function| !function.properties.contains_key(key))
    }
}

impl Types {
    fn of(schema: &Value) -> Self {
        let names = match &schema["type"] {
            Value::String(name) => vec![name.clone()],
            Value::Array(names) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Self { names }
    }

    pub(super) fn allow_string(&self) -> bool {
        self.names.iter().any(|name| name == "string")
    }

    pub(super) fn allow(&self, value: &Value) -> bool {
        self.names.iter().any(|name| match (name.as_str(), value) {
            ("integer", Value::Number(number)) => !number.as_str().contains(['.', 'e', 'E']),
            ("number", Value::Number(_))
            | ("boolean", Value::Bool(_))
            | ("object", Value::Object(_))
            | ("array", Value::Array(_))
            | ("null", Value::Null)
            | ("string", Value::String(_)) => true,
            _ => false,
        })
    }
}
