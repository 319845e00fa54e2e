//! One row per thing a model does: what it writes, and what is read.

use super::*;

type Row<'a> = (&'a str, String, (&'a str, &'a str, &'a [&'a str], Ending));

fn check(rows: &[Row<'_>], options: &ParserOptions, reason: FinishReason) {
    for (about, text, (reasoning, content, calls, ending)) in rows {
        let got = read_every_way(text, options, reason);
        let calls = calls.iter().map(|&call| call.to_owned()).collect();
        assert_eq!(
            short(&got),
            ((*reasoning).to_owned(), (*content).to_owned(), calls, *ending),
            "{about}: {text:?}"
        );
    }
}

use Ending::{Length, Stop, ToolCalls};

#[test]
fn what_the_official_parser_accepts_is_read_as_it_reads_it() {
    let one = block("f|s:s=x");
    let thinking: [Row<'_>; 6] = [
        ("reasoning and content", format!("r</think>hi{EOS}"), ("r", "hi", &[], Stop)),
        ("calls", format!("r</think>text\n\n{one}{EOS}"), ("r", "text", &["f {\"s\": \"x\"}"], ToolCalls)),
        (
            "no end of turn after a block",
            format!("r</think>\n\n{one}"),
            ("r", "", &["f {\"s\": \"x\"}"], ToolCalls),
        ),
        ("empty reasoning", format!("</think>a{EOS}"), ("", "a", &[], Stop)),
        ("white space of reasoning", format!("\n r \n</think>a{EOS}"), ("\n r \n", "a", &[], Stop)),
        ("leading newlines of content", format!("r</think>\n\nhi{EOS}"), ("r", "\n\nhi", &[], Stop)),
    ];
    check(&thinking, &options(true, true), FinishReason::Stop);
    let chat: [Row<'_>; 7] = [
        ("content", format!("hi{EOS}"), ("", "hi", &[], Stop)),
        ("trailing white space", format!("hi \n\n{EOS}"), ("", "hi \n\n", &[], Stop)),
        ("two calls", block("f|s:s=x;;g|i:j=1"), ("", "", &["f {\"s\": \"x\"}", "g {\"i\": 1}"], ToolCalls)),
        ("no parameter, one newline", block("f"), ("", "", &["f {}"], ToolCalls)),
        ("no parameter, blank line", block("f").replace("\">\n", "\">\n\n"), ("", "", &["f {}"], ToolCalls)),
        (
            "raw values",
            block("f|s:s=a<b>&\"\n</x>|any:j={\"k\": [1.50]}"),
            ("", "", &["f {\"s\": \"a<b>&\\\"\\n</x>\", \"any\": {\"k\": [1.50]}}"], ToolCalls),
        ),
        ("quotes in a name", block("f|a\"b:s=1"), ("", "", &["f {\"a\\\"b\": \"1\"}"], ToolCalls)),
    ];
    check(&chat, &options(false, true), FinishReason::Stop);
}

#[test]
fn what_the_official_parser_refuses_is_read_as_it_was_meant() {
    let one = block("f|s:s=x");
    let x: &[&str] = &["f {\"s\": \"x\"}"];
    let rows: [Row<'_>; 19] = [
        ("no end of turn", "hi".into(), ("", "hi", &[], Stop)),
        ("block without a blank line", format!("text{one}"), ("", "text", x, ToolCalls)),
        ("text after the block", format!("{one}\n\nmore"), ("", "", x, ToolCalls)),
        ("block again and again", format!("{one}</｜DSML｜invoke></｜DSML｜tool_calls>{one}"), ("", "", x, ToolCalls)),
        ("first bar lost", one.replace("｜DSML｜", "DSML｜"), ("", "", x, ToolCalls)),
        ("low bar lost", one.replace("tool_calls", "toolcalls"), ("", "", x, ToolCalls)),
        ("no marks, at line start", format!("so:\n{}", one.replace("｜DSML｜", "")), ("", "so:", x, ToolCalls)),
        ("no marks, inside a line", "use <tool_calls> for it".into(), ("", "use <tool_calls> for it", &[], Stop)),
        ("no marks in the block", "<tool_calls><invoke name='f'><parameter name='s' string='true'>x</parameter></invoke></tool_calls>".into(), ("", "", x, ToolCalls)),
        ("no white space between tags", one.replace('\n', ""), ("", "", x, ToolCalls)),
        ("much white space", one.replace('\n', " \r\n\t\n "), ("", "", x, ToolCalls)),
        ("text between tags", one.replace('\n', " so \n"), ("", "", x, ToolCalls)),
        ("call not closed", one.replace("</｜DSML｜invoke>\n", ""), ("", "", x, ToolCalls)),
        ("call opened in a call", block("f|s:s=x;;g").replacen("</｜DSML｜invoke>\n", "", 1),
            ("", "", &["f {\"s\": \"x\"}", "g {}"], ToolCalls)),
        ("body is JSON", block("f").replace("f\">\n", "f\">\n{\"s\": 1, \"t\": \"<\"}\n"), ("", "", &["f {\"s\": 1, \"t\": \"<\"}"], ToolCalls)),
        ("body is nearly JSON", block("f").replace("f\">\n", "f\">\n{\"s\": \n"), ("", "", &["f {\"arguments\": \"{\\\"s\\\":\"}"], ToolCalls)),
        ("empty block", "a\n\n<｜DSML｜tool_calls>\n</｜DSML｜tool_calls>".into(),
            ("", "a\n\n<｜DSML｜tool_calls>\n</｜DSML｜tool_calls>", &[], Stop)),
        ("unknown tag", "<｜DSML｜tool_box>".into(), ("", "<｜DSML｜tool_box>", &[], Stop)),
        ("end of thinking first", "</think>hi".into(), ("", "hi", &[], Stop)),
    ];
    check(&rows, &options(false, true), FinishReason::Stop);
    let thinking: [Row<'_>; 7] = [
        ("reasoning never closed", "still thinking".into(), ("still thinking", "", &[], Stop)),
        ("reasoning ends the turn", format!("still{EOS}"), ("still", "", &[], Stop)),
        ("reasoning opened again", "<think>r</think>a".into(), ("r", "a", &[], Stop)),
        ("second end of thinking", "r</think>a</think>b".into(), ("r", "a</think>b", &[], Stop)),
        (
            "block quoted in reasoning",
            format!("use `{one}` then</think>a"),
            (&format!("use `{one}` then"), "a", &[], Stop),
        ),
        ("block in reasoning", format!("call:\n\n{one}"), ("call:", "", x, ToolCalls)),
        (
            "end of turn quoted",
            format!("the {EOS} token</think>the {EOS} token{EOS}"),
            (&format!("the {EOS} token"), &format!("the {EOS} token"), &[], Stop),
        ),
    ];
    check(&thinking, &options(true, true), FinishReason::Stop);
}

#[test]
fn without_tools_nothing_is_a_call() {
    let text = format!("a\n\n{}", block("f|s:s=x"));
    check(&[("block", text.clone(), ("", &text, &[], Stop))], &options(false, false), FinishReason::Stop);
    let text = format!("r\n\n{}", block("f"));
    check(
        &[("block", format!("{text}</think>b"), (&text, "b", &[], Stop))],
        &options(true, false),
        FinishReason::Stop,
    );
}

#[test]
fn values_become_json_whatever_the_model_wrote() {
    for (call, want) in [
        // Marked as JSON.
        ("f|any:j=abc", r#"{"any": "abc"}"#),
        ("f|any:j=NaN", r#"{"any": "NaN"}"#),
        ("f|any:j=", r#"{"any": ""}"#),
        ("f|any:j= 1e5 ", r#"{"any":  1e5 }"#),
        ("f|any:j=\"x", r#"{"any": "\"x"}"#),
        ("f|any:j={\"a\":[true,null]}", r#"{"any": {"a":[true,null]}}"#),
        ("f|s:j=1", r#"{"s": 1}"#),
        // Not marked.
        ("f|any:?=1", r#"{"any": 1}"#),
        ("f|any:?=one", r#"{"any": "one"}"#),
        ("f|s:?=1", r#"{"s": "1"}"#),
        ("f|m:?=1", r#"{"m": "1"}"#),
        // Marked as strings where the schema wants something else.
        ("f|i:s=12", r#"{"i": 12}"#),
        ("f|i:s=1.5", r#"{"i": "1.5"}"#),
        ("f|i:s=twelve", r#"{"i": "twelve"}"#),
        ("f|n:s=1.5", r#"{"n": 1.5}"#),
        ("f|b:s=true", r#"{"b": true}"#),
        ("f|b:s=1", r#"{"b": "1"}"#),
        ("f|o:s={\"a\": 1}", r#"{"o": {"a": 1}}"#),
        ("f|l:s=[1]", r#"{"l": [1]}"#),
        ("f|l:s=null", r#"{"l": null}"#),
        ("f|m:s=1", r#"{"m": "1"}"#),
        ("f|any:s=1", r#"{"any": "1"}"#),
        ("g|i:s=12", r#"{"i": "12"}"#),
        ("unknown|i:s=12", r#"{"i": "12"}"#),
        // Entities are text: the format has no escapes.
        ("f|s:s=&lt;a&gt; &amp;", r#"{"s": "&lt;a&gt; &amp;"}"#),
        ("f|s:s=2>&1 <", r#"{"s": "2>&1 <"}"#),
        ("f|s:s=</｜DSML｜invoke> ", r#"{"s": "</｜DSML｜invoke> "}"#),
        // The same name twice: readers of JSON take the last.
        ("f|s:s=a|s:s=b", r#"{"s": "a", "s": "b"}"#),
        // All arguments in one parameter that the function does not have.
        ("f|arguments:s={\"s\": \"x\"}", r#"{"s": "x"}"#),
        ("f|input:j={\"s\": 1}", r#"{"s": 1}"#),
        ("f|arguments:s={broken", r#"{"arguments": "{broken"}"#),
        ("f|arguments:j={\"s\": 1}|i:j=2", r#"{"arguments": {"s": 1}, "i": 2}"#),
        ("f|i:j=2|arguments:j={\"s\": 1}", r#"{"i": 2, "arguments": {"s": 1}}"#),
        ("h|input:s={\"s\": 1}", r#"{"input": "{\"s\": 1}"}"#),
        ("unknown|arguments:s={\"s\": 1}", r#"{"arguments": "{\"s\": 1}"}"#),
    ] {
        let got = read_every_way(&block(call), &options(false, true), FinishReason::Stop);
        assert_eq!(got.tool_calls[0].arguments, want, "{call}");
        assert_eq!(got.content, "");
    }
}

#[test]
fn parameters_inside_a_parameter_are_its_fields() {
    let parameter = |key: &str, attribute: &str, value: &str| {
        format!("<｜DSML｜parameter name=\"{key}\"{attribute}>{value}</｜DSML｜parameter>")
    };
    let inner = parameter("x", " string=\"true\"", "1") + "\n" + &parameter("y", " string=\"false\"", "2");
    let deep = parameter("z", " string=\"false\"", &parameter("w", "", "\n<b>"));
    let text = format!(
        "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n{}\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        parameter("o", " string=\"false\"", &format!("\n{inner}\n{deep}\n"))
    );
    let got = read_every_way(&text, &options(false, true), FinishReason::Stop);
    assert_eq!(got.tool_calls[0].arguments, r#"{"o": {"x": "1", "y": 2, "z": {"w": "\n<b>"}}}"#);
}

#[test]
fn an_answer_that_is_cut_makes_no_half_call() {
    let two = block("f|s:s=x;;g|s:s=long value|i:j=1");
    let at = |mark: &str| two[..two.rfind(mark).unwrap()].to_owned();
    let x: &[&str] = &["f {\"s\": \"x\"}"];
    let rows: [Row<'_>; 8] = [
        ("in a value", at("value"), ("", "", x, Length)),
        ("in a JSON value", at("1<"), ("", "", x, Length)),
        ("in the tag of a parameter", at("name=\"i"), ("", "", x, Length)),
        ("before any parameter", at("<｜DSML｜parameter name=\"s"), ("", "", x, Length)),
        ("in the tag of a call", at("=\"g"), ("", "", x, Length)),
        (
            "in the closing tag of the call",
            at("invoke>"),
            ("", "", &["f {\"s\": \"x\"}", "g {\"s\": \"long value\", \"i\": 1}"], Length),
        ),
        (
            "in the closing tag of the block",
            at("calls>"),
            ("", "", &["f {\"s\": \"x\"}", "g {\"s\": \"long value\", \"i\": 1}"], Length),
        ),
        ("in the reasoning's last tag", "a</th".into(), ("", "a</th", &[], Length)),
    ];
    check(&rows, &options(false, true), FinishReason::Length);
    let first = "a\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"s\" string=\"true\">rm -rf /tmp/x";
    check(
        &[("nothing but half a call", first.into(), ("", first, &[], Length))],
        &options(false, true),
        FinishReason::Length,
    );
}

#[test]
fn an_answer_that_stops_inside_a_call_meant_to_close_it() {
    let full = block("f|s:s=x");
    let x: &[&str] = &["f {\"s\": \"x\"}"];
    let value_end = full.find("</｜DSML｜parameter>").unwrap();
    for end in (value_end..full.len()).filter(|&end| full.is_char_boundary(end)) {
        check(
            &[("cut", full[..end].to_owned(), ("", "", x, ToolCalls))],
            &options(false, true),
            FinishReason::Stop,
        );
    }
    let forgot = full.replace("</｜DSML｜parameter>\n", "");
    check(
        &[
            ("closing tag of the parameter forgotten", forgot.clone(), ("", "", x, ToolCalls)),
            ("and the end of turn spelled out", format!("{forgot}{EOS}"), ("", "", x, ToolCalls)),
        ],
        &options(false, true),
        FinishReason::Stop,
    );
}
