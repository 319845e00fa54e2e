//! Which path does what.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Response, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::access::Access;
use crate::gate::gate;
use crate::wire::json_response;
use crate::{ApiError, App, anthropic, openai, page, responses};

/// What handlers get.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) app: Arc<App>,
    pub(crate) access: Arc<Access>,
}

/// What a handler gives.
pub(crate) type Answer = Result<Response<Body>, ApiError>;

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
