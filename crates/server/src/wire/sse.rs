//! Bodies that stream: server-sent events, never silent for long.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use serde_json::Value;
use tokio::time::Instant;

/// A body that has begun says something at least this often, by the clock on the wall.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// One line or block of an event stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Sse {
    /// `data: ...`
    Data(Value),
    /// `event: ...` and `data: ...`
    Event(&'static str, Value),
    /// `: ...`, which clients skip.
    Comment(String),
    /// `data: [DONE]`
    Done,
}

impl Sse {
    fn bytes(&self) -> Bytes {
        // JSON has no line break outside strings, and none inside: serde_json escapes them.
        Bytes::from(match self {
            Self::Data(value) => format!("data: {value}\n\n"),
            Self::Event(name, value) => format!("event: {name}\ndata: {value}\n\n"),
            Self::Comment(text) => format!(": {text}\n\n"),
            Self::Done => "data: [DONE]\n\n".to_owned(),
        })
    }
}

/// Where the events of a stream come from.
pub trait Source: Send + 'static {
    /// The next events; `None` after the last. Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Option<Vec<Sse>>> + Send;

    /// What to say when there was nothing to say for [`KEEP_ALIVE`].
    fn keep_alive(&self) -> Sse {
        Sse::Comment("keep-alive".to_owned())
    }
}

struct Flow<S> {
    source: S,
    queued: VecDeque<Sse>,
    last_write: Instant,
}

impl<S: Source> Flow<S> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.queued.is_empty() {
                self.last_write = Instant::now();
                let all = self.queued.drain(..).map(|event| event.bytes());
                return Some(all.collect::<Vec<_>>().concat().into());
            }
            match tokio::time::timeout_at(self.last_write + KEEP_ALIVE, self.source.next()).await {
                Ok(Some(events)) => self.queued.extend(events),
                Ok(None) => return None,
                Err(_) => self.queued.push_back(self.source.keep_alive()),
            }
        }
    }
}

/// A response that streams. Its body is dropped when the client leaves, and `source` with it.
pub fn event_stream<S: Source>(source: S) -> Response<Body> {
    let flow = Flow { source, queued: VecDeque::new(), last_write: Instant::now() };
    let stream = futures_util::stream::unfold(flow, |mut flow| async move {
        let bytes = flow.next().await?;
        Some((Ok::<_, Infallible>(bytes), flow))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
