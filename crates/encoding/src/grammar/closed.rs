//! Objects that a schema leaves open.
//!
//! JSON Schema lets an object have any property that nobody named. A model that is held to a schema has no use for that: a
//! small one goes on writing properties until its tokens are used up. What it is held to is therefore the schema with such
//! objects closed: less is allowed, and all that is allowed is still what was asked for.

use serde_json::{Map, Value};

/// A cleaned schema in which no object has properties but those that are named, unless it says itself what others may be.
/// A schema of which another part could then no longer be met stays as it is.
pub(super) fn closed(mut schema: Value) -> Value {
    let mut can_close = true;
    for_each(&mut schema, &mut |fields| can_close &= describes_once(fields));
    if can_close {
        for_each(&mut schema, &mut close);
    }
    schema
}

/// Whether what an object may be is said in one place only.
fn describes_once(fields: &Map<String, Value>) -> bool {
    let descriptions = ["properties", "allOf", "anyOf", "oneOf", "$ref"];
    let descriptions = descriptions.iter().filter(|&&keyword| fields.contains_key(keyword)).count();
    let joined = fields.get("allOf").and_then(Value::as_array).map_or(1, Vec::len);
    descriptions <= 1 && joined <= 1
}

fn close(fields: &mut Map<String, Value>) {
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

/// Visits a schema and all within it, those within first; not what only looks like one, as the value of `const` may.
fn for_each(schema: &mut Value, visit: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Value::Object(fields) = schema else { return };
    for (keyword, value) in fields.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties" | "$defs", Value::Object(schemas)) => {
                schemas.values_mut().for_each(|schema| for_each(schema, visit));
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                schemas.iter_mut().for_each(|schema| for_each(schema, visit));
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => for_each(schema, visit),
            _ => {}
        }
    }
    visit(fields);
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
