//! The first requests of coding agents, in their shape: answered, and prompted the same when only a nonce changed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod scripted;

use client::{Response, Server};
use serde_json::{Value, json};

const CAPTURED: [(&str, &str); 4] = [
    ("claude_code", include_str!("captured/claude_code.json")),
    ("codex", include_str!("captured/codex.json")),
    ("opencode", include_str!("captured/opencode.json")),
    ("opencode_title", include_str!("captured/opencode_title.json")),
];

fn captured(name: &str) -> Value {
    let (_, text) = CAPTURED.iter().find(|(captured, _)| *captured == name).unwrap();
    serde_json::from_str(text).unwrap()
}

fn send(server: &Server, request: &Value) -> Response {
    let headers = request["headers"].as_object().unwrap().iter();
    let headers: Vec<_> = headers.map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
    let headers = [&headers[..], &[("content-type", "application/json")]].concat();
    let body = request["body"].to_string();
    server.connect().ask("POST", request["path"].as_str().unwrap(), &headers, body.as_bytes())
}

#[test]
fn the_first_request_of_every_agent_is_answered_to_its_end() {
    let server = Server::start();
    for (name, text) in CAPTURED {
        let request: Value = serde_json::from_str(text).unwrap();
        let events = send(&server, &request).events();
        let last = events.last().unwrap();
        let end = last.name.as_deref().unwrap_or(&last.raw);
        assert!(["message_stop", "response.completed", "[DONE]"].contains(&end), "{name}: {end}");
        let said: String = events.iter().filter_map(|event| said(&event.data)).collect();
        assert!(said.starts_with("echo: "), "{name}: {said}");
    }
}

/// The content in an event of any protocol.
fn said(data: &Value) -> Option<&str> {
    let chat = &data["choices"][0]["delta"]["content"];
    let is_text = data["type"] == "response.output_text.delta";
    data["delta"]["text"].as_str().or(chat.as_str()).or(data["delta"].as_str().filter(|_| is_text))
}

/// Prompt and cached tokens of a Messages request, in its first event.
fn prompt_of_messages(server: &Server, request: &Value) -> (u64, u64) {
    let events = send(server, request).events();
    let usage = &events[0].data["message"]["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap();
    (count("input_tokens") + count("cache_read_input_tokens"), count("cache_read_input_tokens"))
}

#[test]
fn what_is_new_in_every_request_of_claude_code_is_not_in_the_prompt() {
    let server = Server::start();
    let mut request = captured("claude_code");
    let (prompt, _) = prompt_of_messages(&server, &request);
    request["body"]["system"][0]["text"] =
        json!("x-anthropic-billing-header: cc_version=2.1.197.abc; cch=99999;");
    request["body"]["metadata"]["user_id"] = json!("someone else");
    let (again, cached) = prompt_of_messages(&server, &request);
    assert_eq!(again, prompt);
    assert!(cached + 1 >= again, "{cached} of {again}");
}

#[test]
fn codex_is_given_back_the_namespace_of_a_tool_that_it_called() {
    let server = Server::start();
    let mut request = captured("codex");
    let call = json!([[{"call": "multi_agent_v1__spawn_agent", "arguments": {"message": "hi"}}]]);
    request["body"]["input"][3]["content"][0]["text"] = json!(client::script(&call));
    let events = send(&server, &request).events();
    let output = &events.last().unwrap().data["response"]["output"];
    let call = output.as_array().unwrap().iter().find(|item| item["type"] == "function_call").unwrap();
    assert_eq!((&call["name"], &call["namespace"]), (&json!("spawn_agent"), &json!("multi_agent_v1")));
    assert_eq!(call["arguments"], json!(r#"{"message": "hi"}"#));
}

#[test]
fn an_interrupted_turn_of_codex_goes_on() {
    let server = Server::start();
    let mut request = captured("codex");
    let input = request["body"]["input"].as_array_mut().unwrap();
    input.push(json!({"type": "reasoning", "summary": [], "encrypted_content": "aGlkZGVu", "content": null}));
    input.push(json!({"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "exec_command", "arguments": "{}"}));
    input.push(
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "stop it"}]}),
    );
    let events = send(&server, &request).events();
    let output = &events.last().unwrap().data["response"]["output"];
    let said = output.as_array().unwrap().last().unwrap()["content"][0]["text"].clone();
    assert_eq!(said, "echo: stop it");
}

#[test]
fn codex_may_look_for_models_and_for_a_server_that_compacts() {
    let server = Server::start();
    let agent = [("user-agent", "codex_exec/0.169.0")];
    let models = server.connect().ask("GET", "/v1/models?client_version=0.169.0", &agent, b"").ok();
    assert_eq!(models["models"], json!([]));
    assert_eq!(server.post("/v1/responses/compact", &json!({})).status, 404);
}
