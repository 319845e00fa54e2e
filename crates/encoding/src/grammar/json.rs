//! JSON as an answer, and as a part of a rule.

use serde_json::{Value, json};

use super::closed::closed;
use super::schema::{Cleaner, Strictness};
use super::{GrammarTextError, JsonRule};

/// How JSON is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// With white space where JSON allows it.
    Free,
    /// In one line, as `json.dumps` of Python or without any blank. Such a value can stand beside other rules.
    Line,
}

/// One line's end with its indentation, or blanks: a model that writes white space for ever is a known failure.
const WHITE_SPACE: &str = r"\n[\x20\t]{0,20}|[\x20\t]{1,20}";

pub(super) fn answer(rule: &JsonRule<'_>, layout: Layout) -> Result<String, GrammarTextError> {
    match rule {
        JsonRule::Object => Ok(value(json!({ "type": "object" }), layout, Strictness::Lax)),
        JsonRule::Schema { schema, is_strict } => {
            let strictness = if *is_strict { Strictness::Strict } else { Strictness::Lax };
            let cleaned = Cleaner::new(schema, "schema", strictness).whole(schema, "schema")?;
            Ok(value(closed(cleaned), layout, strictness))
        }
    }
}

/// The part of a rule that stands for a value of this schema, which must have been cleaned.
pub(super) fn value(schema: Value, layout: Layout, strictness: Strictness) -> String {
    let mut options = match layout {
        Layout::Free => json!({ "whitespace_pattern": WHITE_SPACE }),
        Layout::Line => {
            json!({ "whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?" })
        }
    };
    options["coerce_one_of"] = json!(strictness == Strictness::Lax);
    options["lenient"] = json!(strictness == Strictness::Lax);
    let mut schema = match schema {
        Value::Object(fields) => fields,
        Value::Bool(false) => [("anyOf".to_owned(), json!([]))].into_iter().collect(),
        _ => serde_json::Map::new(),
    };
    schema.insert("x-guidance".to_owned(), options);
    format!("%json {}", Value::Object(schema))
}
