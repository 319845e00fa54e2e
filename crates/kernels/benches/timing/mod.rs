//! What the benches share: which cases run, how long one takes, what it computes with.

use std::time::{Duration, Instant};

use cuvier_tensor::Matrix;

/// The part of a name that a case must have: the first argument that is no flag.
pub fn filter() -> String {
    std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default()
}

/// The shortest of the runs within this time, five at least.
pub fn best_time(within: Duration, mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    let mut best = Duration::MAX;
    let mut runs = 0;
    while runs < 5 || start.elapsed() < within {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
        runs += 1;
    }
    best
}

/// Drawn numbers between -1 and 1, `[rows, cols]`.
pub fn numbers(rows: usize, cols: usize) -> Matrix {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 2f32.powi(23) - 1.0
    };
    Matrix::from_vec((0..rows * cols).map(|_| next()).collect(), cols)
}
