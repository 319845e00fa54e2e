//! Bodies of one JSON document, and what is sent while it is not there yet.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use futures_util::{Stream, StreamExt, stream};
use serde_json::Value;
use tokio::time::timeout;

use super::sse::KEEP_ALIVE;
use crate::{ApiError, Protocol};

/// How a document that takes its time is sent.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// So long nothing is sent, and an error has a status code of its own.
    pub patience: Duration,
    /// In whose shape an error goes into a body that has begun.
    pub protocol: Protocol,
    /// The answer's id, for that error.
    pub id: String,
    /// What of thinking was applied, for a header.
    pub thinking: Option<&'static str>,
}

/// A response of one JSON document.
pub fn json_response(value: &Value) -> Response<Body> {
    response(Body::from(value.to_string()))
}

/// A response of the document that `work` makes. If it takes longer than its patience, blank lines come before it,
/// which JSON allows: a proxy or client that gives up on silent connections does not give up on this one. What goes
/// wrong after the first of them is told in the body, as the status is sent by then.
///
/// # Errors
/// What goes wrong before.
pub async fn document<W>(delivery: Delivery, work: W) -> Result<Response<Body>, ApiError>
where
    W: Future<Output = Result<Value, ApiError>> + Send + 'static,
{
    let mut work = Box::pin(work);
    let thinking = delivery.thinking;
    let mut response = match timeout(delivery.patience, &mut work).await {
        Ok(done) => json_response(&done?),
        Err(_) => response(Body::from_stream(late(delivery, work))),
    };
    if let Some(thinking) = thinking {
        response.headers_mut().insert("x-thinking", HeaderValue::from_static(thinking));
    }
    Ok(response)
}

fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Blank lines, and what `work` comes to. Dropped with the body when the client leaves, and `work` with it.
fn late<W>(delivery: Delivery, work: Pin<Box<W>>) -> impl Stream<Item = Result<Bytes, Infallible>>
where
    W: Future<Output = Result<Value, ApiError>>,
{
    const BLANK_LINE: Bytes = Bytes::from_static(b"\n");
    let rest = stream::unfold(Some((delivery, work)), |open| async move {
        let (delivery, mut work) = open?;
        Some(match timeout(KEEP_ALIVE, &mut work).await {
            Ok(Ok(value)) => (Bytes::from(value.to_string()), None),
            Ok(Err(error)) => {
                let body = error.body(delivery.protocol, &delivery.id);
                (Bytes::from(body.to_string()), None)
            }
            Err(_) => (BLANK_LINE, Some((delivery, work))),
        })
    });
    stream::once(std::future::ready(BLANK_LINE)).chain(rest).map(Ok)
}
