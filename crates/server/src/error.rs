//! What went wrong with a request, and how each protocol says so.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use cuvier_engine::{EngineError, RequestError};
use serde_json::{Value, json};

/// Which shape an error has on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `{"error": {...}}`: chat, completions, responses, models.
    OpenAi,
    /// `{"type": "error", "error": {...}}`: messages.
    Anthropic,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// The request itself is at fault; sending it again cannot help.
    #[error("{message}")]
    Invalid {
        /// What is wrong, for the user.
        message: String,
        /// The field, as a path such as `messages[2].content`.
        param: Option<String>,
    },
    /// The prompt leaves no room for an answer.
    #[error("prompt is too long: {prompt} tokens > {context_max} maximum")]
    ContextLength {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context_max: usize,
    },
    /// No key, or a wrong one.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// A page of another origin asked.
    #[error("requests from other origins are refused; allow one with --cors")]
    CrossOrigin,
    /// There is nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// The path exists, the method does not.
    #[error("this path does not take that method")]
    Method,
    /// The body is not JSON.
    #[error("the body must be application/json")]
    MediaType,
    /// The body is longer than the server takes.
    #[error("the body is larger than {max} bytes")]
    TooLarge {
        /// The limit in bytes.
        max: usize,
    },
    /// The body took too long to come.
    #[error("the body did not arrive in time")]
    Timeout,
    /// As many requests as the server takes are under way or waiting.
    #[error("{limit} requests are under way or waiting; try again")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The request waited too long for its turn, or the server is shutting down.
    #[error("{0}")]
    Overloaded(&'static str),
    /// The server failed.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    /// A fault of the field at `param`.
    pub fn field(param: impl Into<String>, what: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self::Invalid { message: format!("`{param}` {what}"), param: Some(param) }
    }

    /// The status code.
    pub fn status(&self, protocol: Protocol) -> StatusCode {
        match self {
            Self::Invalid { .. } | Self::ContextLength { .. } => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::CrossOrigin => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            // 529 is Anthropic's own.
            Self::Overloaded(_) if protocol == Protocol::Anthropic => {
                StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Overloaded(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn openai_type(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "authentication_error",
            Self::CrossOrigin => "permission_error",
            Self::Busy { .. } => "rate_limit_error",
            Self::Overloaded(_) | Self::Internal(_) => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The `code` of OpenAI's errors.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ContextLength { .. } => "context_length_exceeded",
            Self::NotFound(_) => "model_not_found",
            Self::Busy { .. } => "rate_limit_exceeded",
            Self::Overloaded(_) => "overloaded",
            Self::Internal(_) => "internal_error",
            _ => "invalid_request_error",
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "authentication_error",
            Self::CrossOrigin => "permission_error",
            Self::NotFound(_) => "not_found_error",
            Self::TooLarge { .. } => "request_too_large",
            Self::Busy { .. } => "rate_limit_error",
            Self::Overloaded(_) => "overloaded_error",
            Self::Internal(_) => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The error as JSON, in a body or in a stream.
    pub fn body(&self, protocol: Protocol, request_id: &str) -> Value {
        let message = self.to_string();
        if protocol == Protocol::Anthropic {
            let error = json!({"type": self.anthropic_type(), "message": message});
            return json!({"type": "error", "error": error, "request_id": request_id});
        }
        let param = match self {
            Self::Invalid { param, .. } => param.as_deref(),
            _ => None,
        };
        let mut error = json!({
            "message": message, "type": self.openai_type(), "param": param, "code": self.code(),
        });
        if let Self::ContextLength { prompt, context_max } = self {
            error["n_prompt_tokens"] = json!(prompt);
            error["n_ctx"] = json!(context_max);
        }
        json!({"error": error})
    }

    /// The whole response.
    pub fn response(&self, protocol: Protocol, request_id: &str) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body(protocol, request_id).to_string()));
        *response.status_mut() = self.status(protocol);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(self, Self::Busy { .. } | Self::Overloaded(_)) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if matches!(self, Self::TooLarge { .. } | Self::Timeout) {
            // The rest of the body is still on its way; nothing after it could be read.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Request(RequestError::PromptTooLong { prompt, context_max }) => {
                Self::ContextLength { prompt, context_max }
            }
            EngineError::Request(error) => Self::Invalid { message: error.to_string(), param: None },
            other => Self::Internal(other.to_string()),
        }
    }
}
