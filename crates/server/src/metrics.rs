//! Counters for `/metrics`, in Prometheus' text format.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::generation::Usage;

/// What the server has counted since its start.
pub struct Metrics {
    registry: Registry,
    counters: Counters,
}

#[derive(Clone)]
struct Counters {
    requests: Counter,
    failed: Counter,
    abandoned: Counter,
    in_flight: Gauge<i64, AtomicI64>,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    completion_tokens: Counter,
    first_token: Histogram,
    between_tokens: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.005, 2.0, 16));
        let counters = Counters {
            requests: Counter::<u64, AtomicU64>::default(),
            failed: Counter::default(),
            abandoned: Counter::default(),
            in_flight: Gauge::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            completion_tokens: Counter::default(),
            first_token: seconds(),
            between_tokens: seconds(),
        };
        let mut registry = Registry::with_prefix("cuvier");
        let c = &counters;
        registry.register("requests", "Requests whose answer was started", c.requests.clone());
        registry.register("requests_failed", "Answers that failed", c.failed.clone());
        registry.register("requests_abandoned", "Answers whose client left", c.abandoned.clone());
        registry.register("requests_in_flight", "Answers under way or waiting", c.in_flight.clone());
        registry.register("prompt_tokens", "Tokens of all prompts", c.prompt_tokens.clone());
        registry.register("prompt_tokens_cached", "Of these, not computed again", c.cached_tokens.clone());
        registry.register("completion_tokens", "Tokens drawn", c.completion_tokens.clone());
        registry.register(
            "first_token_seconds",
            "From the request to its first token",
            c.first_token.clone(),
        );
        registry.register("between_tokens_seconds", "From a token to the next", c.between_tokens.clone());
        Self { registry, counters }
    }

    /// The text of `/metrics`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn begin(&self) -> Request {
        self.counters.requests.inc();
        self.counters.in_flight.inc();
        let start = Instant::now();
        Request { counters: self.counters.clone(), start, last_token: None, looked_up: false, ended: false }
    }
}

/// One answer, as it is measured. Dropped before its end: the client left.
pub(crate) struct Request {
    counters: Counters,
    start: Instant,
    last_token: Option<Instant>,
    looked_up: bool,
    ended: bool,
}

impl Request {
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn is_looked_up(&self) -> bool {
        self.looked_up
    }

    /// So much of the prompt was found computed.
    pub(crate) fn looked_up(&mut self, cached: usize, prompt: usize) {
        self.looked_up = true;
        self.counters.prompt_tokens.inc_by(prompt as u64);
        self.counters.cached_tokens.inc_by(cached as u64);
    }

    pub(crate) fn token(&mut self) {
        let now = Instant::now();
        match self.last_token.replace(now) {
            Some(last) => self.counters.between_tokens.observe((now - last).as_secs_f64()),
            None => self.counters.first_token.observe(self.start.elapsed().as_secs_f64()),
        }
    }

    pub(crate) fn fail(&mut self) {
        self.ended = true;
        self.counters.failed.inc();
    }

    pub(crate) fn end(&mut self, usage: Usage) {
        self.ended = true;
        self.counters.completion_tokens.inc_by(usage.completion as u64);
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.counters.in_flight.dec();
        if !self.ended {
            self.counters.abandoned.inc();
        }
    }
}
