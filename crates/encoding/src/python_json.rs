//! JSON as Python writes it: the spelling the model was trained on.
//!
//! Source: CPython's `json.dumps(value, ensure_ascii=False)` and `float.__repr__`, recorded in
//! `fixtures/encoding/python_json.json`.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use serde_json::{Number, Value};

/// Writes `value` as Python's `json.dumps(value, ensure_ascii=False)` does: `", "` and `": "` between the parts,
/// keys in their order, integers digit for digit, other numbers as Python prints a float.
#[must_use]
pub fn to_python_json(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (i, (key, field)) in fields.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_string(out, key);
                out.push_str(": ");
                write_value(out, field);
            }
            out.push('}');
        }
    }
}

pub(crate) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    escape_into(out, text);
    out.push('"');
}

/// The inside of a JSON string. Pieces of a text escape to pieces of the escaped text.
pub(crate) fn escape_into(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => {
                let code = u32::from(c);
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{code:04x}");
            }
            _ => out.push(c),
        }
    }
}

fn write_number(out: &mut String, number: &Number) {
    let text = number.as_str();
    if text.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) {
        // Every JSON number is a Rust float literal, too large ones infinite.
        write_float(out, text.parse().unwrap_or(f64::INFINITY));
    } else {
        // Python reads `-0` as the integer 0.
        out.push_str(if text == "-0" { "0" } else { text });
    }
}

/// The shortest digits that read back as `x`; an exponent only below 1e-4 and from 1e16 on.
fn write_float(out: &mut String, x: f64) {
    if x.is_infinite() {
        out.push_str(if x > 0.0 { "Infinity" } else { "-Infinity" });
        return;
    }
    let scientific = format!("{x:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        // Rust prints the same shortest digits, and `.0` behind a whole number.
        let _ = write!(out, "{x:?}");
        return;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.unsigned_abs());
}
