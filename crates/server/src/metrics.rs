//! Counters for `/metrics`, in Prometheus' text format.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use cuvier_engine::{CacheStats, EngineHandle, LayerReads};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
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
    pub(crate) fn new(engine: Arc<EngineHandle>) -> Self {
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
        registry.register_collector(Box::new(ReadMetrics(Arc::clone(&engine))));
        registry.register_collector(Box::new(CacheMetrics(engine)));
        Self { registry, counters }
    }

    /// The text of `/metrics`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// An answer is under way that was asked for at `start`.
    pub(crate) fn begin(&self, start: Instant) -> Request {
        self.counters.requests.inc();
        self.counters.in_flight.inc();
        Request { counters: self.counters.clone(), start, last_token: None, ended: false }
    }
}

/// What the engine's cache counts by itself.
#[derive(Debug)]
struct CacheMetrics(Arc<EngineHandle>);

/// Name, meaning and value of a figure.
type Figure = (&'static str, &'static str, fn(&CacheStats) -> u64);

/// What only grows.
const COUNTED: [Figure; 9] = [
    ("cache_memory_hit_tokens", "Prompt tokens taken from memory", |stats| stats.memory_hit_tokens),
    ("cache_disk_hit_tokens", "Prompt tokens read from disk", |stats| stats.disk_hit_tokens),
    ("cache_miss_tokens", "Prompt tokens that had to be computed", |stats| stats.miss_tokens),
    ("cache_memory_evictions", "States let go for want of memory", |stats| stats.memory_evictions),
    ("cache_disk_evictions", "States removed from disk for want of space", |stats| stats.disk_evictions),
    ("cache_disk_writes", "States written to disk", |stats| stats.disk_writes),
    ("cache_disk_write_bytes", "Bytes written to disk", |stats| stats.disk_write_bytes),
    ("cache_disk_reads", "States read from disk", |stats| stats.disk_reads),
    ("cache_disk_broken", "Files on disk that were found broken", |stats| stats.disk_broken),
];

/// What rises and falls.
const HELD: [Figure; 5] = [
    ("cache_memory_entries", "States in memory", |stats| stats.memory_entries),
    ("cache_memory_bytes", "Bytes of memory that they take", |stats| stats.memory_bytes),
    ("cache_disk_entries", "States on disk", |stats| stats.disk_entries),
    ("cache_disk_bytes", "Bytes of their files", |stats| stats.disk_bytes),
    ("cache_disk_waiting", "States that wait to be written", |stats| stats.disk_waiting),
];

impl Collector for CacheMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.cache_stats();
        for (name, help, value) in COUNTED {
            let counter = ConstCounter::new(value(&stats));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (name, help, value) in HELD {
            let gauge = ConstGauge::new(value(&stats));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

/// What the model reads from disk, layer by layer. Nothing if all of it is in memory.
#[derive(Debug)]
struct ReadMetrics(Arc<EngineHandle>);

/// Name, meaning and value of a figure of a layer.
type ReadFigure = (&'static str, &'static str, fn(&LayerReads) -> f64);

const READ: [ReadFigure; 10] = [
    ("expert_hits", "Experts that were in memory when a step needed them", |reads| reads.hits as f64),
    ("expert_misses", "Experts that had to be read first", |reads| reads.misses as f64),
    ("expert_guesses", "Experts that a layer was guessed to need", |reads| reads.guessed as f64),
    ("expert_guesses_right", "Those of them that it did need", |reads| reads.guessed_right as f64),
    ("expert_read_bytes", "Bytes of experts read from disk", |reads| reads.bytes as f64),
    ("expert_read_seconds", "Time that reading experts took", |reads| reads.reading.as_secs_f64()),
    ("expert_wait_seconds", "Time that steps waited for it", |reads| reads.waiting.as_secs_f64()),
    ("other_read_bytes", "Bytes of other weights read from disk", |reads| reads.other_bytes as f64),
    ("other_read_seconds", "Time that reading them took", |reads| reads.other_reading.as_secs_f64()),
    ("other_wait_seconds", "Time that steps waited for it", |reads| reads.other_waiting.as_secs_f64()),
];

impl Collector for ReadMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let layers = self.0.expert_reads();
        if layers.is_empty() {
            return Ok(());
        }
        for (name, help, value) in READ {
            let family = Family::<[(&str, String); 1], Counter<f64, AtomicU64>>::default();
            for (layer, reads) in layers.iter().enumerate() {
                family.get_or_create(&[("layer", layer.to_string())]).inc_by(value(reads));
            }
            family.encode(encoder.encode_descriptor(name, help, None, family.metric_type())?)?;
        }
        Ok(())
    }
}

/// One answer, as it is measured. Dropped before its end: the client left.
pub(crate) struct Request {
    counters: Counters,
    start: Instant,
    last_token: Option<Instant>,
    ended: bool,
}

impl Request {
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// So much of the prompt was found computed.
    pub(crate) fn looked_up(&self, cached: usize, prompt: usize) {
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
