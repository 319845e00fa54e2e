//! The two ways to write a parameter's value: text as it is, and JSON.

use serde_json::{Value, json};

use super::GrammarTextError;
use super::json::{Layout, value};
use super::lark::{literal, regex};
use super::pattern;
use super::schema::{Cleaner, Strictness, check_writable, constraints, is_refused, wrong};

/// One way to write a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Any text.
    Text,
    /// A text that this terminal expression matches.
    Terminal(String),
    /// JSON, by this part of a rule.
    Json(String),
}

/// Alternatives within alternatives; beyond, a value is JSON as a whole.
const DEPTH_MAX: usize = 8;

const STRING_KEYWORDS: [&str; 4] = ["minLength", "maxLength", "pattern", "format"];

/// All ways to write a value of `schema`. None: nothing fits it.
///
/// A string is written as it is where its schema can be said of the text itself, which is how the model was trained
/// to write strings; otherwise as JSON, which the parser reads the same.
pub(super) fn forms<'a>(
    cleaner: &mut Cleaner<'a>,
    schema: &'a Value,
    place: &str,
) -> Result<Vec<Form>, GrammarTextError> {
    forms_at(cleaner, schema, place, 0)
}

fn forms_at<'a>(
    cleaner: &mut Cleaner<'a>,
    schema: &'a Value,
    place: &str,
    depth: usize,
) -> Result<Vec<Form>, GrammarTextError> {
    match schema {
        Value::Bool(false) => return Ok(Vec::new()),
        Value::Bool(true) | Value::Object(_) => {}
        _ => return Err(wrong(place, "a schema must be an object or a boolean")),
    }
    for keyword in constraints(schema).filter(|keyword| is_refused(keyword, &schema[*keyword])) {
        cleaner.refuse(&format!("{place}.{keyword}"), keyword)?;
    }
    let keywords: Vec<&str> =
        constraints(schema).filter(|keyword| !is_refused(keyword, &schema[*keyword])).collect();
    if depth < DEPTH_MAX {
        match (keywords.as_slice(), schema.get(*keywords.first().unwrap_or(&""))) {
            (["$ref"], Some(Value::String(reference))) => match cleaner.target(reference) {
                Some(target) => return forms_at(cleaner, target, place, depth + 1),
                None => {
                    cleaner.refuse(place, "$ref")?;
                    return forms_at(cleaner, &Value::Bool(true), place, depth + 1);
                }
            },
            (["anyOf"], Some(Value::Array(options))) => {
                return alternatives(cleaner, options, &format!("{place}.anyOf"), depth);
            }
            (["oneOf"], Some(Value::Array(options)))
                if cleaner.strictness == Strictness::Lax || have_own_types(options) =>
            {
                return alternatives(cleaner, options, &format!("{place}.oneOf"), depth);
            }
            (["allOf"], Some(Value::Array(options))) if options.len() == 1 => {
                return forms_at(cleaner, &options[0], place, depth + 1);
            }
            _ => {}
        }
    }
    typed(cleaner, schema, &keywords, place)
}

fn alternatives<'a>(
    cleaner: &mut Cleaner<'a>,
    options: &'a [Value],
    place: &str,
    depth: usize,
) -> Result<Vec<Form>, GrammarTextError> {
    let mut out = Vec::new();
    for (index, option) in options.iter().enumerate() {
        for form in forms_at(cleaner, option, &format!("{place}[{index}]"), depth + 1)? {
            if !out.contains(&form) {
                out.push(form);
            }
        }
    }
    Ok(out)
}

/// Whether no value can fit two of the options.
fn have_own_types(options: &[Value]) -> bool {
    let types: Vec<&str> = options.iter().filter_map(|option| option["type"].as_str()).collect();
    let is_once = |name: &&str| types.iter().filter(|other| other == &name).count() == 1;
    let overlap = types.contains(&"integer") && types.contains(&"number");
    types.len() == options.len() && types.iter().all(is_once) && !overlap
}

