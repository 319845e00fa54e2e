//! Numbers for the tests of optimisers.

use std::num::NonZeroUsize;

use cuvier_kernels::{Compute, Isa};
use cuvier_tensor::Matrix;

use crate::random::Random;

/// Standard normal numbers, `[rows, cols]`.
pub(super) fn normal_matrix(rows: usize, cols: usize, seed: u64) -> Matrix {
    let mut random = Random::new("testing", seed);
    Matrix::from_vec((0..rows * cols).map(|_| random.normal() as f32).collect(), cols.max(1))
}

/// An instruction set on the caller's thread.
pub(super) fn on(isa: Isa) -> Compute {
    Compute::new(isa, NonZeroUsize::MIN).expect("one thread needs no pool")
}
