//! A server over the scripted model, and a client that speaks HTTP by hand: what a library would mend stays visible.

#![allow(dead_code, reason = "each test file uses a part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cuvier_encoding::Generation;
use cuvier_engine::{Engine, EngineConfig};
use cuvier_server::{App, ServerConfig};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::scripted::{Scripted, tokenizer};

/// Nothing here waits longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a port of its own. Dropping it stops it.
pub struct Server {
    pub address: SocketAddr,
    pub n_steps: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a test may change.
pub struct Setup {
    pub server: ServerConfig,
    pub engine: EngineConfig,
    pub context_max: usize,
}

impl Server {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup {
            server: ServerConfig::new("scripted", Generation::Revised0731),
            engine: EngineConfig { batch_tokens_max: 64, ..EngineConfig::default() },
            context_max: 100_000,
        };
        change(&mut setup);
        let model = Scripted::new(setup.context_max);
        let n_steps = model.n_steps.clone();
        let engine = Engine::start(model, setup.engine).unwrap();
        let app = Arc::new(App::new(engine, tokenizer(), setup.server).unwrap());
        let (stop, stopped) = oneshot::channel();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let stopped = async {
                let _ = stopped.await;
            };
            runtime.block_on(cuvier_server::serve(app, listener, stopped));
        });
        Self { address, n_steps, stop: Some(stop), thread: Some(thread) }
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    pub fn get(&self, path: &str) -> Response {
        self.connect().ask("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.connect().ask("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// A value of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Asks the server to stop, and does not wait.
    pub fn tell_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has.
    pub fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub fn steps(&self) -> usize {
        self.n_steps.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

/// Waits until `is_so`.
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

pub struct Connection {
    stream: BufReader<TcpStream>,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// One block of an event stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub name: Option<String>,
    /// `null` for a comment and for `[DONE]`.
    pub data: Value,
    pub raw: String,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Writes, and does not mind if nobody takes it.
    pub fn try_write(&mut self, bytes: &[u8]) {
        let _ = self.stream.get_mut().write_all(bytes);
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        if headers.iter().all(|(name, _)| *name != "host") {
            let host = self.stream.get_ref().peer_addr().unwrap();
            head.push_str(&format!("host: {host}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.write(&[head.as_bytes(), body].concat());
    }

    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send(method, path, headers, body);
        self.response(method)
    }

    /// Sends a JSON request and leaves its answer to be read.
    pub fn post(&mut self, path: &str, body: &Value) {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes());
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    pub fn head(&mut self) -> Response {
        let status = self.line();
        let code = status.split(' ').nth(1).unwrap_or_else(|| panic!("no status in `{status}`"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Response { status: code.parse().unwrap(), headers, body: Vec::new() }
    }

    pub fn response(&mut self, method: &str) -> Response {
        let mut response = self.head();
        if method == "HEAD" || response.status == 204 {
            return response;
        }
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                response.body.extend(chunk);
            }
        } else {
            let length = response.header("content-length").unwrap().parse().unwrap();
            response.body = vec![0; length];
            self.stream.read_exact(&mut response.body).unwrap();
        }
        response
    }

    /// The next chunk of a body, `None` after the last.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = usize::from_str_radix(&self.line(), 16).unwrap();
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk).unwrap();
        assert_eq!(self.line(), "");
        (length > 0).then_some(chunk)
    }

    /// All that is sent until the server closes the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = self.stream.read_to_end(&mut rest);
        rest
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The JSON of an answer that must be there.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// Every block but comments.
    pub fn events(&self) -> Vec<Event> {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let text = self.text();
        assert!(text.ends_with("\n\n"), "the last block is whole");
        text.split_terminator("\n\n").filter(|block| !block.starts_with(':')).map(Event::read).collect()
    }
}

impl Event {
    fn read(block: &str) -> Self {
        let mut event = Self { name: None, data: Value::Null, raw: String::new() };
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("event", name)) => event.name = Some(name.to_owned()),
                Some(("data", data)) => {
                    data.clone_into(&mut event.raw);
                    event.data = serde_json::from_str(data).unwrap_or_default();
                }
                _ => panic!("not a line of an event stream: {line}"),
            }
        }
        event
    }
}

/// A message that makes the model say this; see `scripted`.
pub fn script(answers: &Value) -> String {
    format!("SCRIPT:{answers}")
}
