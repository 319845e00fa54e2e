//! The web page, from the binary itself.

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, Response, header};

use crate::ApiError;
use crate::routes::Answer;

/// What the page may load and where it may connect: this server, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const INDEX: &str = include_str!("../page/index.html");
const PARTS: [(&str, &str, &str); 2] = [
    ("style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("../page/app.js")),
];

pub(crate) async fn index() -> Response<Body> {
    document("text/html; charset=utf-8", INDEX)
}

pub(crate) async fn part(Path(name): Path<String>) -> Answer {
    let found = PARTS.iter().find(|(part, ..)| *part == name);
    let (_, media, text) =
        found.ok_or_else(|| ApiError::NotFound(format!("the page has no part `{name}`")))?;
    Ok(document(media, text))
}

fn document(media: &'static str, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
