//! The way back through the square: every step of it.

use super::sinkhorn_backward::{Square, sinkhorn_backward};
use super::*;
use crate::isa::Vectorized;
use crate::simd::Simd;
use crate::testing::{assert_gradient, differences};

/// Squares of up to sixteen tokens and their gradients, one behind the other.
struct Squares<'a, const N: usize> {
    logits: &'a [f32],
    dout: &'a [f32],
    iters: usize,
    eps: f32,
}

impl<const N: usize> Vectorized for Squares<'_, N> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let len = N * N;
        let load = |numbers: &[f32]| {
            let mut square: Square<S::V, N> = [[s.splat(0.0); N]; N];
            for (i, x) in square.as_flattened_mut().iter_mut().enumerate() {
                let mut lanes = [0.0; LANES];
                lanes.iter_mut().zip(numbers[i..].iter().step_by(len)).for_each(|(lane, &x)| *lane = x);
                *x = s.load(&lanes);
            }
            square
        };
        let (logits, dout) = (load(self.logits), load(self.dout));
        let found = sinkhorn_backward(s, &logits, &dout, self.iters, self.eps, &mut Vec::new());
        let mut out = vec![0.0; self.logits.len()];
        for (i, &x) in found.as_flattened().iter().enumerate() {
            let mut lanes = [0.0; LANES];
            s.store(x, &mut lanes);
            out[i..].iter_mut().step_by(len).zip(lanes).for_each(|(out, lane)| *out = lane);
        }
        out
    }
}

fn gradient<const N: usize>(logits: &[f32], dout: &[f32], iters: usize, eps: f32) -> Vec<f32> {
    everywhere(|c| c.isa().dispatch(Squares::<N> { logits, dout, iters, eps }))
}

/// By differences of the formula.
fn exact(logits: &[f32], dout: &[f32], n: usize, iters: usize, eps: f32) -> Vec<f64> {
    let loss = |logits: &[f64], dout: &[f32]| -> f64 {
        let square = reference::sinkhorn(logits, n, iters, f64::from(eps));
        square.iter().zip(dout).map(|(x, &d)| x * f64::from(d)).sum()
    };
    let squares = logits.chunks_exact(n * n).zip(dout.chunks_exact(n * n));
    squares.flat_map(|(logits, dout)| differences(logits, |logits| loss(logits, dout))).collect()
}

fn check<const N: usize>() {
    for iters in [1, 2, 3, 20] {
        for (spread, eps) in [(1.0, 1e-6), (3.0, 0.05), (8.0, 1e-6), (8.0, 0.05)] {
            // Sixteen different squares, so that a lane that looked at another would show.
            let logits: Vec<f32> = uniform(LANES * N * N, 1).iter().map(|x| x * spread).collect();
            let dout = uniform(LANES * N * N, 2);
            let got = gradient::<N>(&logits, &dout, iters, eps);
            let what = format!("{N} streams, {iters} rounds, spread {spread}, eps {eps}");
            assert_gradient(&got, &exact(&logits, &dout, N, iters, eps), &what);
        }
    }
}

#[test]
fn gradients_of_squares_of_every_size_are_those_of_the_formula() {
    check::<1>();
    check::<2>();
    check::<3>();
    check::<4>();
    check::<5>();
    check::<6>();
    check::<7>();
    check::<8>();
}

#[test]
fn every_round_shows_in_the_gradient_of_a_square_that_converges_slowly() {
    let (logits, dout) = (square::SLOW, uniform(16, 2));
    let got = gradient::<4>(&logits, &dout, 20, 1e-6);
    let off = |exact: &[f64]| -> f64 {
        let error = got.iter().zip(exact).map(|(&got, exact)| (f64::from(got) - exact).powi(2)).sum::<f64>();
        (error / exact.iter().map(|x| x * x).sum::<f64>()).sqrt()
    };
    assert_gradient(&got, &exact(&logits, &dout, 4, 20, 1e-6), "a slow square");
    for rounds in [1, 2, 10, 19, 21] {
        let off = off(&exact(&logits, &dout, 4, rounds, 1e-6));
        assert!(off > 1e-3, "{rounds} rounds would pass: {off:e}");
    }
}

#[test]
fn large_logits_have_finite_gradients() {
    let got = gradient::<2>(&[2000.0, -500.0, 1990.0, 2000.0], &[1.0, 2.0, 3.0, 4.0], 20, 1e-6);
    assert!(got.iter().all(|x| x.is_finite()), "{got:?}");
}
