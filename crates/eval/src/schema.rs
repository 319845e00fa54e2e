//! Whether the arguments of a call are what its tool takes.

use cuvier_encoding::Tool;
use serde_json::{Map, Value};

/// Whether the arguments fit the parameters of the offered tool of this name: every required one is there, none is
/// unknown, and each is of its type and among its values.
///
/// Of JSON Schema this knows what the samples' tools use: `type`, `enum`, `properties`, `required` and `items`.
pub fn is_call_of(tools: &[Tool], name: &str, arguments: &Value) -> bool {
    let tool = tools.iter().find(|tool| tool.function["name"] == name);
    tool.is_some_and(|tool| arguments.is_object() && fits(arguments, &tool.function["parameters"]))
}

fn fits(value: &Value, schema: &Value) -> bool {
    let is_allowed = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    is_allowed
        && schema["type"].as_str().is_none_or(|name| is_of_type(value, name))
        && parts_fit(value, schema)
}

fn parts_fit(value: &Value, schema: &Value) -> bool {
    match value {
        Value::Object(fields) => fields_fit(fields, schema),
        Value::Array(items) => items.iter().all(|item| fits(item, &schema["items"])),
        _ => true,
    }
}

fn fields_fit(fields: &Map<String, Value>, schema: &Value) -> bool {
    let Some(properties) = schema["properties"].as_object() else { return true };
    let has_all = schema["required"].as_array().is_none_or(|required| {
        required.iter().filter_map(Value::as_str).all(|name| fields.contains_key(name))
    });
    let is_known =
        |(name, value): (&String, &Value)| properties.get(name).is_some_and(|property| fits(value, property));
    has_all && fields.iter().all(is_known)
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match (name, value) {
        ("integer", Value::Number(number)) => {
            number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        ("number", Value::Number(_))
        | ("string", Value::String(_))
        | ("boolean", Value::Bool(_))
        | ("array", Value::Array(_))
        | ("object", Value::Object(_))
        | ("null", Value::Null) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools() -> Vec<Tool> {
        let people = json!({ "type": "array", "items": { "type": "string" } });
        let unit = json!({ "type": "string", "enum": ["a", "b"] });
        let properties = json!({ "n": { "type": "integer" }, "to": people, "unit": unit });
        let parameters = json!({ "type": "object", "properties": properties, "required": ["n"] });
        vec![Tool { function: json!({ "name": "send", "parameters": parameters }) }]
    }

    #[test]
    fn a_call_fits_its_tool_or_it_does_not() {
        let fits = |arguments: Value| is_call_of(&tools(), "send", &arguments);
        assert!(fits(json!({ "n": 3 })));
        assert!(fits(json!({ "n": 3.0, "to": ["x", "y"], "unit": "b" })));
        assert!(!fits(json!({ "to": [] })), "a required one is missing");
        assert!(!fits(json!({ "n": 3, "m": 1 })), "one is unknown");
        assert!(!fits(json!({ "n": "3" })) && !fits(json!({ "n": 3.5 })), "another type");
        assert!(!fits(json!({ "n": 3, "to": ["x", 1] })), "an item of another type");
        assert!(!fits(json!({ "n": 3, "unit": "c" })), "not among its values");
        assert!(!fits(json!(3)) && !is_call_of(&tools(), "sent", &json!({ "n": 3 })));
    }
}
