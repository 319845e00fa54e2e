//! Weights as the checkpoint will have them: rounded in the forward pass, while the optimiser keeps what is exact and the
//! gradient passes as if nothing had been rounded.

use cuvier_model::Parameters;
use cuvier_tensor::formats::{E2M1_MAX, E2M1_VALUES, FP4_BLOCK, e8m0_block_scale, e8m0_to_f32, f32_to_e2m1};

/// The parameters with the weights of routed experts rounded to FP4: E2M1 with a scale, a power of two, for each 32
/// columns of a row. The scale is large enough that nothing is clipped.
///
/// Source: DeepSeek-V4 report, section on FP4 quantisation-aware training.
pub fn with_fp4_experts(parameters: &Parameters) -> Parameters {
    let mut rounded = parameters.clone();
    for (name, weight) in rounded.iter_mut() {
        if is_routed_expert(name) {
            let cols = weight.cols();
            for row in weight.data_mut().chunks_exact_mut(cols) {
                row.chunks_mut(FP4_BLOCK).for_each(round_block);
            }
        }
    }
    rounded
}

fn is_routed_expert(name: &str) -> bool {
    name.contains(".ffn.experts.")
}

fn round_block(block: &mut [f32]) {
    let scale = e8m0_to_f32(e8m0_block_scale(block.iter().copied(), E2M1_MAX));
    for x in block {
        *x = E2M1_VALUES[usize::from(f32_to_e2m1(*x / scale))] * scale;
    }
}

#[cfg(test)]
mod tests {
    use cuvier_tensor::Matrix;
    use cuvier_tensor::formats::{e4m3_to_f32, f32_to_e4m3};

    use super::*;

    #[test]
    fn only_routed_experts_are_rounded_and_rounding_twice_changes_nothing() {
        let numbers = |n: usize| (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect::<Vec<_>>();
        let mut parameters = Parameters::default();
        for name in ["layers.0.ffn.experts.3.w2.weight", "layers.0.ffn.shared_experts.w2.weight"] {
            parameters.insert(name, Matrix::from_vec(numbers(256), 64));
        }
        let once = with_fp4_experts(&parameters);
        assert_ne!(
            once.get("layers.0.ffn.experts.3.w2.weight"),
            parameters.get("layers.0.ffn.experts.3.w2.weight")
        );
        let shared = "layers.0.ffn.shared_experts.w2.weight";
        assert_eq!(once.get(shared), parameters.get(shared));
        assert_eq!(with_fp4_experts(&once), once);
    }

    #[test]
    fn a_block_of_zeros_stays_zero_and_the_largest_number_is_not_clipped() {
        let mut zeros = [0.0; 32];
        round_block(&mut zeros);
        assert_eq!(zeros, [0.0; 32]);
        for largest in [0.9, 5.9, 6.0, 6.1, 11.9, 1e-3, 1e4] {
            let mut block = [0.0; 32];
            block[7] = largest;
            round_block(&mut block);
            let off = (block[7] - largest).abs() / largest;
            assert!(off <= 0.251, "{largest} became {}", block[7]);
        }
    }

    /// FP4 weights that are multiplied as FP8 lose nothing, as long as the scales of one FP8 block are not too far apart.
    #[test]
    fn fp4_numbers_times_powers_of_two_from_two_to_the_minus_8_to_6_are_fp8_numbers() {
        for exponent in -8..=6 {
            for value in E2M1_VALUES {
                let x = value * 2f32.powi(exponent);
                assert_eq!(e4m3_to_f32(f32_to_e4m3(x)), x, "{value} * 2^{exponent}");
            }
        }
        let (below, above) = (0.5 * 2f32.powi(-9), 6.0 * 2f32.powi(7));
        assert_ne!(e4m3_to_f32(f32_to_e4m3(below)), below);
        assert_ne!(e4m3_to_f32(f32_to_e4m3(above)), above);
    }
}
