//! A schema, reduced to what can be enforced.

use serde_json::{Map, Value, json};

use super::GrammarTextError;
use super::lark::MARK_END;
use super::pattern;

/// What becomes of a keyword that cannot be enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// It is an error.
    Strict,
    /// It is left out.
    Lax,
}

/// Keywords that are enforced. Source: `IMPLEMENTED` in `json/schema.rs` of llguidance 1.9.1.
const ENFORCED: [&str; 27] = [
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "const",
    "enum",
    "type",
    "items",
    "additionalItems",
    "prefixItems",
    "minItems",
    "maxItems",
    "properties",
    "additionalProperties",
    "patternProperties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];

/// Keywords of JSON Schema that say what is allowed and are not enforced. All others are annotations.
const REFUSED: [&str; 15] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
];

/// Formats that are enforced; any other is an annotation (JSON Schema 2020-12, validation, 7.1).
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Dates that exist: the format as it is enforced takes every year for a leap year. Not needed beside a `pattern`,
/// which says what it says.
const DATES_THAT_EXIST: &str = "^(?:[0-9]{4}-(?:0[13-9]|1[0-2]|02-[01]|02-2[0-8])\
    |(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)";

/// References that lead to references.
const REF_CHAIN_MAX: usize = 16;

/// Reduces the schemas of one document.
#[derive(Debug)]
pub(super) struct Cleaner<'a> {
    document: &'a Value,
    /// The document's own place.
    name: String,
    pub(super) strictness: Strictness,
    /// What is referred to, in the order of first mention: `r0`, `r1`, ...
    targets: Vec<&'a Value>,
}

impl<'a> Cleaner<'a> {
    /// References lead into `document`, whose place is `name`.
    pub(super) fn new(document: &'a Value, name: &str, strictness: Strictness) -> Self {
        Self { document, name: name.to_owned(), strictness, targets: Vec::new() }
    }

    /// A schema that stands alone: what it refers to is brought along.
    pub(super) fn whole(&mut self, schema: &'a Value, place: &str) -> Result<Value, GrammarTextError> {
        self.targets.clear();
        let cleaned = self.clean(schema, place)?;
        let mut definitions = Map::new();
        while let Some(&target) = self.targets.get(definitions.len()) {
            let name = format!("r{}", definitions.len());
            let target = self.clean(target, &format!("{}.$defs", self.name))?;
            definitions.insert(name, target);
        }
        Ok(match cleaned {
            Value::Object(mut fields) if !definitions.is_empty() => {
                fields.insert("$defs".to_owned(), Value::Object(definitions));
                Value::Object(fields)
            }
            cleaned => cleaned,
        })
    }

