//! Which path does what, and what every response gets: an id, the right shape of error, the headers of origins.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::access::Access;
use crate::wire::{json_response, random_id};
use crate::{ApiError, App, Protocol, anthropic, openai, page, responses};

/// What handlers get.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) app: Arc<App>,
    pub(crate) access: Arc<Access>,
}

/// Whose request it is; put beside it by the gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) scope: u64,
}

/// What a handler gives.
pub(crate) type Answer = Result<Response<Body>, ApiError>;

/// Carried to the gate, which knows the protocol.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status(Protocol::OpenAi);
        response.extensions_mut().insert(self);
        response
    }
}

/// Every path of the server.
pub(crate) fn router(shared: Shared) -> Router {
    let api = Router::new()
        .route("/chat/completions", post(openai::chat::answer))
        .route("/completions", post(openai::completions::answer))
        .route("/responses", post(responses::answer))
        .route("/models", get(models))
        .route("/models/{id}", get(model));
    let messages = Router::new()
        .route("/v1/messages", post(anthropic::answer))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens));
    Router::new()
        .merge(messages.clone())
        .nest("/anthropic", messages.route("/v1/models", get(models)).route("/v1/models/{id}", get(model)))
        .merge(api.clone())
        .nest("/v1", api.clone())
        .nest("/beta", api.clone())
        .route("/", get(page::index))
        .route("/page/{name}", get(page::part))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/openapi.json", get(openapi))
        .fallback(async || ApiError::NotFound("there is nothing at this path; see /openapi.json".to_owned()))
        .method_not_allowed_fallback(async || ApiError::Method)
        .layer(from_fn_with_state(shared.clone(), gate))
        .with_state(shared)
}

/// What needs no key: it tells nothing about anybody.
fn is_public(path: &str) -> bool {
    path == "/" || path == "/health" || path.starts_with("/page/")
}

/// Around every request: who asks, and in what shape an error goes back.
async fn gate(State(shared): State<Shared>, mut request: Request, next: Next) -> Response<Body> {
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

/// The body of a request as JSON.
///
/// # Errors
/// If it is not JSON, is too long, nests too deep or takes too long to come.
pub(crate) async fn read_json(app: &App, request: Request) -> Result<Value, ApiError> {
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if media.is_some_and(|media| !media.to_ascii_lowercase().contains("json")) {
        return Err(ApiError::MediaType);
    }
    let bytes = read_body(app, request).await?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::Invalid {
        message: format!("the body is not the JSON of a request: {error}"),
        param: None,
    })
}

async fn read_body(app: &App, request: Request) -> Result<Bytes, ApiError> {
    let max = app.config.body_max;
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if length.and_then(|text| text.parse::<u64>().ok()).is_some_and(|length| length > max as u64) {
        return Err(ApiError::TooLarge { max });
    }
    let read = axum::body::to_bytes(request.into_body(), max);
    match tokio::time::timeout(app.config.body_timeout, read).await {
        Err(_) => Err(ApiError::Timeout),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let too_large = std::error::Error::source(&error)
                .is_some_and(|source| source.to_string().contains("length limit"));
            if too_large {
                Err(ApiError::TooLarge { max })
            } else {
                Err(ApiError::Invalid { message: format!("the body broke off: {error}"), param: None })
            }
        }
    }
}

async fn health() -> Response<Body> {
    json_response(&json!({"status": "ok"}))
}

async fn version() -> Response<Body> {
    json_response(&json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn metrics(State(shared): State<Shared>) -> Response<Body> {
    let mut response = Response::new(Body::from(shared.app.metrics.text()));
    let media = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}

async fn openapi() -> Response<Body> {
    let mut response = Response::new(Body::from(include_str!("openapi.json")));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn models(State(shared): State<Shared>, request: Request) -> Response<Body> {
    let app = &shared.app;
    let ids = std::iter::once(&app.config.model).chain(&app.config.aliases);
    let list: Vec<Value> = ids.map(|id| openai::model_entry(app, id)).collect();
    let mut body = json!({
        "object": "list", "data": list, "has_more": false,
        "first_id": list[0]["id"], "last_id": list[list.len() - 1]["id"],
    });
    let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    if agent.is_some_and(|agent| agent.contains("codex")) {
        // One version of Codex wants this key as well.
        body["models"] = json!([]);
    }
    json_response(&body)
}

async fn model(State(shared): State<Shared>, Path(id): Path<String>) -> Answer {
    let id = shared.app.served(&id).ok_or_else(|| ApiError::NotFound(format!("there is no model `{id}`")))?;
    Ok(json_response(&openai::model_entry(&shared.app, &id)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// Paths as `route` and `nest` name them in this file.
    fn paths_here() -> Vec<String> {
        let source = include_str!("routes.rs");
        let code = source.split("#[cfg(test)]").next().unwrap();
        let named = code.lines().filter_map(|line| line.trim().split_once(".route(\""));
        named.map(|(_, rest)| rest.split('"').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_document_describes_every_path_and_no_other() {
        let document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let described: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
        let here = paths_here();
        for path in &here {
            assert!(
                described.iter().any(|described| described.ends_with(path.as_str())),
                "{path} is missing"
            );
        }
        for path in described {
            assert!(here.iter().any(|here| path.ends_with(here.as_str())), "{path} does not exist");
        }
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
