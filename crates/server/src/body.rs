//! The body of a request.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use http_body_util::LengthLimitError;
use serde_json::Value;

use crate::gate::Caller;
use crate::routes::Shared;
use crate::{ApiError, App};

/// A request that came with JSON.
pub(crate) struct Asked {
    pub(crate) app: Arc<App>,
    /// Whose prefixes it may share.
    pub(crate) scope: u64,
    pub(crate) body: Value,
}

impl FromRequest<Shared> for Asked {
    type Rejection = ApiError;

    /// # Errors
    /// If the body is not JSON, is too long, nests too deep or takes too long to come.
    async fn from_request(request: Request, shared: &Shared) -> Result<Self, ApiError> {
        let app = shared.app.clone();
        let caller = request.extensions().get::<Caller>().copied();
        let scope = caller.ok_or_else(|| ApiError::Internal("nobody asked".to_owned()))?.scope;
        let body = read_json(&app, request).await?;
        Ok(Self { app, scope, body })
    }
}

async fn read_json(app: &App, request: Request) -> Result<Value, ApiError> {
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
            let error = error.into_inner();
            if error.is::<LengthLimitError>() {
                Err(ApiError::TooLarge { max })
            } else {
                Err(ApiError::Invalid { message: format!("the body broke off: {error}"), param: None })
            }
        }
    }
}
