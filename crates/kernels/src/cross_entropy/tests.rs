use cuvier_tensor::Matrix;

use super::cross_entropy;
use crate::Compute;
use crate::testing::{assert_gradient, assert_within, differences, everywhere, scalar, uniform, wide};

const WEIGHTS: [f32; 5] = [1.0, 0.0, -0.5, 0.25, 1.0];

fn drawn(vocab: usize) -> (Matrix, Vec<u32>) {
    let logits = uniform(5 * vocab, 7).iter().map(|x| 20.0 * x).collect();
    (Matrix::from_vec(logits, vocab), (0..5).map(|t| (t * 7 % vocab) as u32).collect())
}

/// The losses, then the gradient.
fn run(c: &Compute, logits: &Matrix, targets: &[u32], weights: &[f32]) -> Vec<f32> {
    let mut logits = logits.clone();
    let losses = cross_entropy(c, logits.view_mut(), targets, weights);
    [losses, logits.into_vec()].concat()
}

/// `ln(sum of e^z) - z_target`.
fn loss(z: &[f64], target: u32) -> f64 {
    let max = z.iter().copied().fold(f64::MIN, f64::max);
    max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln() - z[target as usize]
}

#[test]
fn losses_and_gradients_are_those_of_the_formula() {
    for vocab in (1..=33).chain([100, 1280]) {
        let (logits, targets) = drawn(vocab);
        let got = everywhere(|c| run(c, &logits, &targets, &WEIGHTS));
        let (losses, dlogits) = got.split_at(5);
        let exact = (0..5).map(|t| loss(&wide(logits.row(t)), targets[t]));
        assert_within(losses, exact.map(|loss| (loss, 1e-5 * (1.0 + loss))), "losses");
        let of_row = |t: usize| differences(logits.row(t), |z| f64::from(WEIGHTS[t]) * loss(z, targets[t]));
        let exact: Vec<f64> = (0..5).flat_map(of_row).collect();
        assert_gradient(dlogits, &exact, &format!("vocabulary of {vocab}"));
    }
}

#[test]
fn the_weight_of_a_row_scales_its_gradient_and_not_its_loss() {
    let (logits, targets) = drawn(17);
    let [whole, half] = [1.0, 0.5].map(|weight| run(&scalar(), &logits, &targets, &[weight; 5]));
    assert_eq!(whole[..5], half[..5]);
    assert_gradient(&whole[5..], &half[5..].iter().map(|&d| 2.0 * f64::from(d)).collect::<Vec<_>>(), "half");
}

#[test]
fn logits_that_are_far_apart_have_finite_losses_and_gradients() {
    let logits = Matrix::from_vec(vec![1e30, -1e30, 0.0, 5.0, -200.0, 300.0], 3);
    let got = everywhere(|c| run(c, &logits, &[0, 2], &[1.0, 1.0]));
    assert!(got.iter().all(|x| x.is_finite()), "{got:?}");
    assert_eq!(got[0], 0.0);
}
