//! Requests to a hub: redirects, the token, time limits. What to make of answers is decided in `answer`.

use std::fmt;
use std::io::Read;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::{Agent, Body, Proxy};

use crate::address::redirect;
use crate::answer::{Head, Verdict, refusal};
use crate::retry::Retries;
use crate::watch::{Event, Watch};
use crate::{Endpoint, HubError, Listing, RepoId, RetryPolicy, Revision};

/// More hops than any hub and its storage need.
const REDIRECTS_MAX: usize = 5;
/// More than the list of the largest checkpoint.
const LISTING_BYTES_MAX: u64 = 32 << 20;
/// Bounds what a server can make us hold before its body.
const HEADERS_BYTES_MAX: usize = 64 << 10;

/// A secret that proves to the hub who asks. Its text is in no error and in no debug output.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes the text, less white space around it.
    ///
    /// # Errors
    /// [`HubError::Request`] if it is empty or cannot stand in a header. The message does not repeat it.
    pub fn new(text: &str) -> Result<Self, HubError> {
        let text = text.trim();
        if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) {
            let problem = "is empty, or has characters that no token has";
            return Err(HubError::Request { what: "token", text: "...".to_owned(), problem });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

/// How to reach a hub.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The hub.
    pub endpoint: Endpoint,
    /// Sent to the hub itself and to no other server.
    pub token: Option<Token>,
    /// An HTTP proxy, as an address.
    pub proxy: Option<String>,
    /// Connections that are kept open.
    pub connections: NonZeroUsize,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long no byte may come.
    pub stall_timeout: Duration,
    /// When to ask again.
    pub retry: RetryPolicy,
}

impl ClientOptions {
    /// Four connections, half a minute of patience with each.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            token: None,
            proxy: None,
            connections: NonZeroUsize::MIN.saturating_add(3),
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
        }
    }
}

/// A client of one hub.
pub struct Client {
    agent: Agent,
    options: ClientOptions,
}

/// Why one try brought nothing, or not all.
pub(crate) enum Fault {
    Again { reason: String, after: Option<Duration> },
    Never(HubError),
}

impl From<HubError> for Fault {
    fn from(error: HubError) -> Self {
        Self::Never(error)
    }
}

/// An answer whose body is still to be read.
pub(crate) struct Opened {
    /// What the hub itself answered, redirects included.
    pub(crate) hub_heads: Vec<Head>,
    /// What the last server answered.
    pub(crate) head: Head,
    /// Whether that was the hub.
    pub(crate) is_hub: bool,
    pub(crate) body: Body,
}

