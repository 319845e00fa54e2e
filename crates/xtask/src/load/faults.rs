//! Clients that leave, stall, or send what nobody should.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Server, Setup};
use super::wire;

/// Memory may grow by this much over everything.
const GROWTH_MAX: u64 = 256 << 20;
const CHAT: &str = "/v1/chat/completions";

/// Everything, one after the other; after each the server must still answer, and hold no slot.
pub fn run(setup: &Setup, aborts: usize) -> anyhow::Result<String> {
    let server = setup.start(&["--queue", "256"])?;
    let want = answer(&server)?;
    let before = server.memory();
    let mut steps: Vec<(&str, String)> = Vec::new();
    steps.push(("aborts", abort_everywhere(&server, aborts)?));
    check(&server, &want)?;
    steps.push(("body of 100 MB", status(&server, &vec![b' '; 100 << 20], 413)?));
    check(&server, &want)?;
    let deep = format!("{{\"messages\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    steps.push(("100,000 deep", status(&server, deep.as_bytes(), 400)?));
    steps.push(("invalid UTF-8", status(&server, b"{\"messages\": \"\xff\xfe\"}", 400)?));
    steps.push(("half of a body", half_body(&server)?));
    steps.push(("garbage after a request", garbage(&server)?));
    check(&server, &want)?;
    let after = server.memory();
    anyhow::ensure!(after <= before + GROWTH_MAX, "memory grew from {before} to {after} bytes");
    let steps: Vec<String> = steps.iter().map(|(what, found)| format!("{what}: {found}")).collect();
    Ok(format!("{}; memory {} to {} MiB, still answering", steps.join("; "), before >> 20, after >> 20))
}

fn request() -> Value {
    json!({
        "messages": [{"role": "user", "content": "What is 27 + 58?"}], "temperature": 0, "stream": true,
        "max_tokens": 200, "reasoning_effort": "none",
    })
}

fn answer(server: &Server) -> anyhow::Result<String> {
    Ok(wire::stream(server.address, &request())?.text)
}

fn check(server: &Server, want: &str) -> anyhow::Result<()> {
    server.wait_until_idle(Duration::from_secs(30))?;
    let got = answer(server)?;
    anyhow::ensure!(got == want, "the server answers {got:?}, before {want:?}");
    Ok(())
}

/// Leaves at every stage: connected, in the head, in the body, in the prompt, in the answer.
fn abort_everywhere(server: &Server, n: usize) -> anyhow::Result<String> {
    let mut request = request();
    request["logit_bias"] = json!({"1": -100});
    request["max_tokens"] = json!(4000);
    let body = request.to_string();
    let whole = format!("{}{body}", wire::head("POST", CHAT, body.len()));
    let mut refused = 0;
    for index in 0..n {
        let mut stream = match wire::connect(server.address) {
            Ok(stream) => stream,
            Err(_) => {
                refused += 1;
                continue;
            }
        };
        let sent = match index % 8 {
            0 => 0,
            1..=3 => whole.len() * (index % 97) / 97,
            _ => whole.len(),
        };
        let _ = stream.write_all(&whole.as_bytes()[..sent]);
        if index % 8 == 7 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    anyhow::ensure!(refused == 0, "{refused} of {n} connections were refused");
    Ok(format!("{n}, no slot lost"))
}

fn status(server: &Server, body: &[u8], want: u16) -> anyhow::Result<String> {
    let mut stream = wire::connect(server.address)?;
    stream.write_all(wire::head("POST", CHAT, body.len()).as_bytes())?;
    // A server that refuses from the length alone reads no body.
    let _ = stream.write_all(&body[..body.len().min(1 << 20)]);
    if body.len() <= 1 << 20 {
        let _ = stream.write_all(&[]);
    }
    let (got, _) = wire::read_response(stream)?;
    anyhow::ensure!(got == want, "status {got}, not {want}");
    Ok(got.to_string())
}

/// Sends half of a body and nothing more; the connection is left to the server's patience.
fn half_body(server: &Server) -> anyhow::Result<String> {
    let body = request().to_string();
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let mut stream = wire::connect(server.address)?;
        stream.write_all(wire::head("POST", CHAT, body.len()).as_bytes())?;
        stream.write_all(&body.as_bytes()[..body.len() / 2])?;
        stalled.push(stream);
    }
    answer(server)?;
    Ok("64 stalled, others answered".to_owned())
}

fn garbage(server: &Server) -> anyhow::Result<String> {
    let mut stream = wire::connect(server.address)?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n\x00\xff\x16\x03garbage\r\n\r\n")?;
    let (status, _) = wire::read_response(stream)?;
    anyhow::ensure!(status == 200, "the request before the garbage: {status}");
    Ok("answered, then closed".to_owned())
}
