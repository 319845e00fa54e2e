//! Gradients against differences of the formula that they belong to.

use cuvier_tensor::Matrix;

use super::uniform;

/// How far a number is moved: in f64 this makes the error of a difference and that of the formula about equal, and
/// both nothing beside f32.
const STEP: f64 = 1e-5;

/// How far a gradient may be off, in its norm and relatively.
const NEAR: f64 = 1e-4;

/// What a difference takes for zero: the roundings of a loss of order one, divided by the step.
const ZERO: f64 = 1e-8;

/// A matrix of numbers between -1 and 1.
pub(crate) fn drawn(rows: usize, cols: usize, seed: u64) -> Matrix {
    Matrix::from_vec(uniform(rows * cols, seed), cols)
}

/// The same numbers as f64.
pub(crate) fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}

/// The derivative of `loss` for each number of `at`, by central differences.
pub(crate) fn differences(at: &[f32], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    differences_of(at, 0..at.len(), loss)
}

/// The derivative of `loss` for the numbers in `places` of `at`.
pub(crate) fn differences_of(
    at: &[f32],
    places: impl IntoIterator<Item = usize>,
    loss: impl Fn(&[f64]) -> f64,
) -> Vec<f64> {
    let mut x = wide(at);
    let mut difference = |place: usize| {
        let before = x[place];
        let mut moved = |step: f64| {
            x[place] = before + step;
            loss(&x)
        };
        let change = moved(STEP) - moved(-STEP);
        x[place] = before;
        change / (2.0 * STEP)
    };
    places.into_iter().map(&mut difference).collect()
}

/// Checks the gradient of a tensor against the exact one, in the norm of the whole.
#[track_caller]
pub(crate) fn assert_gradient(got: &[f32], exact: &[f64], what: &str) {
    assert_eq!(got.len(), exact.len(), "{what}: as many numbers");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(exact).map(|(&got, exact)| f64::from(got) - exact));
    let all = norm(&mut exact.iter().copied());
    assert!(error <= NEAR * all + ZERO, "{what}: off by {error:e} of {all:e}");
}
