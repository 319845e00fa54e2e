//! Whole answers that take long: what is sent before they are there, and what of them is told afterwards.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod scripted;

use std::time::Duration;

use client::{Response, Server, script, wait_until};
use serde_json::{Value, json};

const PATHS: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"];

/// Answers take longer than this, where they are late.
const PATIENCE: Duration = Duration::from_millis(50);

fn impatient() -> Server {
    Server::with(|setup| setup.server.blank_lines_after = PATIENCE)
}

/// One request that every path reads, without thinking; `max_tokens` is Anthropic's.
fn request(steps: &Value) -> Value {
    let text = script(&json!([steps]));
    json!({
        "messages": [{"role": "user", "content": text}], "input": text, "prompt": text,
        "thinking": {"type": "disabled"}, "max_tokens": 500,
    })
}

/// Every token is later than the whole patience.
fn late(last: Value) -> Value {
    request(&json!([{"token_ms": 100}, {"say": "so"}, last]))
}

fn assert_is_late(response: &Response, path: &str) {
    assert_eq!(response.header("content-type"), Some("application/json"), "{path}");
    assert_eq!(response.header("transfer-encoding"), Some("chunked"), "{path}");
    assert!(response.text().starts_with('\n'), "{path}: {}", response.text());
}

/// What is the same in every answer to the same request.
fn essence(answer: &Value) -> Value {
    let answer = answer.clone();
    json!([answer["choices"], answer["content"], answer["output"][0]["content"], answer["stop_reason"]])
}

#[test]
fn a_late_answer_is_the_punctual_one_behind_blank_lines() {
    let (patient, impatient) = (Server::start(), impatient());
    for path in PATHS {
        let punctual = patient.post(path, &late(json!({"say": "."})));
        assert_eq!(punctual.header("transfer-encoding"), None, "{path}");
        let late = impatient.post(path, &late(json!({"say": "."})));
        assert_is_late(&late, path);
        assert_eq!(essence(&late.ok()), essence(&punctual.ok()), "{path}");
        assert_eq!(late.header("x-thinking"), punctual.header("x-thinking"), "{path}");
    }
}

#[test]
fn a_late_error_is_told_in_the_body_and_a_punctual_one_by_its_status() {
    let (patient, impatient) = (Server::start(), impatient());
    for path in PATHS {
        let broken = late(json!({"fail": "the model broke"}));
        let punctual = patient.post(path, &broken);
        assert_eq!((punctual.status, &punctual.json()["error"]["message"]), (500, &json!("the model broke")));
        let late = impatient.post(path, &broken);
        assert_is_late(&late, path);
        assert_eq!(late.ok()["error"], punctual.json()["error"], "{path}");
    }
}

#[test]
fn what_can_be_refused_at_once_is_refused_by_its_status_however_short_the_patience() {
    let server = Server::with(|setup| setup.server.blank_lines_after = Duration::ZERO);
    for path in PATHS {
        let mut wrong = request(&json!([{"say": "x"}]));
        wrong["temperature"] = json!("hot");
        assert_eq!(server.post(path, &wrong).status, 400, "{path}");
    }
}

#[test]
fn blank_lines_go_on_while_the_answer_is_not_there() {
    let server = impatient();
    let mut connection = server.connect();
    connection.post(PATHS[0], &request(&json!([{"token_ms": 5_500}, {"say": "x"}])));
    assert_eq!(connection.head().status, 200);
    assert_eq!(connection.chunk().unwrap(), b"\n", "after its patience");
    assert_eq!(connection.chunk().unwrap(), b"\n", "five seconds later");
}

#[test]
fn a_client_that_leaves_between_blank_lines_frees_its_slot() {
    let server = impatient();
    let words = "word ".repeat(2000);
    let mut connection = server.connect();
    connection.post(PATHS[0], &request(&json!([{"token_ms": 20}, {"say": words}])));
    assert_eq!(connection.head().status, 200);
    connection.chunk().unwrap();
    drop(connection);
    let freed = wait_until("the free slot", || server.metric("cuvier_requests_abandoned_total") == 1.0);
    assert!(freed < Duration::from_secs(1), "{freed:?}");
}
