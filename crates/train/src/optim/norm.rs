//! The norm of all gradients together.

use std::sync::atomic::{AtomicU64, Ordering};

use cuvier_kernels::Compute;
use cuvier_model::Parameters;

/// Partial sums per tensor: enough for the compiler to use vectors.
const PARTS: usize = 8;

/// The root of the sum of the squares of all numbers.
///
/// Squares and sums are f64: per tensor in eight interleaved sums that are added in order, then over the tensors in
/// order of name.
pub fn global_norm(c: &Compute, gradients: &Parameters) -> f64 {
    let tensors: Vec<&[f32]> = gradients.iter().map(|(_, tensor)| tensor.data()).collect();
    let sums: Vec<AtomicU64> = tensors.iter().map(|_| AtomicU64::new(0)).collect();
    c.for_each(tensors.len(), |i| sums[i].store(square_sum(tensors[i]).to_bits(), Ordering::Relaxed));
    sums.into_iter().map(|sum| f64::from_bits(sum.into_inner())).sum::<f64>().sqrt()
}

/// Scales all gradients down together so that their norm is at most `norm_max`. Returns the norm they had.
///
/// A norm that is not finite changes nothing: there is no direction to keep, and the caller should not step.
pub fn clip(c: &Compute, gradients: &mut Parameters, norm_max: f64) -> f64 {
    let norm = global_norm(c, gradients);
    if norm.is_finite() && norm > norm_max {
        let scale = (norm_max / norm) as f32;
        for (_, tensor) in gradients.iter_mut() {
            tensor.data_mut().iter_mut().for_each(|g| *g *= scale);
        }
    }
    norm
}

fn square_sum(numbers: &[f32]) -> f64 {
    let (chunks, rest) = numbers.as_chunks::<PARTS>();
    let mut sums = [0.0_f64; PARTS];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x) * f64::from(x);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use cuvier_kernels::Isa;
    use cuvier_tensor::Matrix;

    use super::*;
    use crate::optim::testing::normal_matrix;

    fn compute(threads: usize) -> Compute {
        Compute::new(Isa::best(), NonZeroUsize::new(threads).expect("positive")).expect("threads start")
    }

    fn gradients() -> Parameters {
        let mut gradients = Parameters::default();
        for (name, rows, cols) in [("a", 3, 4), ("b", 17, 5), ("c", 1, 1)] {
            gradients.insert(name, normal_matrix(rows, cols, 1));
        }
        gradients
    }

    #[test]
    fn the_norm_is_that_of_all_numbers_whatever_the_threads() {
        let exact: f64 = gradients()
            .iter()
            .flat_map(|(_, tensor)| tensor.data().to_vec())
            .map(|x| f64::from(x) * f64::from(x))
            .sum::<f64>()
            .sqrt();
        let norms = [1, 2, 3].map(|threads| global_norm(&compute(threads), &gradients()));
        assert!((norms[0] - exact).abs() < 1e-12 * exact, "{norms:?} {exact}");
        assert!(norms.iter().all(|norm| norm.to_bits() == norms[0].to_bits()), "{norms:?}");
    }

    #[test]
    fn gradients_above_the_bound_are_brought_to_it_and_others_stay() {
        let c = compute(1);
        let mut clipped = gradients();
        let norm = clip(&c, &mut clipped, 1.0);
        assert!(norm > 5.0);
        assert!((global_norm(&c, &clipped) - 1.0).abs() < 1e-6);
        let mut kept = gradients();
        assert_eq!(clip(&c, &mut kept, 2.0 * norm), norm);
        assert_eq!(kept, gradients());
    }

    #[test]
    fn gradients_without_a_finite_norm_stay_as_they_are() {
        let mut broken = Parameters::default();
        broken.insert("a", Matrix::from_vec(vec![1.0, f32::INFINITY], 2));
        let before = broken.clone();
        assert!(clip(&compute(1), &mut broken, 1.0).is_infinite());
        assert_eq!(broken, before);
    }
}
