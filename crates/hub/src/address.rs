//! Addresses: the hub, the repository, the revision, and what is asked of them.

use std::fmt;

use ureq::http::Uri;

use crate::{FileName, HubError};

/// Longer than any name or revision of use.
const TEXT_BYTES_MAX: usize = 256;

/// A hub: `https://HOST`, with a path where a mirror needs one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    base: String,
    uri: Uri,
}

impl Endpoint {
    /// Checks an address.
    ///
    /// # Errors
    /// [`HubError::Request`] if it is not `http://` or `https://` with a host, or has more than a path behind it.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let base = text.trim_end_matches('/').to_owned();
        let wrong = |problem| HubError::Request { what: "endpoint", text: text.to_owned(), problem };
        let uri: Uri = base.parse().map_err(|_| wrong("is not an address"))?;
        let scheme = uri.scheme_str();
        if !matches!(scheme, Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(wrong("is not an address that begins with https:// or http:// and a host"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            // Not repeated in the message: it may hold a password.
            let text = String::from("...@...");
            return Err(HubError::Request {
                what: "endpoint",
                text,
                problem: "must not hold a name or a password",
            });
        }
        if uri.query().is_some() || base.contains('#') {
            return Err(wrong("has a query; give the host, and a path at most"));
        }
        Ok(Self { base, uri })
    }

    /// Whether a token may be sent there: encrypted, or not over any network.
    pub(crate) fn keeps_secrets(&self) -> bool {
        let host = self.uri.host().unwrap_or("");
        self.uri.scheme_str() == Some("https") || matches!(host, "localhost" | "127.0.0.1" | "[::1]")
    }

    /// Whether `uri` leads to this very server: scheme, host and port.
    pub(crate) fn is_origin_of(&self, uri: &Uri) -> bool {
        origin(&self.uri) == origin(uri)
    }

    /// Where the hub lists the files of a revision.
    pub(crate) fn listing(&self, repo: &RepoId, revision: &Revision) -> String {
        format!("{}/api/models/{repo}/revision/{}?blobs=true", self.base, encode(&revision.0))
    }

    /// Where the hub has a file of a commit.
    pub(crate) fn file(&self, repo: &RepoId, commit: &str, name: &FileName) -> String {
        let path: Vec<String> = name.components().map(encode).collect();
        format!("{}/{repo}/resolve/{}/{}", self.base, encode(commit), path.join("/"))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// A repository: `OWNER/NAME`, or `NAME` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoId(String);

impl RepoId {
    /// Checks a name.
    ///
    /// # Errors
    /// [`HubError::Request`] if it is not one.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let plain = |part: &str| {
            let allowed = part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
            allowed && !part.is_empty() && part != "." && part != ".."
        };
        if text.len() > TEXT_BYTES_MAX || text.split('/').count() > 2 || !text.split('/').all(plain) {
            let problem = "is not OWNER/NAME, made of letters, digits, dots, dashes and underscores";
            return Err(HubError::Request { what: "repository", text: text.to_owned(), problem });
        }
        Ok(Self(text.to_owned()))
    }

    /// The part behind the owner.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A branch, a tag or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    /// Checks a name.
    ///
    /// # Errors
    /// [`HubError::Request`] if it is not one.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let climbs = text.split('/').any(|part| part == "." || part == "..");
        if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) || climbs {
            let problem = "is not a branch, a tag or a commit";
            return Err(HubError::Request { what: "revision", text: text.to_owned(), problem });
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where an answer that redirects leads. `None`: nowhere that is followed, among them from `https` back to `http`.
pub(crate) fn redirect(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = match location.strip_prefix('/') {
        Some(path) if !path.starts_with('/') => {
            format!("{}://{}{location}", from.scheme_str()?, from.authority()?).parse().ok()?
        }
        _ => location.parse().ok()?,
    };
    to.host().filter(|host| !host.is_empty())?;
    match (from.scheme_str()?, to.scheme_str()?) {
        ("http", "http") | (_, "https") => Some(to),
        _ => None,
    }
}

fn origin(uri: &Uri) -> (Option<&str>, Option<String>, u16) {
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    (uri.scheme_str(), uri.host().map(str::to_ascii_lowercase), port)
}

/// One component of a path.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_path_at_most() {
        for text in ["https://a.example", "http://127.0.0.1:8080/", "https://a.example/mirror/"] {
            assert!(Endpoint::parse(text).is_ok(), "{text}");
        }
        for text in ["", "a.example", "ftp://a.example", "https://", "https://a?b=c", "https://a b"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
        let error = Endpoint::parse("https://me:secret@a.example").unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn names_are_encoded_where_an_address_needs_it() {
        let hub = Endpoint::parse("https://a.example/m/").unwrap();
        let repo = RepoId::parse("o/r").unwrap();
        let name = FileName::parse("encoding/a b%é.json").unwrap();
        assert_eq!(
            hub.file(&repo, "c0", &name),
            "https://a.example/m/o/r/resolve/c0/encoding/a%20b%25%C3%A9.json"
        );
        let revision = Revision::parse("refs/pr/1").unwrap();
        assert_eq!(
            hub.listing(&repo, &revision),
            "https://a.example/m/api/models/o/r/revision/refs%2Fpr%2F1?blobs=true"
        );
    }

    #[test]
    fn another_scheme_host_or_port_is_another_origin() {
        let hub = Endpoint::parse("https://a.example/m").unwrap();
        let same = |text: &str| hub.is_origin_of(&text.parse().unwrap());
        assert!(same("https://A.example:443/x"));
        assert!(
            !same("http://a.example/x") && !same("https://a.example:444/x") && !same("https://b.example/x")
        );
        assert!(!same("https://a.example.b.example/x"));
    }

    #[test]
    fn a_redirect_never_leaves_encryption() {
        let from: Uri = "https://a.example/x?y".parse().unwrap();
        assert_eq!(redirect(&from, "/z?w=1").unwrap().to_string(), "https://a.example/z?w=1");
        assert_eq!(redirect(&from, "https://b.example/z").unwrap().host(), Some("b.example"));
        for location in ["http://a.example/z", "//b.example/z", "z", "", "file:///etc/passwd", "https:///z"] {
            assert_eq!(redirect(&from, location), None, "{location}");
        }
    }

    #[test]
    fn a_repository_has_two_plain_parts_at_most() {
        assert_eq!(RepoId::parse("owner/V4-Flash.1").unwrap().name(), "V4-Flash.1");
        for text in ["", "/", "a/", "../a", "a/b/c", "a b", "a?b", "a/.."] {
            assert!(RepoId::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_address_makes_anything_here_panic(text in "\\PC{0,40}") {
            let _ = Endpoint::parse(&text);
            let _ = redirect(&"https://a.example/".parse().unwrap(), &text);
        }
    }
}
