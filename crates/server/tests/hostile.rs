//! Callers that are rude, slow, gone, too many, or not allowed: nothing panics, and who is left is still answered.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod scripted;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use client::{Connection, Server, script, wait_until};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");
const LEFT: &str = "cuvier_requests_abandoned_total";
const IN_FLIGHT: &str = "cuvier_requests_in_flight";

fn chat(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "thinking": {"type": "disabled"}})
}

/// An answer that takes long: 2,000 tokens, one every 20 ms.
fn slow() -> Value {
    let words = "word ".repeat(2000);
    let mut request = chat(&script(&json!([[{"token_ms": 20}, {"say": words}]])));
    request["stream"] = json!(true);
    request
}

fn assert_alive(server: &Server) {
    let answer = server.post(CHAT, &chat("still there?")).ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "echo: still there?");
}

#[test]
fn bodies_that_are_no_requests_are_refused() {
    let server = Server::start();
    let deep = [b"{\"a\":".repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat();
    let lists = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let bodies: [&[u8]; 9] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\"text\"",
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\xfe\"}]}",
        b"{\"messages\": \"none\", \"input\": 3, \"prompt\": {}}",
        &deep,
        &lists,
    ];
    for body in bodies {
        for path in [CHAT, "/v1/messages", "/v1/responses", "/v1/completions", "/v1/messages/count_tokens"] {
            let refused = server.connect().ask("POST", path, &[JSON], body);
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
            assert_eq!(refused.status, 400, "{path} {shown}");
            assert!(refused.json()["error"]["message"].is_string());
        }
    }
    assert_alive(&server);
}

#[test]
fn a_body_above_the_limit_is_refused_whether_or_not_it_says_its_length() {
    let server = Server::with(|setup| setup.server.body_max = 10_000);
    let long = vec![b' '; 20_000];
    let refused = server.connect().ask("POST", CHAT, &[JSON], &long);
    assert_eq!((refused.status, refused.header("connection")), (413, Some("close")));
    let refused = server.connect().ask("POST", "/v1/messages", &[JSON], &long);
    assert_eq!(refused.json()["error"]["type"], "request_too_large");

    let mut chunked = server.connect();
    let host = server.address;
    chunked.write(
        format!("POST {CHAT} HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes(),
    );
    for _ in 0..20 {
        chunked.try_write(&[b"3e8\r\n", &[b' '; 1000][..], b"\r\n"].concat());
    }
    assert_eq!(chunked.response("POST").status, 413);
    assert_alive(&server);
}

#[test]
fn what_is_not_http_ends_its_connection_and_nothing_else() {
    let server = Server::start();
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"HELLO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &[0; 64]]
    {
        let mut connection = server.connect();
        connection.write(garbage);
        connection.write(b"\r\n\r\n");
        let rest = connection.rest();
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&rest));
    }
    let mut connection = server.connect();
    connection.write(
        format!("GET /health HTTP/1.1\r\nhost: {0}\r\n\r\nGARBAGE\r\n\r\n", server.address).as_bytes(),
    );
    assert_eq!(connection.response("GET").status, 200, "the request before the garbage is answered");
    assert!(connection.rest().starts_with(b"HTTP/1.1 400"));

    let mut connection = server.connect();
    let head =
        format!("GET /health HTTP/1.1\r\nhost: {}\r\nx: {}\r\n\r\n", server.address, "y".repeat(1 << 20));
    connection.try_write(head.as_bytes());
    let rest = connection.rest();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&rest));
    assert_alive(&server);
}

