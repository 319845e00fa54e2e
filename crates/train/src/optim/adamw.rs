//! AdamW: steps scaled per number by the size of its past gradients.

use cuvier_tensor::Matrix;

/// The constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// What stays of the mean of gradients at each step.
    pub beta1: f32,
    /// What stays of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the mean square.
    pub eps: f32,
    /// The share of a weight that is taken away per step and unit of learning rate, where there is decay.
    pub decay: f32,
}

impl Default for AdamWOptions {
    /// Those of DeepSeek-V4.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-20, decay: 0.1 }
    }
}

/// What AdamW remembers of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moments {
    /// Running mean of gradients.
    pub(super) m: Matrix,
    /// Running mean of their squares.
    pub(super) v: Matrix,
}

/// Step number `t`, counted from 1, of one tensor; `weight` and `moments` are updated.
///
/// ```text
/// m      = beta1 m + (1 - beta1) gradient
/// v      = beta2 v + (1 - beta2) gradient²
/// weight = weight (1 - rate decay) - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
/// ```
///
/// In f32; the two powers are f64, rounded once.
///
/// Source: DeepSeek-V4 report, section on the training setup; Loshchilov and Hutter, "Decoupled weight decay
/// regularization", algorithm 2.
pub(super) fn step(
    options: &AdamWOptions,
    rate: f32,
    decay: f32,
    t: u64,
    weight: &mut Matrix,
    gradient: &Matrix,
    moments: &mut Moments,
) {
    let (beta1, beta2) = (options.beta1, options.beta2);
    // Past 2^31 steps both powers are zero in any precision.
    let exponent = i32::try_from(t).unwrap_or(i32::MAX);
    let correction = |beta: f32| (1.0 - f64::from(beta).powi(exponent)) as f32;
    let (correction1, correction2) = (correction(beta1), correction(beta2));
    let keep = 1.0 - rate * decay;
    let moments = moments.m.data_mut().iter_mut().zip(moments.v.data_mut());
    for ((weight, &g), (m, v)) in weight.data_mut().iter_mut().zip(gradient.data()).zip(moments) {
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * (g * g);
        let update = (*m / correction1) / ((*v / correction2).sqrt() + options.eps);
        *weight = *weight * keep - rate * update;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::testing::normal_matrix;

    #[test]
    fn twenty_steps_follow_the_formula_in_double_precision() {
        let options = AdamWOptions::default();
        let (rate, decay) = (0.01_f32, 0.1_f32);
        let mut weight = normal_matrix(3, 7, 1);
        let mut moments = Moments { m: Matrix::zeros(3, 7), v: Matrix::zeros(3, 7) };
        let mut exact: Vec<f64> = weight.data().iter().map(|&w| f64::from(w)).collect();
        let (mut m, mut v) = (vec![0.0_f64; 21], vec![0.0_f64; 21]);
        for t in 1..=20_u64 {
            let gradient = normal_matrix(3, 7, 10 + t);
            step(&options, rate, decay, t, &mut weight, &gradient, &mut moments);
            for i in 0..21 {
                let g = f64::from(gradient.data()[i]);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                let m_hat = m[i] / (1.0 - 0.9_f64.powf(t as f64));
                let v_hat = v[i] / (1.0 - 0.95_f64.powf(t as f64));
                exact[i] = exact[i] * (1.0 - 0.01 * 0.1) - 0.01 * m_hat / (v_hat.sqrt() + 1e-20);
            }
            for (got, exact) in weight.data().iter().zip(&exact) {
                assert!((f64::from(*got) - exact).abs() < 2e-6, "step {t}: {got} {exact}");
            }
        }
    }

    #[test]
    fn a_first_step_moves_every_number_by_the_rate_against_its_gradient() {
        let gradient = Matrix::from_vec(vec![3.0, -1e-9, 1e-15, -5.0], 4);
        let mut weight = Matrix::zeros(1, 4);
        let mut moments = Moments { m: Matrix::zeros(1, 4), v: Matrix::zeros(1, 4) };
        step(&AdamWOptions::default(), 0.5, 0.0, 1, &mut weight, &gradient, &mut moments);
        for (weight, gradient) in weight.data().iter().zip(gradient.data()) {
            assert!((weight + 0.5 * gradient.signum()).abs() < 1e-5, "{gradient}: {weight}");
        }
    }

    #[test]
    fn a_number_that_never_had_a_gradient_stays() {
        let mut weight = normal_matrix(2, 2, 1);
        let before = weight.clone();
        let zeros = Matrix::zeros(2, 2);
        let mut moments = Moments { m: zeros.clone(), v: zeros.clone() };
        step(&AdamWOptions::default(), 0.5, 0.0, 1, &mut weight, &zeros, &mut moments);
        assert_eq!(weight, before);
    }
}