impl Client {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`HubError::Request`] if the proxy is not an address, or a token would be sent over a network unencrypted.
    pub fn new(options: ClientOptions) -> Result<Self, HubError> {
        if options.token.is_some() && !options.endpoint.keeps_secrets() {
            let problem = "would receive the token unencrypted; use https, or no token";
            return Err(HubError::Request { what: "endpoint", text: options.endpoint.to_string(), problem });
        }
        let proxy = match options.proxy.as_deref().map(Proxy::new).transpose() {
            Ok(proxy) => proxy,
            // Not repeated in the message: it may hold a password.
            Err(_) => {
                let text = String::from("...");
                return Err(HubError::Request { what: "proxy", text, problem: "is not an address" });
            }
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here, so that the hub's own answer is seen and the token stays with it.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(concat!("cuvier/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .max_response_header_size(HEADERS_BYTES_MAX)
            .max_idle_connections(2 * options.connections.get())
            .max_idle_connections_per_host(options.connections.get())
            .timeout_resolve(Some(options.connect_timeout))
            .timeout_connect(Some(options.connect_timeout))
            .timeout_recv_response(Some(options.stall_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .timeout_per_write(Some(options.stall_timeout))
            .input_buffer_size(128 << 10)
            .build();
        Ok(Self { agent: config.new_agent(), options })
    }

    /// Asks what a revision is now.
    pub(crate) fn list(
        &self,
        repo: &RepoId,
        revision: &Revision,
        watch: &Watch,
    ) -> Result<Listing, HubError> {
        let url = self.options.endpoint.listing(repo, revision);
        let mut retries = self.retries();
        loop {
            let what = format!("the list of {repo}");
            match self.body_of(&what, &url) {
                Ok(json) => return Listing::parse(&json, repo),
                Err(fault) => self.wait(&what, fault, &mut retries, watch)?,
            }
        }
    }

    /// The whole body at `url`, which must be small.
    fn body_of(&self, what: &str, url: &str) -> Result<Vec<u8>, Fault> {
        let Opened { head, is_hub, body, .. } = self.open(what, url, None)?;
        if head.status != 200 {
            return Err(fault_of(refusal(what, &head, is_hub, SystemTime::now())));
        }
        let mut bytes = Vec::new();
        let read = body.into_reader().take(LISTING_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| Fault::Again { reason: error.to_string(), after: None })?;
        if bytes.len() as u64 > LISTING_BYTES_MAX {
            let problem = format!("is longer than {LISTING_BYTES_MAX} bytes");
            return Err(HubError::Listing { repo: what.to_owned(), problem }.into());
        }
        Ok(bytes)
    }

    /// Asks for `range` of what is at `url`, following redirects.
    pub(crate) fn open(&self, what: &str, url: &str, range: Option<&Range<u64>>) -> Result<Opened, Fault> {
        let wrong = |reason: &str| Fault::Again { reason: reason.to_owned(), after: None };
        let mut uri: Uri = url.parse().map_err(|_| wrong("an address that is not one"))?;
        let mut hub_heads = Vec::new();
        for _ in 0..=REDIRECTS_MAX {
            let is_hub = self.options.endpoint.is_origin_of(&uri);
            let response = self.send(&uri, range, is_hub)?;
            let mut head = head_of(&response);
            let moved = matches!(head.status, 301 | 302 | 303 | 307 | 308);
            if moved {
                // It is the redirect's own, not the file's.
                head.etag = None;
            }
            if is_hub {
                hub_heads.push(head.clone());
            }
            if !moved {
                return Ok(Opened { hub_heads, head, is_hub, body: response.into_body() });
            }
            let to = head.location.as_deref().and_then(|location| redirect(&uri, location));
            uri = to.ok_or_else(|| wrong("a redirect that leads nowhere safe"))?;
        }
        Err(wrong(&format!("{what}: more than {REDIRECTS_MAX} redirects")))
    }

    fn send(&self, uri: &Uri, range: Option<&Range<u64>>, is_hub: bool) -> Result<Response<Body>, Fault> {
        let mut request = self.agent.get(uri.clone());
        if let Some(range) = range {
            request = request
                .header(header::RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        }
        if let Some(token) = self.options.token.as_ref().filter(|_| is_hub) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.0));
        }
        // The host only: the rest of an address may be signed.
        let host = uri.host().unwrap_or("the server");
        request.call().map_err(|error| match certificate_problem(&error) {
            Some(reason) => Fault::Never(HubError::Untrusted { host: host.to_owned(), reason }),
            None => Fault::Again { reason: format!("{host}: {error}"), after: None },
        })
    }

    pub(crate) fn retries(&self) -> Retries {
        Retries::new(self.options.retry)
    }

    /// After a try that failed: waits until the next, or says why there is none.
    pub(crate) fn wait(
        &self,
        what: &str,
        fault: Fault,
        retries: &mut Retries,
        watch: &Watch,
    ) -> Result<(), HubError> {
        // A connection that we shut down ourselves fails too.
        watch.check()?;
        let (reason, after) = match fault {
            Fault::Never(error) => return Err(error),
            Fault::Again { reason, after } => (reason, after),
        };
        match retries.failed(after, jitter()) {
            Some(wait) => {
                watch.tell(Event::Retry { what: what.to_owned(), reason, wait });
                watch.sleep(wait)
            }
            None => Err(HubError::GaveUp { what: what.to_owned(), tries: retries.failures(), reason }),
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.options.endpoint
    }

    pub(crate) fn connections(&self) -> NonZeroUsize {
        self.options.connections
    }

    /// Wakes everything that waits for the network, for good.
    pub(crate) fn shut_down(&self) {
        self.agent.clone().shutdown();
    }
}

/// The fault in an answer without the bytes that were asked for.
pub(crate) fn fault_of(verdict: Verdict) -> Fault {
    match verdict {
        Verdict::Again { reason, after } => Fault::Again { reason, after },
        Verdict::Never(error) => Fault::Never(error),
        Verdict::Part | Verdict::Whole => {
            Fault::Again { reason: "an answer to something else".to_owned(), after: None }
        }
    }
}

/// What is wrong with the server's certificate, if that is why a request failed: asking again would not help.
fn certificate_problem(error: &ureq::Error) -> Option<String> {
    let error = match error {
        ureq::Error::Rustls(error) => error,
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    matches!(error, rustls::Error::InvalidCertificate(_)).then(|| error.to_string())
}

fn head_of(response: &Response<Body>) -> Head {
    let headers = response.headers();
    Head {
        status: response.status().as_u16(),
        content_length: text(headers, "content-length").and_then(|text| text.parse().ok()),
        content_range: text(headers, "content-range"),
        content_encoding: text(headers, "content-encoding"),
        location: text(headers, "location"),
        etag: text(headers, "etag"),
        linked_etag: text(headers, "x-linked-etag"),
        linked_size: text(headers, "x-linked-size").and_then(|text| text.parse().ok()),
        commit: text(headers, "x-repo-commit"),
        retry_after: text(headers, "retry-after"),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Between 0 and 1. Without a source of randomness there is none: a fixed wait does no harm.
fn jitter() -> f64 {
    getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX))
}