fn typed<'a>(
    cleaner: &mut Cleaner<'a>,
    schema: &'a Value,
    keywords: &[&str],
    place: &str,
) -> Result<Vec<Form>, GrammarTextError> {
    let strictness = cleaner.strictness;
    let types = types(schema, keywords);
    let is_applied = |keyword: &&str| ["anyOf", "oneOf", "allOf", "$ref"].contains(keyword);
    let is_listed = |keyword: &&str| ["enum", "const"].contains(keyword);
    if keywords.iter().any(is_applied) {
        return Ok(vec![Form::Json(value(cleaner.whole(schema, place)?, Layout::Line, strictness))]);
    }
    if keywords.iter().any(is_listed) {
        if keywords.iter().any(|keyword| !is_listed(keyword) && *keyword != "type") {
            return Ok(vec![Form::Json(value(cleaner.whole(schema, place)?, Layout::Line, strictness))]);
        }
        return listed(schema, &types, place, strictness);
    }
    let mut out = Vec::new();
    if types.contains(&"string") {
        out.push(string(cleaner, schema, place)?);
    }
    let others: Vec<&str> = types.into_iter().filter(|name| *name != "string").collect();
    if !others.is_empty() {
        let mut cleaned = cleaner.whole(schema, place)?;
        match &mut cleaned {
            Value::Object(fields) => {
                fields.retain(|keyword, _| !STRING_KEYWORDS.contains(&keyword.as_str()));
                fields.insert("type".to_owned(), json!(others));
            }
            cleaned => *cleaned = json!({ "type": others }),
        }
        out.push(Form::Json(value(cleaned, Layout::Line, strictness)));
    }
    Ok(out)
}

/// The types that a schema allows. One that names none means, by its keywords, some all the same.
fn types<'a>(schema: &'a Value, keywords: &[&str]) -> Vec<&'a str> {
    match schema.get("type") {
        Some(Value::String(name)) => return vec![name],
        Some(Value::Array(names)) => return names.iter().filter_map(Value::as_str).collect(),
        _ => {}
    }
    let has = |names: &[&str]| keywords.iter().any(|keyword| names.contains(keyword));
    if has(&["properties", "required", "additionalProperties", "patternProperties"]) {
        vec!["object"]
    } else if has(&["items", "prefixItems", "minItems", "maxItems"]) {
        vec!["array"]
    } else if has(&STRING_KEYWORDS) {
        vec!["string"]
    } else if has(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]) {
        vec!["number"]
    } else {
        vec!["string", "null", "boolean", "number", "array", "object"]
    }
}

/// Values that are listed one by one.
fn listed(
    schema: &Value,
    types: &[&str],
    place: &str,
    strictness: Strictness,
) -> Result<Vec<Form>, GrammarTextError> {
    let values: Vec<&Value> = match (&schema["enum"], schema.get("const")) {
        (Value::Array(values), None) => values.iter().collect(),
        (Value::Array(values), Some(only)) => values.iter().filter(|value| *value == only).collect(),
        (_, Some(only)) => vec![only],
        _ => return Err(wrong(place, "`enum` must be a list")),
    };
    let mut literals = Vec::new();
    let mut others = Vec::new();
    for value in values {
        check_writable(value, place)?;
        match value {
            Value::String(text) if types.contains(&"string") => literals.push(literal(text)),
            Value::String(_) => {}
            value => others.push(value.clone()),
        }
    }
    let mut out = Vec::new();
    if !literals.is_empty() {
        out.push(Form::Terminal(literals.join(" | ")));
    }
    if !others.is_empty() {
        out.push(Form::Json(value(json!({ "enum": others, "type": types }), Layout::Line, strictness)));
    }
    Ok(out)
}

fn string<'a>(cleaner: &mut Cleaner<'a>, schema: &'a Value, place: &str) -> Result<Form, GrammarTextError> {
    let strictness = cleaner.strictness;
    if constraints(schema).any(|keyword| keyword == "format") {
        let mut cleaned = cleaner.whole(schema, place)?;
        if let Value::Object(fields) = &mut cleaned {
            fields.retain(|keyword, _| STRING_KEYWORDS.contains(&keyword.as_str()));
            fields.insert("type".to_owned(), json!("string"));
        }
        return Ok(Form::Json(value(cleaned, Layout::Line, strictness)));
    }
    let length = |keyword: &str| schema.get(keyword).map(|value| (value, value.as_f64()));
    let min = match length("minLength") {
        None => 0,
        Some((_, Some(number))) if number >= 0.0 => number as u64,
        Some(_) => return Err(wrong(place, "`minLength` must be a number of characters")),
    };
    let max = match length("maxLength") {
        None => None,
        Some((_, Some(number))) if number >= 0.0 => Some(number as u64),
        Some(_) => return Err(wrong(place, "`maxLength` must be a number of characters")),
    };
    let mut parts = Vec::new();
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        match (pattern::whole_text(pattern), strictness) {
            (Ok(expression), _) => parts.push(regex(&expression)),
            (Err(message), Strictness::Strict) => return Err(wrong(&format!("{place}.pattern"), &message)),
            (Err(_), Strictness::Lax) => {}
        }
    }
    if min > 0 || max.is_some() {
        let max = max.map(|max| max.to_string()).unwrap_or_default();
        parts.push(regex(&format!("(?s:.{{{min},{max}}})")));
    }
    Ok(if parts.is_empty() { Form::Text } else { Form::Terminal(parts.join(" & ")) })
}
