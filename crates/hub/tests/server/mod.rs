//! A hub on the loopback, whose answers can be spoilt in every way that a network, a mirror or a liar can.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";

/// One way to spoil the answer to a request for a file.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after this many bytes of the body.
    Cut(u64),
    /// Nothing comes for this long after so many bytes of the body.
    Stall(u64, Duration),
    /// One bit of the body is another.
    Flip,
    /// Only a status, and headers.
    Status(u16, &'static str),
    /// The whole file, with status 200.
    Whole,
    /// A `Content-Range` that is not the one asked for.
    Range(&'static str),
    /// More bytes than were asked for, in chunked encoding.
    Long,
    /// A header as it is, beside a good body.
    Header(String),
    /// A redirect.
    Redirect(String),
}

/// What came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub range: Option<(u64, u64)>,
    pub authorization: Option<String>,
}

/// Decides the fault of a request by its path and its number among those of the same path, from 0.
pub type Plan = Box<dyn Fn(&str, usize) -> Option<Fault> + Send + Sync>;

pub struct Hub {
    pub address: String,
    state: Arc<State>,
}

struct State {
    files: Mutex<Vec<(String, Vec<u8>)>>,
    listing: Mutex<Option<String>>,
    plan: Mutex<Plan>,
    seen: Mutex<Vec<Seen>>,
    counts: Mutex<HashMap<String, usize>>,
}

impl Hub {
    pub fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            files: Mutex::new(
                files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect(),
            ),
            listing: Mutex::new(None),
            plan: Mutex::new(Box::new(|_, _| None)),
            seen: Mutex::new(Vec::new()),
            counts: Mutex::new(HashMap::new()),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                let _ = stream.set_nodelay(true);
                thread::spawn(move || while state.answer(&stream).is_some() {});
            }
        });
        Self { address, state }
    }

    pub fn faults(&self, plan: impl Fn(&str, usize) -> Option<Fault> + Send + Sync + 'static) {
        *self.state.plan.lock().unwrap() = Box::new(plan);
        self.state.counts.lock().unwrap().clear();
        self.state.seen.lock().unwrap().clear();
    }

    pub fn lie(&self, listing: String) {
        *self.state.listing.lock().unwrap() = Some(listing);
    }

    pub fn listing(&self) -> String {
        self.state.listing_text()
    }

    pub fn replace(&self, name: &str, bytes: Vec<u8>) {
        let mut files = self.state.files.lock().unwrap();
        files.iter_mut().find(|(file, _)| file == name).unwrap().1 = bytes;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Bytes of files that were asked for.
    pub fn asked(&self) -> u64 {
        self.seen().iter().filter_map(|seen| seen.range).map(|(first, last)| last + 1 - first).sum()
    }
}

impl State {
    fn listing_text(&self) -> String {
        let files = self.files.lock().unwrap();
        let siblings: Vec<String> = files
            .iter()
            .map(|(name, bytes)| {
                let size = bytes.len();
                let large = name.ends_with(".safetensors").then(|| {
                    format!(",\"lfs\":{{\"sha256\":\"{}\",\"size\":{size}}}", hex(&Sha256::digest(bytes)))
                });
                let mut git = Sha1::new();
                git.update(format!("blob {size}\0"));
                git.update(bytes);
                let blob = hex(&git.finalize());
                let large = large.unwrap_or_default();
                format!("{{\"rfilename\":\"{name}\",\"size\":{size},\"blobId\":\"{blob}\"{large}}}")
            })
            .collect();
        format!("{{\"id\":\"o/r\",\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}", siblings.join(","))
    }

    /// Answers one request; `None`: the connection is at its end.
    fn answer(&self, stream: &TcpStream) -> Option<()> {
        let seen = read_request(stream)?;
        let number = {
            let mut counts = self.counts.lock().unwrap();
            let count = counts.entry(seen.path.clone()).or_insert(0);
            *count += 1;
            *count - 1
        };
        self.seen.lock().unwrap().push(seen.clone());
        let fault = (self.plan.lock().unwrap())(&seen.path, number);
        let mut out = stream;
        if let Some(Fault::Status(status, headers)) = fault {
            write!(out, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{headers}\r\n").ok()?;
            return Some(());
        }
        if let Some(Fault::Redirect(to)) = fault {
            let hash = "x-linked-etag: \"opaque\"\r\n";
            write!(out, "HTTP/1.1 302 X\r\ncontent-length: 0\r\nlocation: {to}\r\n{hash}\r\n").ok()?;
            return Some(());
        }
        if seen.path.starts_with("/api/") {
            let text = self.listing.lock().unwrap().clone().unwrap_or_else(|| self.listing_text());
            write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()).ok()?;
            return Some(());
        }
        let prefix = format!("/o/r/resolve/{COMMIT}/");
        let name = seen.path.strip_prefix(&prefix).or_else(|| seen.path.strip_prefix("/cdn/"));
        let files = self.files.lock().unwrap();
        let bytes =
            files.iter().find(|(file, _)| Some(file.as_str()) == name).map(|(_, bytes)| bytes.clone());
        drop(files);
        let Some(bytes) = bytes else {
            write!(out, "HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n").ok()?;
            return Some(());
        };
        send_file(out, &bytes, seen.range, fault)
    }
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&length| length > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut range, mut authorization) = (None, None);
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|&length| length > 0)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                range = Some((first.parse().ok()?, last.parse().ok()?));
            }
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(Seen { path, range, authorization })
}

fn send_file(
    mut out: &TcpStream,
    file: &[u8],
    range: Option<(u64, u64)>,
    fault: Option<Fault>,
) -> Option<()> {
    let size = file.len();
    let (first, last) =
        range.filter(|_| !matches!(fault, Some(Fault::Whole))).unwrap_or((0, size as u64 - 1));
    let is_part = range.is_some() && !matches!(fault, Some(Fault::Whole));
    let mut body = file[first as usize..=(last as usize).min(size - 1)].to_vec();
    let mut headers = format!("x-repo-commit: {COMMIT}\r\n");
    match (&fault, is_part) {
        (Some(Fault::Range(text)), _) => headers += &format!("content-range: {text}\r\n"),
        (_, true) => headers += &format!("content-range: bytes {first}-{last}/{size}\r\n"),
        _ => {}
    }
    match &fault {
        Some(Fault::Header(text)) if text.starts_with("x-repo-commit") => {
            headers = headers.replace(COMMIT, "") + text;
        }
        Some(Fault::Header(text)) => headers += text,
        Some(Fault::Flip) => body[0] ^= 1,
        _ => {}
    }
    headers = headers.replace("x-repo-commit: \r\n", "");
    let status = if is_part { 206 } else { 200 };
    if matches!(fault, Some(Fault::Long)) {
        body.extend([0xEE; 100]);
        let length = body.len();
        write!(out, "HTTP/1.1 {status} X\r\ntransfer-encoding: chunked\r\n{headers}\r\n{length:x}\r\n")
            .ok()?;
        out.write_all(&body).ok()?;
        return out.write_all(b"\r\n0\r\n\r\n").ok();
    }
    write!(out, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n", body.len()).ok()?;
    match fault {
        Some(Fault::Cut(after)) => {
            out.write_all(&body[..(after as usize).min(body.len())]).ok()?;
            out.shutdown(std::net::Shutdown::Both).ok()?;
            None
        }
        Some(Fault::Stall(after, wait)) => {
            let after = (after as usize).min(body.len());
            out.write_all(&body[..after]).ok()?;
            thread::sleep(wait);
            out.write_all(&body[after..]).ok()
        }
        _ => out.write_all(&body).ok(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
