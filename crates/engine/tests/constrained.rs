//! Whatever a constraint lets through can be read and fits.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "constrained/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use cuvier_encoding::{CallChoice, CallOptions, Tokenizer, Tool, tool_calls_grammar};
use cuvier_engine::Guide;
use cuvier_engine::guide::{Grammar, Structure};
use serde_json::{Value, json};

use harness::{Prepared, Verdict, World, cases::cases, draw};

fn calf() -> World {
    World::new(Tokenizer::from_bytes(include_bytes!("../../../models/calf/tokenizer.json")).unwrap())
}

#[test]
fn hostile_logits_cannot_break_calls_or_json() {
    let world = calf();
    let mut n_whole = 0;
    for (index, case) in cases().into_iter().enumerate() {
        let prepared = Prepared::new(&world, case);
        for n in 0..4 {
            let drawn = draw(&world, &prepared, (index * 1000 + n) as u64);
            match drawn.verdict {
                Ok(verdict) => n_whole += usize::from(verdict != Verdict::Cut),
                Err(error) => panic!("{}, {n}: {error}\n{}", prepared.case.name, drawn.text),
            }
        }
    }
    assert!(n_whole > 50, "{n_whole} answers came to their end");
}

#[test]
fn several_calls_in_one_block_are_let_through() {
    let world = calf();
    let tool = |name: &str| {
        let days = json!({ "properties": { "city": { "type": "string" }, "days": { "type": "integer" } } });
        Tool { function: json!({ "name": name, "parameters": days }) }
    };
    let mark = world.tokenizer.control().dsml;
    let options = CallOptions { choice: CallChoice::Auto, is_parallel: true, mark };
    let text = tool_calls_grammar(&[tool("f"), tool("g")], &options).unwrap();
    let call = |name: &str, days: &str| {
        format!(
            "<｜DSML｜invoke name=\"{name}\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Łódź</｜DSML｜parameter>\n\
             {days}</｜DSML｜invoke>\n"
        )
    };
    let days = "<｜DSML｜parameter name=\"days\" string=\"false\">3</｜DSML｜parameter>\n";
    let block = [call("f", days), call("g", ""), call("f", "")].concat();
    let tokens = world.tokenizer.encode_with_control(&format!("tool_calls>\n{block}</｜DSML｜tool_calls>"));
    let mut grammar = Grammar::new(&world.vocabulary, &text, Structure::Calls).unwrap();
    for (index, token) in tokens.into_iter().enumerate() {
        assert!(grammar.allows(token).unwrap(), "token {index}");
        grammar.observe(token).unwrap();
    }
    assert!(grammar.is_complete().unwrap());
}

#[test]
fn a_hostile_schema_is_refused_or_compiled_in_bounded_time_and_a_mask_is_too() {
    let world = calf();
    let names = |n: usize| (0..n).map(|i| format!("name {i}")).collect::<Vec<_>>();
    let wide: serde_json::Map<String, Value> =
        names(3000).into_iter().map(|name| (name, json!({ "type": "string" }))).collect();
    let mut deep = json!({ "type": "integer" });
    for _ in 0..100 {
        deep =
            json!({ "type": "object", "properties": { "x": deep, "y": { "type": "array", "items": {} } } });
    }
    let mut doubled = json!({ "type": "integer" });
    for _ in 0..12 {
        doubled = json!({ "anyOf": [doubled.clone(), { "type": "array", "items": doubled }] });
    }
    let schemas = [
        ("refers to itself", json!({ "$ref": "#" })),
        ("refers to itself through another", json!({ "allOf": [{ "$ref": "#/properties/p" }] })),
        ("repeats repeats", json!({ "type": "string", "pattern": "((a{1,900}){1,900}){1,900}" })),
        ("looks everywhere", json!({ "type": "string", "pattern": "(.*a.*b.*c.*){20}.{300}z" })),
        ("longest", json!({ "type": "string", "maxLength": 1_000_000_000 })),
        ("most items", json!({ "type": "array", "minItems": 900_000, "maxItems": 1_000_000 })),
        ("many values", json!({ "enum": names(50_000) })),
        ("wide", json!({ "type": "object", "properties": wide })),
        ("deep", deep),
        ("doubled", doubled),
        ("numbers", json!({ "type": "number", "minimum": -1e300, "maximum": 1e-300, "multipleOf": 1e-9 })),
    ];
    for (name, schema) in schemas {
        for is_strict in [true, false] {
            let parameters = json!({ "type": "object", "properties": { "p": schema }, "required": ["p"] });
            let tool =
                Tool { function: json!({ "name": "f", "parameters": parameters, "strict": is_strict }) };
            let mark = world.tokenizer.control().dsml;
            let options = CallOptions { choice: CallChoice::Required, is_parallel: true, mark };
            let start = Instant::now();
            let grammar =
                tool_calls_grammar(&[tool], &options).map_err(|error| error.to_string()).and_then(|text| {
                    Grammar::new(&world.vocabulary, &text, Structure::Text).map_err(|error| error.to_string())
                });
            let compiled_in = start.elapsed();
            assert!(compiled_in < Duration::from_secs(20), "{name}: {compiled_in:?}");
            let Ok(mut grammar) = grammar else {
                println!("{name}, {is_strict}: {compiled_in:?}, {}", grammar.unwrap_err());
                continue;
            };
            let start = Instant::now();
            let mut n = 0;
            // Into the value, as far as it goes; a failure to go on is a failure of this answer alone.
            while let (Ok(allowed), true) = (grammar.allowed(), n < 60) {
                let ids = (0..world.tokenizer.vocab_size() as u32).rev().map(cuvier_types::TokenId);
                let token = ids.into_iter().find(|&token| allowed.contains(token)).unwrap();
                if grammar.observe(token).is_err() {
                    break;
                }
                n += 1;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{name}: {:?}", start.elapsed());
            println!("{name}, {is_strict}: {compiled_in:?}, {n} masks in {:?}", start.elapsed());
        }
    }
}
