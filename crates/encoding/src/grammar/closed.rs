//! Objects that a schema leaves open.
//!
//! JSON Schema lets an object have any property that nobody named. A model that is held to a schema has no use for that: a
//! small one goes on writing properties until its tokens are used up. What it is held to is therefore the schema with such
//! objects closed: less is allowed, and all that is allowed is still what was asked for.

use serde_json::{Map, Value};

/// A cleaned schema in which no object has properties but those that are named, unless it says itself what others may be.
/// A schema of which another part could then no longer be met stays as it is.
pub(super) fn closed(mut schema: Value) -> Value {
    if is_simple(&schema) {
        close(&mut schema);
    }
    schema
}

/// Whether every object is described in one place only, and needs nothing that is not named there.
fn is_simple(schema: &Value) -> bool {
    let Value::Object(fields) = schema else { return true };
    let descriptions = ["properties", "allOf", "anyOf", "oneOf", "$ref"];
    let descriptions = descriptions.iter().filter(|&&keyword| fields.contains_key(keyword)).count();
    let joined = fields.get("allOf").and_then(Value::as_array).map_or(1, Vec::len);
    descriptions <= 1 && joined <= 1 && parts(fields).all(is_simple)
}

fn close(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    parts_mut(fields).for_each(close);
    let says_more = ["additionalProperties", "patternProperties", "minProperties"];
    let says_more = says_more.iter().any(|&keyword| fields.contains_key(keyword));
    if !says_more && names_all_required(fields) {
        fields.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
}

/// Whether there are properties, and all that is required is among them.
fn names_all_required(fields: &Map<String, Value>) -> bool {
    let Some(properties) = fields.get("properties").and_then(Value::as_object) else { return false };
    let required = fields.get("required").and_then(Value::as_array).into_iter().flatten();
    required.filter_map(Value::as_str).all(|name| properties.contains_key(name))
}

/// The schemas within a schema.
fn parts(fields: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    fields.iter().flat_map(|(keyword, value)| -> Box<dyn Iterator<Item = &Value>> {
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties" | "$defs", Value::Object(schemas)) => {
                Box::new(schemas.values())
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                Box::new(schemas.iter())
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => {
                Box::new(std::iter::once(schema))
            }
            _ => Box::new(std::iter::empty()),
        }
    })
}

/// As [`parts`].
fn parts_mut(fields: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    fields.iter_mut().flat_map(|(keyword, value)| -> Box<dyn Iterator<Item = &mut Value>> {
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties" | "$defs", Value::Object(schemas)) => {
                Box::new(schemas.values_mut())
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                Box::new(schemas.iter_mut())
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => {
                Box::new(std::iter::once(schema))
            }
            _ => Box::new(std::iter::empty()),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn open_objects_are_closed_wherever_they_are_and_what_is_said_stays() {
        let open = json!({ "type": "object", "properties": { "a": {} }, "required": ["a"] });
        let mut shut = open.clone();
        shut["additionalProperties"] = json!(false);
        for of in [
            |schema: &Value| schema.clone(),
            |schema: &Value| json!({ "properties": { "p": schema }, "additionalProperties": true }),
            |schema: &Value| json!({ "items": schema }),
            |schema: &Value| json!({ "anyOf": [{ "type": "null" }, schema] }),
            |schema: &Value| json!({ "allOf": [schema] }),
            |schema: &Value| json!({ "$ref": "#/$defs/r0", "$defs": { "r0": schema } }),
            |schema: &Value| json!({ "additionalProperties": schema }),
        ] {
            assert_eq!(closed(of(&open)), of(&shut));
        }
    }

    #[test]
    fn what_could_then_not_be_met_any_more_or_is_no_schema_stays_as_it_is() {
        let a = json!({ "properties": { "a": {} } });
        for schema in [
            json!({ "allOf": [a.clone(), { "properties": { "b": {} } }] }),
            json!({ "properties": { "c": {} }, "anyOf": [a.clone()] }),
            json!({ "properties": { "c": a.clone() }, "$ref": "#/$defs/r0" }),
            json!({ "properties": { "c": {} }, "required": ["d"] }),
            json!({ "properties": { "c": {} }, "minProperties": 2 }),
            json!({ "properties": { "c": {} }, "patternProperties": { "^x": {} } }),
            json!({ "const": a.clone() }),
            json!({ "type": "object" }),
            json!(true),
        ] {
            assert_eq!(closed(schema.clone()), schema);
        }
    }
}
