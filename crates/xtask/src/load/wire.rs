//! A client that is close to the wire, so that it can also misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A connection with time limits.
pub fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    connect_for(address, PATIENCE)
}

/// A connection over which an answer may take that long.
pub fn connect_for(address: SocketAddr, patience: Duration) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(20)).context("connecting")?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The head of a request with a body of that length.
pub fn head(method: &str, path: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n"
    )
}

/// Status and body of whatever comes back.
pub fn read_response(stream: TcpStream) -> anyhow::Result<(u16, String)> {
    let mut bytes = Vec::new();
    BufReader::new(stream).read_to_end(&mut bytes).context("reading the answer")?;
    let text = String::from_utf8_lossy(&bytes);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((status, body))
}

pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = connect(address)?;
    stream.write_all(head("GET", path, 0).as_bytes())?;
    let (status, body) = read_response(stream)?;
    anyhow::ensure!(status == 200, "GET {path}: {status}");
    Ok(body)
}

/// A streamed answer as it was heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// Reasoning and content.
    pub text: String,
    /// When each chunk of text came.
    pub times: Vec<Instant>,
    /// When the server told of progress with the prompt.
    pub prefill_times: Vec<Instant>,
    /// `usage` of the last chunk that had it.
    pub usage: Value,
    pub finish: String,
}

impl Heard {
    pub fn n_tokens(&self) -> u64 {
        self.usage["completion_tokens"].as_u64().unwrap_or(0)
    }

    pub fn cached(&self) -> u64 {
        self.usage["prompt_cache_hit_tokens"].as_u64().unwrap_or(0)
    }
}

/// Streams a chat answer to its end.
pub fn stream(address: SocketAddr, request: &Value) -> anyhow::Result<Heard> {
    let body = request.to_string();
    let mut stream = connect(address)?;
    stream.write_all(head("POST", "/v1/chat/completions", body.len()).as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut lines = BufReader::new(stream).lines();
    let status = lines.next().context("no answer")??;
    if !status.contains(" 200 ") {
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        bail!("{status}: {}", rest.last().cloned().unwrap_or_default());
    }
    let mut heard = Heard::default();
    for line in lines {
        let line = line.context("the stream broke off")?;
        if line.starts_with(": prefill") {
            heard.prefill_times.push(Instant::now());
        }
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            return Ok(heard);
        }
        note(&mut heard, &serde_json::from_str(data).context("a chunk is not JSON")?)?;
    }
    bail!("the stream ended without [DONE]")
}

fn note(heard: &mut Heard, chunk: &Value) -> anyhow::Result<()> {
    anyhow::ensure!(chunk.get("error").is_none(), "{}", chunk["error"]);
    let choice = &chunk["choices"][0];
    for key in ["reasoning_content", "content"] {
        if let Some(text) = choice["delta"][key].as_str().filter(|text| !text.is_empty()) {
            heard.text.push_str(text);
            heard.times.push(Instant::now());
        }
    }
    if let Some(finish) = choice["finish_reason"].as_str() {
        finish.clone_into(&mut heard.finish);
    }
    if chunk["usage"].is_object() {
        heard.usage = chunk["usage"].clone();
    }
    Ok(())
}
