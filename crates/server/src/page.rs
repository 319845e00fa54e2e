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
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! parts {
    ($($media:ident: $($name:literal),+;)+) => {
        [$($(($name, $media, include_str!(concat!("../page/", $name)))),+),+]
    };
}

/// Name, media type and text of each file that the page loads.
const PARTS: [(&str, &str, &str); 14] = parts! {
    CSS: "style.css";
    SCRIPT: "theme.js", "app.js", "api.js", "sse.js", "conversation.js", "composer.js", "settings.js", "view.js",
        "markdown.js", "depth.js", "dom.js", "store.js", "attach.js";
};

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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file of the page asks for: modules, scripts and styles.
    fn asked(text: &'static str) -> impl Iterator<Item = &'static str> {
        let quoted = text.split(['"', '\'']).skip(1).step_by(2);
        quoted.filter_map(|name| name.strip_prefix("./").or_else(|| name.strip_prefix("page/")))
    }

    #[test]
    fn every_file_that_the_page_asks_for_is_served() {
        let texts = PARTS.iter().map(|(_, _, text)| *text).chain([INDEX]);
        let mut n = 0;
        for name in texts.flat_map(asked).filter(|name| name.ends_with(".js") || name.ends_with(".css")) {
            assert!(PARTS.iter().any(|(part, ..)| *part == name), "{name}");
            n += 1;
        }
        assert!(n > PARTS.len(), "the page asks for its files, {n}");
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        for text in PARTS.iter().map(|(_, _, text)| *text).chain([INDEX]) {
            for place in ["src=\"http", "src=\"//", "href=\"http", "url(http", "from \"http"] {
                assert!(!text.contains(place), "{place}");
            }
        }
    }
}
