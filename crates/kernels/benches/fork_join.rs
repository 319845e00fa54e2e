//! What a parallel region costs: jobs without work, two bodies of 1.6 us, the same after a gap in which the workers
//! may fall asleep, each on a quiet machine and beside threads that want the processors too.
//! `cargo bench -p cuvier-kernels --bench fork_join [filter]`

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cuvier_kernels::{Compute, Isa};

/// How long each line is measured: many times what the system gives a thread at once.
const WINDOW: Duration = Duration::from_millis(500);
const BODY: Duration = Duration::from_nanos(1600);
const GAP: Duration = Duration::from_micros(200);

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let bench = Bench { body_rounds: calibrate(), filter };
    println!("{cores} processors; a body alone takes {:.2} us", median_of(|| body(bench.body_rounds)));
    for competitors in [0, 1, 2 * cores] {
        let mut threads = vec![2, cores, 2 * cores, 64];
        threads.sort_unstable();
        threads.dedup();
        threads.into_iter().for_each(|threads| bench.all(threads, competitors));
    }
}

struct Bench {
    body_rounds: usize,
    filter: String,
}

impl Bench {
    fn all(&self, threads: usize, competitors: usize) {
        let c =
            Compute::new(Isa::Scalar, NonZeroUsize::new(threads).expect("positive")).expect("threads start");
        let beside = format!("{threads} threads, {competitors} competitors");
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..competitors {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            self.time(&format!("{beside}: a task per thread, empty"), || c.for_each(threads, |_| {}));
            self.time(&format!("{beside}: 1024 tasks, empty"), || c.for_each(1024, |_| {}));
            let bodies = || c.for_each(2, |_| body(self.body_rounds));
            self.time(&format!("{beside}: two bodies"), bodies);
            let serial = || {
                let start = Instant::now();
                while start.elapsed() < GAP {}
            };
            self.time_after(&format!("{beside}: two bodies after 200 us"), serial, bodies);
            stop.store(true, Ordering::Relaxed);
        });
    }

    fn time(&self, name: &str, run: impl FnMut()) {
        self.time_after(name, || {}, run);
    }

    /// Prints minimum, median and 99th percentile of `run`, with `before` before each.
    fn time_after(&self, name: &str, mut before: impl FnMut(), mut run: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        let mut times = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < WINDOW {
            before();
            let start = Instant::now();
            run();
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!("{name:60} min {:7.2}  p50 {:8.2}  p99 {:9.2} us", at(0.0), at(0.5), at(0.99));
    }
}

fn body(rounds: usize) {
    let mut x = 1.0f64;
    for _ in 0..rounds {
        x = black_box(x) * 1.000_001;
    }
    black_box(x);
}

/// Rounds of [`body`] that take [`BODY`].
fn calibrate() -> usize {
    let rounds = 10_000;
    let us = median_of(|| body(rounds));
    (rounds as f64 * BODY.as_secs_f64() * 1e6 / us) as usize
}

/// Median of many runs, in microseconds.
fn median_of(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..500)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