#[test]
fn requests_that_follow_each_other_on_one_connection_are_answered_in_order() {
    let server = Server::start();
    let mut connection = server.connect();
    for text in ["first", "second", "third"] {
        connection.post(CHAT, &chat(text));
    }
    for text in ["first", "second", "third"] {
        let answer = connection.response("POST").ok();
        assert_eq!(answer["choices"][0]["message"]["content"], format!("echo: {text}"));
    }
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let server = Server::with(|setup| setup.server.body_timeout = Duration::from_millis(200));
    let mut connection = server.connect();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\n\r\n{{", server.address);
    connection.write(head.as_bytes());
    let start = Instant::now();
    assert_eq!(connection.response("POST").status, 408);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(server.metric(IN_FLIGHT), 0.0);
    assert_alive(&server);
}

#[test]
fn a_body_that_breaks_off_starts_nothing() {
    let server = Server::start();
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\n\r\n{{", server.address);
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    drop(stream);
    assert_alive(&server);
    assert_eq!(server.metric("cuvier_requests_total"), 1.0);
}

#[test]
fn a_client_that_leaves_frees_its_slot_at_once() {
    let server = Server::with(|setup| setup.engine.sequences_max = 1);
    for is_streamed in [true, false] {
        let left_before = server.metric(LEFT);
        let mut request = slow();
        request["stream"] = json!(is_streamed);
        let mut connection = server.connect();
        connection.post(CHAT, &request);
        if is_streamed {
            assert_eq!(connection.head().status, 200);
            while !String::from_utf8(connection.chunk().unwrap()).unwrap().contains("word") {}
        } else {
            wait_until("the request", || server.metric(IN_FLIGHT) == 1.0);
        }
        drop(connection);
        let freed = wait_until("the free slot", || server.metric(LEFT) == left_before + 1.0);
        assert!(freed < Duration::from_secs(1), "{freed:?}");
        // The only slot is free: a second answer does not wait for the rest of the first.
        let start = Instant::now();
        assert_alive(&server);
        assert!(start.elapsed() < Duration::from_secs(2));
        let steps = server.steps();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(server.steps(), steps, "nothing is computed for who has left");
    }
}

#[test]
fn a_client_that_leaves_while_its_prompt_is_read_frees_its_slot() {
    let server = Server::with(|setup| setup.engine.sequences_max = 1);
    let mut request = chat(&format!("{}{}", script(&json!([[{"prefill_ms": 100}]])), " word".repeat(2000)));
    request["stream"] = json!(true);
    let mut connection = server.connect();
    connection.post(CHAT, &request);
    assert_eq!(connection.head().status, 200, "the head does not wait for the prompt");
    connection.chunk().unwrap();
    drop(connection);
    let freed = wait_until("the free slot", || server.metric(LEFT) == 1.0);
    assert!(freed < Duration::from_secs(1), "{freed:?}");
    assert_alive(&server);
}

#[test]
fn who_comes_to_a_full_queue_is_told_when_to_come_again() {
    let server = Server::with(|setup| {
        setup.server.requests_max = 2;
        setup.engine.sequences_max = 1;
    });
    let mut under_way: Vec<Connection> = (0..2).map(|_| server.connect()).collect();
    for connection in &mut under_way {
        connection.post(CHAT, &slow());
        assert_eq!(connection.head().status, 200);
    }
    let refused = server.post(CHAT, &chat("me too"));
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    let refused = server.post("/v1/messages", &chat("me too"));
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (429, &json!("rate_limit_error")));
    assert_eq!(server.get("/health").status, 200);
    drop(under_way);
    wait_until("room", || server.metric(IN_FLIGHT) == 0.0);
    assert_alive(&server);
}

#[test]
fn a_request_that_no_queue_could_hold_is_refused_for_good() {
    let server = Server::with(|setup| setup.server.requests_max = 4);
    let mut request = chat("x");
    request["n"] = json!(8);
    assert_eq!(server.post(CHAT, &request).status, 400, "trying again would not help");
    let request = json!({"prompt": ["a", "b", "c"], "n": 2, "max_tokens": 1});
    assert_eq!(server.post("/v1/completions", &request).status, 400);
}

#[test]
fn a_request_that_waits_too_long_is_told_so() {
    let server = Server::with(|setup| {
        setup.server.queue_timeout = Duration::from_millis(200);
        setup.engine.sequences_max = 1;
    });
    let mut first = server.connect();
    first.post(CHAT, &slow());
    assert_eq!(first.head().status, 200);
    while !String::from_utf8(first.chunk().unwrap()).unwrap().contains("word") {}
    let refused = server.post(CHAT, &chat("second"));
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    assert_eq!(server.post("/v1/messages", &chat("third")).status, 529);
}

#[test]
fn keys_are_asked_for_everywhere_but_at_the_door() {
    let server = Server::with(|setup| setup.server.api_keys = vec!["k1".to_owned(), "k2".to_owned()]);
    let body = chat("x").to_string();
    let ask = |path: &str, key: Option<(&str, &str)>| {
        let headers: Vec<_> = key.into_iter().chain([JSON]).collect();
        server.connect().ask("POST", path, &headers, body.as_bytes())
    };
    let refused = ask(CHAT, None);
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (401, &json!("authentication_error")));
    let refused = ask("/v1/messages", Some(("x-api-key", "wrong")));
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (401, &json!("authentication_error")));
    for key in [("authorization", "Bearer k1"), ("x-api-key", "k2")] {
        assert_eq!(ask(CHAT, Some(key)).status, 200);
    }
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.connect().ask("HEAD", "/", &[], b"").status, 200);
}

#[test]
fn pages_of_other_origins_and_names_of_others_are_refused() {
    let server = Server::start();
    let ask = |headers: &[(&str, &str)]| server.connect().ask("GET", "/v1/models", headers, b"");
    assert_eq!(ask(&[("origin", "http://evil.example")]).status, 403);
    assert_eq!(ask(&[("host", "evil.example"), ("origin", "http://evil.example")]).status, 403);
    assert_eq!(ask(&[("host", "localhost:1")]).status, 200);
    let own = format!("http://{}", server.address);
    assert_eq!(ask(&[("origin", &own)]).status, 200);

    let open = Server::with(|setup| setup.server.cors = vec!["http://friend.example".to_owned()]);
    let preflight = open.connect().ask("OPTIONS", CHAT, &[("origin", "http://friend.example")], b"");
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("http://friend.example"));
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("POST"));
    let foreign = open.connect().ask("OPTIONS", CHAT, &[("origin", "http://evil.example")], b"");
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (403, None));
}

#[test]
fn a_server_told_to_stop_ends_what_is_under_way_and_takes_no_more() {
    let mut server = Server::with(|setup| setup.server.drain_timeout = Duration::from_secs(10));
    let mut request =
        chat(&script(&json!([[{"token_ms": 20}, {"say": "one two three four five six seven"}]])));
    request["stream"] = json!(true);
    let mut connection = server.connect();
    connection.post(CHAT, &request);
    assert_eq!(connection.head().status, 200);
    server.tell_to_stop();
    let mut text = String::new();
    while let Some(chunk) = connection.chunk() {
        text.push_str(&String::from_utf8(chunk).unwrap());
    }
    assert!(text.contains(r#""finish_reason":"stop""#) && text.ends_with("data: [DONE]\n\n"), "{text}");
    server.wait();
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn an_answer_that_outlasts_the_drain_is_cut_off() {
    let mut server = Server::with(|setup| setup.server.drain_timeout = Duration::from_millis(200));
    let mut connection = server.connect();
    connection.post(CHAT, &slow());
    assert_eq!(connection.head().status, 200);
    server.tell_to_stop();
    let start = Instant::now();
    server.wait();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}
