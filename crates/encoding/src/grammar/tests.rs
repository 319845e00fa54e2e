#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};

use super::*;

const MARK: TokenId = TokenId(6);

fn tool(name: &str, parameters: Value, is_strict: bool) -> Tool {
    Tool { function: json!({ "name": name, "parameters": parameters, "strict": is_strict }) }
}

fn options(choice: CallChoice<'_>) -> CallOptions<'_> {
    CallOptions { choice, is_parallel: true, mark: MARK }
}

fn auto(parameters: Value, is_strict: bool) -> Result<String, GrammarTextError> {
    tool_calls_grammar(&[tool("f", parameters, is_strict)], &options(CallChoice::Auto))
}

fn one(schema: Value, is_strict: bool) -> Result<String, GrammarTextError> {
    auto(json!({ "type": "object", "properties": { "p": schema } }), is_strict)
}

#[test]
fn a_strict_tool_has_its_parameters_in_order() {
    let schema = json!({
        "type": "object",
        "properties": { "city": { "type": "string" }, "days": { "type": "integer", "maximum": 14 } },
        "required": ["city"],
        "additionalProperties": false,
    });
    let want = r#"start: "tool_calls>\n" call+ "</" <[6]> "tool_calls>"
TEXT: /(?s:.*)<\//
t0p0: "<" <[6]> "parameter name=\"" "city" "\" string=\"true\">" (TEXT) <[6]> "parameter>\n"
t0p1j0: %json {"type":["integer"],"maximum":14,"x-guidance":{"whitespace_flexible":false,"item_separator":", ?","key_separator":": ?","coerce_one_of":false,"lenient":false}}
t0p1: "<" <[6]> "parameter name=\"" "days" "\" string=\"false\">" (t0p1j0) "</" <[6]> "parameter>\n"
t0: "<" <[6]> "invoke name=\"f\">\n" t0p0 t0p1? "</" <[6]> "invoke>\n"
call: t0
"#;
    assert_eq!(auto(schema, true).unwrap(), want);
}

#[test]
fn other_tools_have_them_in_any_order_and_none_twice() {
    let schema = json!({
        "properties": { "a": { "type": "string" }, "b": { "type": "string" } },
        "required": ["b"],
    });
    let text = auto(schema, false).unwrap();
    assert!(text.contains(
        "t0set::_: \"\" %if is_ones([0:1]) | t0p1 t0set::set_bit(0) %if bit_clear(0) | t0p0 t0set::set_bit(1) %if bit_clear(1)"
    ), "{text}");
}

#[test]
fn a_demanded_block_begins_with_its_opening_tag() {
    let tools = [tool("f", json!({}), false), tool("g", json!({}), false)];
    let text = tool_calls_grammar(&tools, &options(CallChoice::Named("g"))).unwrap();
    assert!(text.starts_with("start: \"\\n\\n<\" <[6]> \"tool_calls>\\n\" call \"</\""), "{text}");
    assert!(text.contains("call: t1\n") && !text.contains("t0"), "{text}");
    let unknown = tool_calls_grammar(&tools, &options(CallChoice::Named("h"))).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no tool named `h`");
    assert_eq!(tool_calls_grammar(&[], &options(CallChoice::Required)), Err(GrammarTextError::NoTools));
}

#[test]
fn what_cannot_be_enforced_is_an_error_where_the_schema_is_strict_and_left_out_elsewhere() {
    let schema = json!({ "type": "array", "items": { "type": "object", "not": {} }, "uniqueItems": true });
    let error = one(schema.clone(), true).unwrap_err();
    let want = "tools[0].function.parameters.properties.p.uniqueItems: `uniqueItems` cannot be enforced; remove it, or set `strict` to false";
    assert_eq!(error.to_string(), want);
    let text = one(schema, false).unwrap();
    assert!(!text.contains("uniqueItems") && !text.contains("\"not\""), "{text}");
    let error = one(json!({ "type": "string", "pattern": "(?=a)b" }), true).unwrap_err().to_string();
    assert!(error.starts_with("tools[0].function.parameters.properties.p.pattern: "), "{error}");
    assert!(one(json!({ "type": "string", "pattern": "(?=a)b" }), false).unwrap().contains("(TEXT)"));
}

#[test]
fn names_that_the_parser_would_read_differently_are_refused() {
    let with = |name: &str, is_required: bool| {
        let required: &[&str] = if is_required { &[name] } else { &[] };
        auto(json!({ "properties": { name: {} }, "required": required }), false)
    };
    for name in ["a\" string=\"true\">b", "a\">", "｜DSML｜", "xDSML｜"] {
        assert!(matches!(with(name, true), Err(GrammarTextError::Unwritable { .. })), "{name}");
        assert!(with(name, false).is_ok_and(|text| !text.contains("t0p0")), "{name}");
    }
    assert!(with("a\"b\n<c>", true).unwrap().contains(r#""a\"b\n<c>""#));
    let long = "n".repeat(3000);
    assert!(matches!(with(&long, true), Err(GrammarTextError::Unwritable { .. })));
}

#[test]
fn strings_are_text_where_their_schema_can_be_said_of_text() {
    let value = |schema: Value| {
        let text = one(schema, true).unwrap();
        text.lines()
            .filter(|line| line.starts_with("t0p0") || line.starts_with("T0P0"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(
        value(json!({ "enum": ["a", "b\"", 1] }))
            .starts_with("T0P0V0: (\"a\" | \"b\\\"\") \"</\"\nt0p0j1: %json {\"enum\":[1]")
    );
    let anchored = value(json!({ "pattern": "^a/\\d$" }));
    assert!(
        anchored.contains("a\\/") && anchored.contains("[0-9]") && !anchored.contains(".*"),
        "{anchored}"
    );
    let searched = value(json!({ "pattern": "x" }));
    assert!(searched.starts_with("T0P0V0: (/(?s:.*)(?:x)(?s:.*)/) \"</\""), "{searched}");
    assert!(value(json!({ "type": "string", "maxLength": 3 })).starts_with("T0P0V0: (/(?s:.{0,3})/) \"</\""));
    assert!(value(json!({ "type": "string", "format": "date" })).contains("string=\\\"false\\\""));
    let either = value(json!({ "anyOf": [{ "type": "string" }, { "type": "number" }] }));
    assert!(either.contains("string=\\\"true\\\"") && either.contains("string=\\\"false\\\""), "{either}");
}

#[test]
fn references_bring_along_what_they_refer_to() {
    let schema = json!({
        "type": "object",
        "properties": { "p": { "type": "array", "items": { "$ref": "#/$defs/a~1b" } } },
        "$defs": { "a/b": { "anyOf": [{ "type": "null" }, { "$ref": "#/properties/p" }] }, "unused": {} },
    });
    let text = auto(schema, true).unwrap();
    let want = r##"{"type":["array"],"items":{"$ref":"#/$defs/r0"},"$defs":{"r0":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/r1"}]},"r1":{"type":"array","items":{"$ref":"#/$defs/r0"}}},"##;
    assert!(text.contains(want), "{text}");
    assert!(one(json!({ "$ref": "#/nowhere" }), true).is_err());
    assert!(one(json!({ "$ref": "#/nowhere" }), false).unwrap().contains("(TEXT)"));
}

#[test]
fn json_answers_have_bounded_white_space() {
    let text = json_grammar(&JsonRule::Object).unwrap();
    assert!(
        text.starts_with("start: %json {\"type\":\"object\",\"x-guidance\":{\"whitespace_pattern\":"),
        "{text}"
    );
    let schema = json!({ "type": "object", "title": "T", "additionalProperties": false });
    let strict = json_grammar(&JsonRule::Schema { schema: &schema, is_strict: true }).unwrap();
    assert!(strict.contains("{\"type\":\"object\",\"additionalProperties\":false,"), "{strict}");
}