    /// What a schema refers to, through all references. `None` if that leads nowhere.
    pub(super) fn target(&self, reference: &str) -> Option<&'a Value> {
        let mut target = self.document.pointer(&decoded(reference.strip_prefix('#')?))?;
        for _ in 0..REF_CHAIN_MAX {
            match target.get("$ref").and_then(Value::as_str) {
                Some(next) if constraints(target).count() == 1 => {
                    target = self.document.pointer(&decoded(next.strip_prefix('#')?))?;
                }
                _ => return Some(target),
            }
        }
        None
    }

    /// An error where the schema is strict.
    pub(super) fn refuse(&self, place: &str, keyword: &str) -> Result<(), GrammarTextError> {
        match self.strictness {
            Strictness::Lax => Ok(()),
            Strictness::Strict => {
                Err(GrammarTextError::Keyword { place: place.to_owned(), keyword: keyword.to_owned() })
            }
        }
    }

    fn clean(&mut self, schema: &'a Value, place: &str) -> Result<Value, GrammarTextError> {
        let fields = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(fields) => fields,
            _ => return Err(wrong(place, "a schema must be an object or a boolean")),
        };
        let mut out = Map::new();
        for (keyword, value) in fields {
            let place = format!("{place}.{keyword}");
            if is_refused(keyword, value) {
                self.refuse(&place, keyword)?;
            } else if ENFORCED.contains(&keyword.as_str())
                && let Some(value) = self.keyword(keyword, value, &place)?
            {
                out.insert(keyword.clone(), value);
            }
        }
        if self.strictness == Strictness::Lax {
            coerce_one_of(&mut out);
        }
        if out.get("format").is_some_and(|name| name == "date" || name == "date-time") {
            out.entry("pattern").or_insert_with(|| json!(DATES_THAT_EXIST));
        }
        Ok(Value::Object(out))
    }

    /// The value of an enforced keyword; `None` where it says nothing that can be enforced.
    fn keyword(
        &mut self,
        keyword: &str,
        value: &'a Value,
        place: &str,
    ) -> Result<Option<Value>, GrammarTextError> {
        Ok(Some(match (keyword, value) {
            ("$ref", Value::String(reference)) => match self.target(reference) {
                Some(target) => {
                    let known = self.targets.iter().position(|&known| std::ptr::eq(known, target));
                    let index = known.unwrap_or_else(|| {
                        self.targets.push(target);
                        self.targets.len() - 1
                    });
                    json!(format!("#/$defs/r{index}"))
                }
                None => {
                    self.refuse(place, keyword)?;
                    return Ok(None);
                }
            },
            ("pattern", Value::String(text)) => match pattern::whole_text(text) {
                Ok(_) => value.clone(),
                Err(message) if self.strictness == Strictness::Strict => return Err(wrong(place, &message)),
                Err(_) => return Ok(None),
            },
            ("format", Value::String(name)) if !FORMATS.contains(&name.as_str()) => return Ok(None),
            ("enum" | "const", value) => {
                check_writable(value, place)?;
                value.clone()
            }
            ("properties" | "patternProperties", Value::Object(schemas)) => {
                let mut out = Map::new();
                for (name, schema) in schemas {
                    check_name(name, place)?;
                    out.insert(name.clone(), self.clean(schema, &format!("{place}.{name}"))?);
                }
                Value::Object(out)
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                let clean = |(index, schema)| self.clean(schema, &format!("{place}[{index}]"));
                Value::Array(schemas.iter().enumerate().map(clean).collect::<Result<_, _>>()?)
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => self.clean(schema, place)?,
            (_, value) => value.clone(),
        }))
    }
}

/// Keywords that say what is allowed.
pub(super) fn constraints(schema: &Value) -> impl Iterator<Item = &str> {
    let fields = schema.as_object().into_iter().flatten();
    fields
        .filter(|(keyword, value)| {
            let is_format = keyword.as_str() == "format";
            let is_known_format = value.as_str().is_some_and(|name| FORMATS.contains(&name));
            is_refused(keyword, value)
                || ENFORCED.contains(&keyword.as_str()) && (!is_format || is_known_format)
        })
        .map(|(keyword, _)| keyword.as_str())
}

pub(super) fn is_refused(keyword: &str, value: &Value) -> bool {
    REFUSED.contains(&keyword) && !(keyword == "uniqueItems" && *value == false)
}

/// Where nothing has to be exact, "one of" is "any of".
fn coerce_one_of(schema: &mut Map<String, Value>) {
    if !schema.contains_key("anyOf")
        && let Some(options) = schema.remove("oneOf")
    {
        schema.insert("anyOf".to_owned(), options);
    }
}

pub(super) fn wrong(place: &str, message: &str) -> GrammarTextError {
    GrammarTextError::Schema { place: place.to_owned(), message: message.to_owned() }
}

/// A fixed text must not spell the mark of a tag: where it is demanded, it could not be written.
fn check_name(name: &str, place: &str) -> Result<(), GrammarTextError> {
    if name.contains(MARK_END) {
        return Err(GrammarTextError::Unwritable { place: place.to_owned(), text: name.to_owned() });
    }
    Ok(())
}

/// As [`check_name`], for all texts in a value.
pub(super) fn check_writable(value: &Value, place: &str) -> Result<(), GrammarTextError> {
    match value {
        Value::String(text) => check_name(text, place),
        Value::Array(items) => items.iter().try_for_each(|item| check_writable(item, place)),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            check_name(name, place)?;
            check_writable(value, place)
        }),
        _ => Ok(()),
    }
}

/// The fragment of a reference without its percent signs.
fn decoded(fragment: &str) -> String {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
