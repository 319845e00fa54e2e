//! Tools and schemas under which answers are drawn.

use serde_json::{Value, json};

/// What an answer is constrained to.
pub struct Case {
    pub name: &'static str,
    pub tools: Vec<Value>,
    pub choice: Choice,
    pub is_parallel: bool,
    pub json: Option<Json>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Auto,
    Required,
    Named(&'static str),
    /// Tools were sent, and none may be called.
    Never,
}

pub enum Json {
    Object,
    Schema(Value, bool),
}

fn function(name: &str, parameters: Value, is_strict: bool) -> Value {
    json!({ "name": name, "description": "d", "parameters": parameters, "strict": is_strict })
}

/// An object with these properties, all required unless the name ends with `?`.
fn object(properties: &[(&str, Value)]) -> Value {
    let name = |name: &str| name.trim_end_matches('?').to_owned();
    let fields: serde_json::Map<String, Value> =
        properties.iter().map(|(key, schema)| (name(key), schema.clone())).collect();
    let required: Vec<&str> =
        properties.iter().map(|(key, _)| *key).filter(|key| !key.ends_with('?')).collect();
    json!({ "type": "object", "properties": fields, "required": required, "additionalProperties": false })
}

/// Name, parameters.
fn parameters() -> Vec<(&'static str, Value)> {
    let text = json!({ "type": "string" });
    let integer = json!({ "type": "integer" });
    let tree = json!({
        "type": "object",
        "properties": { "root": { "$ref": "#/$defs/node" } },
        "required": ["root"],
        "additionalProperties": false,
        "$defs": { "node": object(&[("value", integer.clone()), ("children", json!({ "type": "array", "items": { "$ref": "#/$defs/node" } }))]) },
    });
    vec![
        ("text", object(&[("city", text.clone())])),
        (
            "optional",
            object(&[
                ("city", text.clone()),
                ("days?", json!({ "type": "integer", "minimum": 1, "maximum": 14 })),
            ]),
        ),
        (
            "all_optional",
            object(&[
                ("a?", text.clone()),
                ("b?", json!({ "type": "boolean" })),
                ("c?", json!({ "type": "number" })),
            ]),
        ),
        ("empty", json!({ "type": "object", "properties": {} })),
        ("absent", Value::Null),
        ("free_form", json!({ "type": "object" })),
        (
            "enums",
            object(&[
                ("unit", json!({ "type": "string", "enum": ["C", "F", "</", "a\"b\n"] })),
                ("n?", json!({ "enum": [1, 2.5, null, "x", [1], {"k": "v"}] })),
            ]),
        ),
        ("constant", object(&[("kind", json!({ "const": "fixed" })), ("n", json!({ "const": 7 }))])),
        (
            "pattern",
            object(&[
                ("id", json!({ "type": "string", "pattern": "^[A-Z]{2}-\\d{3}$" })),
                ("any?", json!({ "type": "string", "pattern": "b+" })),
            ]),
        ),
        (
            "lengths",
            object(&[
                ("s", json!({ "type": "string", "minLength": 2, "maxLength": 5 })),
                ("t?", json!({ "type": "string", "maxLength": 3, "pattern": "^[ab<]*$" })),
            ]),
        ),
        (
            "formats",
            object(&[
                ("when", json!({ "type": "string", "format": "date" })),
                ("id?", json!({ "type": "string", "format": "uuid" })),
                ("ip?", json!({ "type": "string", "format": "ipv4" })),
            ]),
        ),
        (
            "nested",
            object(&[
                ("place", object(&[("lat", json!({ "type": "number" })), ("name?", text.clone())])),
                ("tags?", json!({ "type": "array", "items": text, "maxItems": 3 })),
            ]),
        ),
        ("references", tree),
        (
            "either",
            object(&[
                ("v", json!({ "anyOf": [{ "type": "string" }, { "type": "number" }] })),
                ("w?", json!({ "type": ["string", "null", "integer"] })),
            ]),
        ),
        (
            "one_of",
            object(&[(
                "v",
                json!({ "oneOf": [{ "type": "boolean" }, { "type": "array", "items": { "type": "integer" } }] }),
            )]),
        ),
        (
            "hostile_names",
            object(&[
                ("a\"b", json!({ "type": "string" })),
                ("line\nend?", json!({ "type": "integer" })),
                ("ключ 钥?", json!({ "type": "string" })),
                ("\\u0022]>?", json!({ "type": "boolean" })),
            ]),
        ),
        (
            "additional",
            json!({ "type": "object", "properties": { "a": { "type": "string" } }, "required": ["a"], "additionalProperties": { "type": "integer" } }),
        ),
        ("anything", object(&[("value", json!({})), ("more?", json!(true))])),
        (
            "numbers",
            object(&[
                ("a", json!({ "type": "integer", "minimum": -5, "exclusiveMaximum": 100 })),
                ("b?", json!({ "type": "number", "minimum": 0.5, "maximum": 2 })),
                ("c?", json!({ "type": "integer", "multipleOf": 5 })),
            ]),
        ),
        (
            "tuple",
            object(&[(
                "pair",
                json!({ "type": "array", "prefixItems": [{ "type": "string" }, { "type": "integer" }], "items": false, "minItems": 2 }),
            )]),
        ),
        (
            "deep",
            object(&[
                ("value", json!({ "type": "array" })),
                ("map?", json!({ "type": "object", "additionalProperties": { "type": "array" } })),
            ]),
        ),
        (
            "all_of",
            object(&[(
                "v",
                json!({ "allOf": [{ "type": "object", "properties": { "a": { "type": "integer" } }, "required": ["a"] }, { "type": "object", "properties": { "b": { "type": "string" } } }] }),
            )]),
        ),
    ]
}

/// Every tool alone, strict and not; all together; the choices; JSON; JSON beside tools.
pub fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for (name, schema) in parameters() {
        for is_strict in [true, false] {
            let tools = vec![function(name, schema.clone(), is_strict)];
            out.push(Case { name, tools, choice: Choice::Required, is_parallel: true, json: None });
        }
    }
    let all = |is_strict| -> Vec<Value> {
        parameters().into_iter().map(|(name, schema)| function(name, schema, is_strict)).collect()
    };
    let with = |name, tools, choice, is_parallel| Case { name, tools, choice, is_parallel, json: None };
    out.push(with("auto, lax", all(false), Choice::Auto, true));
    out.push(with("auto, strict", all(true), Choice::Auto, true));
    out.push(with("auto, one call", all(false), Choice::Auto, false));
    out.push(with("required, one call", all(true), Choice::Required, false));
    out.push(with("named", all(false), Choice::Named("nested"), true));
    out.push(with("named, strict", all(true), Choice::Named("references"), true));
    out.push(with("never", all(false), Choice::Never, true));
    let json =
        |name, json| Case { name, tools: vec![], choice: Choice::Never, is_parallel: true, json: Some(json) };
    out.push(json("JSON object", Json::Object));
    for (name, schema) in parameters() {
        if !matches!(name, "absent") {
            out.push(json(name, Json::Schema(schema, name.len() % 2 == 0)));
        }
    }
    let beside = |name, json| Case {
        name,
        tools: all(false),
        choice: Choice::Auto,
        is_parallel: true,
        json: Some(json),
    };
    out.push(beside("JSON object or calls", Json::Object));
    out.push(beside(
        "JSON of a schema or calls",
        Json::Schema(object(&[("a", json!({ "type": "string" }))]), true),
    ));
    out
}
