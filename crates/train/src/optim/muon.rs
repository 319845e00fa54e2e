//! Muon: steps of the same size in every direction of a matrix.

use cuvier_kernels::Compute;
use cuvier_tensor::Matrix;

use super::newton_schulz::{Iterations, newton_schulz};

/// The constants of Muon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MuonOptions {
    /// What stays of the momentum at each step.
    pub momentum: f32,
    /// The share of a weight that is taken away per step and unit of learning rate.
    pub decay: f32,
    /// Root mean square of an update before the learning rate: that of AdamW, so that both can have one rate.
    pub update_rms: f32,
    /// Newton-Schulz iterations that raise small singular values.
    pub coarse_iterations: usize,
    /// Newton-Schulz iterations after them that bring all singular values to 1.
    pub fine_iterations: usize,
}

impl Default for MuonOptions {
    /// Those of DeepSeek-V4.
    fn default() -> Self {
        Self { momentum: 0.95, decay: 0.1, update_rms: 0.18, coarse_iterations: 8, fine_iterations: 2 }
    }
}

/// One step of a matrix `[rows, cols]`; `weight` and `momentum` are updated.
///
/// ```text
/// momentum = mu momentum + gradient
/// update   = newton_schulz(mu momentum + gradient) * sqrt(max(rows, cols)) * update_rms
/// weight   = weight (1 - rate decay) - rate update
/// ```
///
/// Source: DeepSeek-V4 report, section on Muon (with Nesterov's momentum).
pub(super) fn step(
    compute: &Compute,
    options: &MuonOptions,
    rate: f32,
    weight: &mut Matrix,
    gradient: &Matrix,
    momentum: &mut Matrix,
) {
    let mu = options.momentum;
    let mut ahead = gradient.clone();
    for (ahead, momentum) in ahead.data_mut().iter_mut().zip(momentum.data_mut()) {
        *momentum = mu * *momentum + *ahead;
        *ahead += mu * *momentum;
    }
    let iterations = Iterations { coarse: options.coarse_iterations, fine: options.fine_iterations };
    let direction = newton_schulz(compute, &ahead, iterations);
    let longest = weight.rows().max(weight.cols()) as f32;
    let scale = rate * (longest.sqrt() * options.update_rms);
    let keep = 1.0 - rate * options.decay;
    for (weight, direction) in weight.data_mut().iter_mut().zip(direction.data()) {
        *weight = *weight * keep - scale * direction;
    }
}

#[cfg(test)]
mod tests {
    use cuvier_kernels::Isa;

    use super::*;
    use crate::optim::testing::{normal_matrix, on};

    #[test]
    fn an_update_has_the_root_mean_square_of_its_option_at_every_shape() {
        for (rows, cols) in [(16, 16), (64, 16), (16, 64), (3, 50), (1, 20)] {
            let mut weight = Matrix::zeros(rows, cols);
            let mut momentum = Matrix::zeros(rows, cols);
            let gradient = normal_matrix(rows, cols, 1);
            step(&on(Isa::best()), &MuonOptions::default(), 1.0, &mut weight, &gradient, &mut momentum);
            let squares: f32 = weight.data().iter().map(|w| w * w).sum();
            let rms = (squares / weight.data().len() as f32).sqrt();
            assert!((rms - 0.18).abs() < 0.0005, "[{rows}, {cols}]: {rms}");
        }
    }

    #[test]
    fn a_step_goes_against_the_gradient_and_weights_decay_without_one() {
        let gradient = normal_matrix(8, 12, 2);
        let (mut weight, mut momentum) = (Matrix::zeros(8, 12), Matrix::zeros(8, 12));
        step(&on(Isa::best()), &MuonOptions::default(), 0.1, &mut weight, &gradient, &mut momentum);
        let along: f32 = weight.data().iter().zip(gradient.data()).map(|(w, g)| w * g).sum();
        assert!(along < 0.0, "{along}");

        let zeros = Matrix::zeros(8, 12);
        let (mut weight, mut momentum) = (normal_matrix(8, 12, 3), zeros.clone());
        let before = weight.clone();
        step(&on(Isa::best()), &MuonOptions::default(), 0.5, &mut weight, &zeros, &mut momentum);
        for (after, before) in weight.data().iter().zip(before.data()) {
            assert_eq!(*after, before * 0.95);
        }
    }

    #[test]
    fn momentum_remembers_earlier_gradients() {
        let gradient = normal_matrix(4, 6, 4);
        let (mut weight, mut momentum) = (Matrix::zeros(4, 6), Matrix::zeros(4, 6));
        for expected in [1.0_f32, 1.95, 0.95 * 1.95 + 1.0] {
            step(&on(Isa::best()), &MuonOptions::default(), 0.1, &mut weight, &gradient, &mut momentum);
            for (momentum, gradient) in momentum.data().iter().zip(gradient.data()) {
                assert!((momentum - expected * gradient).abs() <= 1e-6 * expected.abs() * 4.0);
            }
        }
    }
}
