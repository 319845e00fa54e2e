//! A newcomer with a long prompt: running streams must go on while it is read.

use std::time::{Duration, Instant};

use serde_json::json;

use super::server::Setup;
use super::wire::{self, Heard};

/// Streams that run before the newcomer comes.
const N_RUNNING: usize = 4;

/// How long a running stream was silent, at most, while a prompt of `n_tokens` was read.
pub fn run(setup: &Setup, n_tokens: usize) -> anyhow::Result<String> {
    let server = setup.start(&[])?;
    let words = "one two three four five six seven eight nine ten ".repeat(n_tokens / 10);
    let running = |index: usize| {
        json!({
            "messages": [{"role": "user", "content": "Count."}], "seed": index, "stream": true,
            "temperature": 1.0, "max_tokens": 4000, "logit_bias": {"1": -100}, "reasoning_effort": "none",
        })
    };
    let newcomer = json!({
        "messages": [{"role": "user", "content": words}], "stream": true, "max_tokens": 1,
        "reasoning_effort": "none",
    });
    let (streams, late) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..N_RUNNING)
            .map(|index| scope.spawn(move || wire::stream(server.address, &running(index))))
            .collect();
        std::thread::sleep(Duration::from_millis(1500));
        let late = wire::stream(server.address, &newcomer);
        let streams: Result<Vec<Heard>, _> =
            threads.into_iter().map(|thread| thread.join().expect("clients do not panic")).collect();
        (streams, late)
    });
    let (streams, late) = (streams?, late?);
    let chunk = longest(&late.prefill_times);
    let (from, to) = (late.prefill_times[0], *late.prefill_times.last().expect("a prompt has progress"));
    let mut worst = Duration::ZERO;
    let mut gaps: Vec<Duration> = Vec::new();
    for stream in &streams {
        gaps.extend(stream.times.windows(2).filter(|pair| pair[1] < from).map(|pair| pair[1] - pair[0]));
        let during: Vec<Instant> =
            stream.times.iter().copied().filter(|&time| time >= from && time <= to).collect();
        worst = worst.max(longest(&during));
    }
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
    let limit = chunk + 3 * median;
    anyhow::ensure!(
        worst <= limit,
        "a stream was silent for {worst:?}; a chunk and three gaps are {limit:?}"
    );
    Ok(format!(
        "{} tokens of prompt beside {N_RUNNING} streams: longest silence {worst:.1?}, longest chunk {chunk:.1?}, median gap \
         before {median:.1?}",
        late.usage["prompt_tokens"]
    ))
}

fn longest(times: &[Instant]) -> Duration {
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}
