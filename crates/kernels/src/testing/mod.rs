//! What the tests of operations share: drawn numbers, every way to compute, recorded truths.

use std::num::NonZeroUsize;

use crate::{Compute, Isa};

mod fixture;
mod gradient;

pub(crate) use fixture::Fixture;
pub(crate) use gradient::{assert_gradient, differences, differences_of, drawn, wide};

/// Half the distance from 1 to the next f32: what one rounding may change, relatively.
pub(crate) const U: f64 = f32::EPSILON as f64 / 2.0;

/// Lengths around whole vectors, and a long one.
pub(crate) fn awkward_lengths() -> impl Iterator<Item = usize> {
    (1..=33).chain([127, 128, 129, 4096])
}

/// `len` numbers between -1 and 1, the same for the same seed.
pub(crate) fn uniform(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 2f32.powi(23) - 1.0
    };
    next();
    (0..len).map(|_| next()).collect()
}

/// Plain Rust on one thread.
pub(crate) fn scalar() -> Compute {
    compute(Isa::Scalar, 1)
}

/// What `operation` writes, after checking that it is the same bits on every instruction set of this CPU with one,
/// two and three threads.
pub(crate) fn everywhere(operation: impl Fn(&Compute) -> Vec<f32>) -> Vec<f32> {
    let want = operation(&scalar());
    let want_bits: Vec<u32> = want.iter().map(|x| x.to_bits()).collect();
    for isa in Isa::available() {
        for threads in 1..=3 {
            let got: Vec<u32> = operation(&compute(isa, threads)).iter().map(|x| x.to_bits()).collect();
            assert_eq!(got, want_bits, "{} with {threads} threads", isa.name());
        }
    }
    want
}

/// Checks every number of `got` against the exact one, which comes with the error that is allowed.
#[track_caller]
pub(crate) fn assert_within(got: &[f32], exact_and_bound: impl IntoIterator<Item = (f64, f64)>, what: &str) {
    let mut checked = 0;
    for (i, (exact, bound)) in exact_and_bound.into_iter().enumerate() {
        let error = (f64::from(got[i]) - exact).abs();
        assert!(error <= bound, "{what}, number {i}: {} is not {exact}: {error:e} > {bound:e}", got[i]);
        checked += 1;
    }
    assert_eq!(checked, got.len(), "{what}: as many numbers");
}

/// `threads` threads on `isa`.
pub(crate) fn compute(isa: Isa, threads: usize) -> Compute {
    let threads = NonZeroUsize::new(threads).expect("at least one thread");
    Compute::new(isa, threads).expect("this machine has threads")
}
