//! Who is let in: keys, origins, hosts.
//!
//! A server on the loopback address is within reach of every page that the browser of this machine opens. A page
//! can send requests there, though not read the answers; and one whose name its owner points at the loopback
//! address can do both. So an origin must be the server's own or allowed, and a server on loopback without a key
//! answers only to names of the loopback.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::ApiError;

/// The rules of one server.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// SHA-256 of each key: of equal length, whatever the keys are.
    keys: Vec<[u8; 32]>,
    origins: Vec<String>,
    only_loopback_names: bool,
}

impl Access {
    pub(crate) fn new(keys: &[String], origins: &[String], on_loopback: bool) -> Self {
        Self {
            keys: keys.iter().map(|key| digest(key.as_bytes())).collect(),
            origins: origins.iter().map(|origin| origin.trim_end_matches('/').to_owned()).collect(),
            only_loopback_names: on_loopback && keys.is_empty(),
        }
    }

    /// The scope of whoever sent these headers: who shares a key, shares what was computed.
    ///
    /// # Errors
    /// If there are keys and none of them was sent.
    pub(crate) fn scope(&self, headers: &HeaderMap) -> Result<u64, ApiError> {
        if self.keys.is_empty() {
            return Ok(0);
        }
        let bearer = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let bearer = bearer.and_then(|value| {
            let (scheme, key) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii())
        });
        let sent = bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()));
        let sent = sent
            .ok_or(ApiError::Unauthorized("no API key: send `Authorization: Bearer KEY` or `x-api-key`"))?;
        let sent = digest(sent);
        // Every key is compared in full, so that time tells nothing.
        let known = self.keys.iter().fold(Choice::from(0), |known, key| known | key.ct_eq(&sent));
        if bool::from(known) {
            Ok(u64::from_le_bytes(sent[..8].try_into().expect("a digest is longer than 8 bytes")))
        } else {
            Err(ApiError::Unauthorized("the API key is wrong"))
        }
    }

    /// The origin that the answer may be shown to, if the request names one.
    ///
    /// # Errors
    /// If the page of another origin asks, or the server is called by a name that is not its own.
    pub(crate) fn origin(&self, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        let is_allowed =
            |origin: &str| self.origins.iter().any(|allowed| allowed == "*" || allowed == origin);
        let host_is_allowed =
            || self.origins.iter().any(|allowed| allowed == "*" || host_of(allowed) == Some(host));
        if self.only_loopback_names && !host.is_empty() && !is_loopback_name(host) && !host_is_allowed() {
            return Err(ApiError::CrossOrigin);
        }
        match text(header::ORIGIN) {
            None => Ok(None),
            Some(origin) if is_allowed(origin) => Ok(Some(origin.to_owned())),
            Some(origin) if host_of(origin) == Some(host) => Ok(None),
            Some(_) => Err(ApiError::CrossOrigin),
        }
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// `http://name:port` without its scheme.
fn host_of(origin: &str) -> Option<&str> {
    origin.split_once("://").map(|(_, host)| host)
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_address = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    is_address || name.eq_ignore_ascii_case("localhost") || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn either_header_carries_the_key_and_a_wrong_one_is_refused() {
        let access = Access::new(&["secret".to_owned(), "other".to_owned()], &[], false);
        let bearer = access.scope(&headers(&[("authorization", "Bearer secret")])).unwrap();
        assert_eq!(access.scope(&headers(&[("x-api-key", "secret")])), Ok(bearer));
        assert_ne!(access.scope(&headers(&[("x-api-key", "other")])), Ok(bearer));
        for wrong in [
            &[("authorization", "Bearer secre")][..],
            &[("authorization", "Basic secret")],
            &[("x-api-key", "")],
            &[],
        ] {
            assert!(access.scope(&headers(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_refused_unless_it_is_allowed() {
        let closed = Access::new(&[], &[], true);
        let own = [("host", "127.0.0.1:8000"), ("origin", "http://127.0.0.1:8000")];
        let foreign = [("host", "127.0.0.1:8000"), ("origin", "http://evil.example")];
        assert_eq!(closed.origin(&headers(&own)), Ok(None));
        assert!(closed.origin(&headers(&foreign)).is_err());
        let open = Access::new(&[], &["http://evil.example".to_owned()], true);
        assert_eq!(open.origin(&headers(&foreign)), Ok(Some("http://evil.example".to_owned())));
    }

    #[test]
    fn a_name_that_only_points_at_the_loopback_is_refused() {
        let access = Access::new(&[], &[], true);
        let rebound = [("host", "evil.example:8000"), ("origin", "http://evil.example:8000")];
        assert!(access.origin(&headers(&rebound)).is_err());
        for name in ["localhost:8000", "127.0.0.1", "[::1]:8000", "app.localhost:1"] {
            assert_eq!(access.origin(&headers(&[("host", name)])), Ok(None), "{name}");
        }
        let with_key = Access::new(&["k".to_owned()], &[], true);
        assert_eq!(with_key.origin(&headers(&[("host", "my.name:8000")])), Ok(None));
    }
}
