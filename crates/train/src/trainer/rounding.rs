//! Weights as the checkpoint will have them: rounded in the forward pass, while the optimiser keeps what is exact and the
//! gradient passes as if nothing had been rounded.

use cuvier_model::Parameters;
use cuvier_tensor::Dtype;
use cuvier_weights::{ModelConfig, Precision, given_back, inventory};

use crate::config::Qat;

/// The parameters with the weights that `qat` names rounded as a release stores them. Scales are powers of two, large
/// enough that nothing is clipped:
///
/// - routed experts to FP4: E2M1 with a scale for each 32 columns of a row;
/// - other matrices that are stored in FP8: E4M3 with a scale for each block of 128 rows and columns.
///
/// Source: DeepSeek-V4 report, section on FP4 quantisation-aware training.
pub fn as_stored(parameters: &Parameters, config: &ModelConfig, qat: &Qat) -> Parameters {
    let mut rounded = parameters.clone();
    let specs = inventory(config, config.num_nextn_predict_layers > 0);
    let dtypes = specs.iter().map(|spec| (spec.stored(Precision::Official).0.dtype, spec.name));
    for (dtype, name) in dtypes {
        let is_rounded = dtype == Dtype::I8 && qat.experts || dtype == Dtype::F8E4M3 && qat.linears;
        if is_rounded && let Some(weight) = rounded.get_mut(&name) {
            let numbers = given_back(weight.data(), weight.cols(), dtype);
            weight.data_mut().copy_from_slice(&numbers);
        }
    }
    rounded
}

#[cfg(test)]
mod tests {
    use cuvier_tensor::formats::{E2M1_VALUES, e4m3_to_f32, f32_to_e4m3};
    use cuvier_types::TokenId;

    use super::*;
    use crate::config::{Preset, Vocabulary};
    use crate::init::initial;

    #[test]
    fn each_option_rounds_its_own_matrices_and_rounding_twice_changes_nothing() {
        let vocabulary = Vocabulary { size: 40, bos: TokenId(0), eos: TokenId(1) };
        let config = Preset::Nano.config(vocabulary).expect("a shape");
        let parameters = initial(&config, 1);
        for (experts, linears) in [(false, false), (true, false), (false, true), (true, true)] {
            let qat = Qat { begin: 0.0, experts, indexer: false, linears };
            let once = as_stored(&parameters, &config, &qat);
            let changed = |name: &str| once.get(name) != parameters.get(name);
            assert_eq!(changed("layers.0.ffn.experts.3.w2.weight"), experts);
            assert_eq!(changed("mtp.0.ffn.experts.0.w1.weight"), experts);
            assert_eq!(changed("layers.0.ffn.shared_experts.w2.weight"), linears);
            assert_eq!(changed("layers.0.attn.wq_a.weight"), linears);
            assert!(!changed("head.weight") && !changed("layers.0.ffn.gate.weight"));
            assert_eq!(as_stored(&once, &config, &qat), once);
        }
    }

    #[test]
    fn a_block_of_zeros_stays_zero_and_the_largest_number_is_not_clipped() {
        assert_eq!(given_back(&[0.0; 32], 32, Dtype::I8), [0.0; 32]);
        for largest in [0.9, 5.9, 6.0, 6.1, 11.9, 1e-3, 1e4] {
            let mut block = [0.0; 32];
            block[7] = largest;
            let got = given_back(&block, 32, Dtype::I8)[7];
            assert!((got - largest).abs() / largest <= 0.251, "{largest} became {got}");
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
