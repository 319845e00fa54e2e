//! Many clients at once: every answer must be the one that it is alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::{Server, Setup};
use super::wire;

/// Different requests, each with its answer known.
const N_REQUESTS: usize = 24;
/// Memory may grow by this much between the middle and the end: fragments, not a leak.
const GROWTH_MAX: u64 = 64 << 20;
/// Answers at once and one at a time.
const TOGETHER: usize = 8;

fn request(index: usize) -> Value {
    let effort = ["none", "low", "high", "max"][index % 4];
    json!({
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": format!("What is {} + {}?", 10 + index, 3 * index)},
        ],
        "reasoning_effort": effort, "seed": index, "temperature": 1.0, "max_tokens": 48 + index, "stream": true,
    })
}

/// `clients` clients for a time.
pub fn run(setup: &Setup, clients: usize, time: Duration) -> anyhow::Result<String> {
    let queue = (clients * 2).to_string();
    let server = setup.start(&["--queue", &queue])?;
    let alone = answers_alone(&server, N_REQUESTS)?;
    let (done, next) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures: Mutex<Vec<String>> = Mutex::default();
    let mut memory = Vec::new();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while start.elapsed() < time {
                    let index = next.fetch_add(1, Ordering::Relaxed) % N_REQUESTS;
                    let failure = match wire::stream(server.address, &request(index)) {
                        Ok(heard) if heard.text == alone[index] => None,
                        Ok(heard) => {
                            Some(format!("request {index}: {:?}, alone {:?}", heard.text, alone[index]))
                        }
                        Err(error) => Some(format!("request {index}: {error:#}")),
                    };
                    done.fetch_add(1, Ordering::Relaxed);
                    failures.lock().expect("no holder panics").extend(failure);
                }
            });
        }
        while start.elapsed() < time {
            std::thread::sleep(time / 20);
            memory.push(server.memory());
        }
    });
    server.wait_until_idle(Duration::from_secs(60))?;
    let failures = failures.into_inner().expect("no holder panicked");
    let done = done.into_inner();
    anyhow::ensure!(
        failures.is_empty(),
        "{} of {done} answers failed, such as {}",
        failures.len(),
        failures[0]
    );
    let (middle, end) = (memory[memory.len() / 2], memory[memory.len() - 1]);
    anyhow::ensure!(
        end <= middle + GROWTH_MAX,
        "memory grew from {middle} to {end} bytes in the second half"
    );
    Ok(format!(
        "{clients} clients for {:.1} min: {done} answers, 0 wrong or failed; memory {} MiB after the first part, {} in the \
         middle, {} at the end",
        time.as_secs_f64() / 60.0,
        memory[0] >> 20,
        middle >> 20,
        end >> 20,
    ))
}

fn answers_alone(server: &Server, n: usize) -> anyhow::Result<Vec<String>> {
    (0..n).map(|index| Ok(wire::stream(server.address, &request(index))?.text)).collect()
}

/// Tokens per second of one client after the other and of several at once, on the same requests.
pub fn throughput(setup: &Setup) -> anyhow::Result<String> {
    let server = setup.start(&["--slots", "8"])?;
    let request = |index: usize| {
        let mut request = request(index);
        // Without an end, every answer has as many tokens.
        request["logit_bias"] = json!({"1": -100});
        request["max_tokens"] = json!(64);
        request
    };
    let start = Instant::now();
    let alone: Vec<_> =
        (0..TOGETHER).map(|index| wire::stream(server.address, &request(index))).collect::<Result<_, _>>()?;
    let one = rate(alone.iter().map(wire::Heard::n_tokens).sum(), start);
    let start = Instant::now();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..TOGETHER)
            .map(|index| scope.spawn(move || wire::stream(server.address, &request(index))))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("clients do not panic"))
            .collect::<Result<_, _>>()
    })?;
    let many = rate(together.iter().map(wire::Heard::n_tokens).sum(), start);
    for (index, (alone, together)) in alone.iter().zip(&together).enumerate() {
        anyhow::ensure!(alone.text == together.text, "answer {index} is another one in company");
    }
    Ok(format!(
        "{TOGETHER} clients {many:.1} tokens/s, one {one:.1}: {:.2} times; every answer the same",
        many / one
    ))
}

fn rate(tokens: u64, start: Instant) -> f64 {
    tokens as f64 / start.elapsed().as_secs_f64()
}
