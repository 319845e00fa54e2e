//! What stands around every request: who asks, under what id, and in what shape an error goes back.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;

use crate::routes::Shared;
use crate::wire::random_id;
use crate::{ApiError, Protocol};

/// Whose request it is; put beside it here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) scope: u64,
}

/// Carried to the gate, which knows the protocol.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status(Protocol::OpenAi);
        response.extensions_mut().insert(self);
        response
    }
}

/// What needs no key: it tells nothing about anybody.
fn is_public(path: &str) -> bool {
    path == "/" || path == "/health" || path.starts_with("/page/")
}

/// Around every request: who asks, and in what shape an error goes back.
pub(crate) async fn gate(State(shared): State<Shared>, mut request: Request, next: Next) -> Response<Body> {
    let start = Instant::now();
    let id = random_id("req_");
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let protocol = if path.contains("/messages") { Protocol::Anthropic } else { Protocol::OpenAi };
    let origin = shared.access.origin(request.headers());
    let caller = if is_public(&path) { Ok(0) } else { shared.access.scope(request.headers()) };
    let mut response = match (&origin, caller) {
        (Err(error), _) => error.clone().into_response(),
        (Ok(_), _) if method == Method::OPTIONS => preflight(),
        (Ok(_), Err(error)) => error.into_response(),
        (Ok(_), Ok(scope)) => {
            request.extensions_mut().insert(Caller { scope });
            next.run(request).await
        }
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        tracing::info!(id, "refused: {error}");
        response = error.response(protocol, &id);
    }
    let headers = response.headers_mut();
    let id_value = HeaderValue::from_str(&id).expect("an id is plain text");
    headers.insert("x-request-id", id_value.clone());
    headers.insert("request-id", id_value);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(Some(origin)) = origin
        && let Ok(origin) = HeaderValue::from_str(&origin)
    {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    }
    let (status, ms) = (response.status().as_u16(), start.elapsed().as_millis());
    tracing::info!(id, %method, path, status, ms, "request");
    response
}

fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    let allowed = HeaderValue::from_static(
        "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, \
         anthropic-dangerous-direct-browser-access",
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}
