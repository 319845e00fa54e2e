//! The weights of a model before its first step.

use cuvier_model::Parameters;
use cuvier_tensor::Matrix;
use cuvier_weights::{ModelConfig, TensorSpec, inventory};

use crate::random::Random;
use crate::routers::{Keeper, keeper_of};

/// Standard deviation of the LM head's numbers: logits begin close to 0, and so the loss close to `ln(vocab_size)`.
const HEAD_STD: f64 = 0.02;
/// Initial scales of hyper-connections: their mixes hardly depend on the token at first.
///
/// Source: the report on manifold-constrained hyper-connections, table of hyper-parameters.
const HC_SCALE: f32 = 0.01;
/// Initial logit of what a stream keeps of itself: about 0.95 after normalisation, of four streams.
const HC_SELF: f32 = 4.0;

/// Weights to begin with, from `seed` alone: each tensor's numbers follow from its name, so a layer more changes no
/// other layer.
///
/// | tensor                          | numbers |
/// |---------------------------------|---------|
/// | norms                           | 1 |
/// | sinks, position terms           | 0 |
/// | embedding                       | normal, deviation 1 |
/// | LM head                         | normal, deviation 0.02 |
/// | `wo_b`, `w2`                    | normal, deviation `1 / sqrt(in * 2 * num_hidden_layers)` |
/// | all other matrices              | normal, deviation `1 / sqrt(in)` |
/// | hyper-connections: scale        | 0.01 |
/// | hyper-connections: base of pre  | logit of `1 / hc_mult`: a sublayer reads the mean of the streams |
/// | hyper-connections: base of post | 0: every stream takes the whole output |
/// | hyper-connections: base of comb | 4 on the diagonal: streams keep themselves |
///
/// So a model begins close to a plain residual network with streams of unit size. What the report does not say is
/// chosen here: it gives none of these but the scale of hyper-connections.
pub fn initial(config: &ModelConfig, seed: u64) -> Parameters {
    let mut parameters = Parameters::default();
    for spec in inventory(config, config.num_nextn_predict_layers > 0).iter() {
        if keeper_of(&spec) == Keeper::Parameters {
            let numbers = numbers(config, &spec, seed);
            let cols = spec.shape.last().copied().unwrap_or(1);
            parameters.insert(spec.name, Matrix::from_vec(numbers, cols));
        }
    }
    parameters
}

fn numbers(config: &ModelConfig, spec: &TensorSpec, seed: u64) -> Vec<f32> {
    let n = spec.elements();
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| spec.name.ends_with(suffix));
    if ends(&["norm.weight"]) {
        return vec![1.0; n];
    }
    if ends(&[".attn_sink", ".ape"]) {
        return vec![0.0; n];
    }
    if ends(&["_scale"]) {
        return vec![HC_SCALE; n];
    }
    if ends(&["_base"]) {
        return hyper_connection_base(config.hc_mult, n);
    }
    let fan_in = spec.shape.last().copied().unwrap_or(1) as f64;
    let std = match spec.name.as_str() {
        "embed.weight" => 1.0,
        "head.weight" => HEAD_STD,
        // Two sublayers per layer add to a stream; together they add about as much as it had.
        _ if ends(&[".wo_b.weight", ".w2.weight"]) => {
            1.0 / (fan_in * 2.0 * config.num_hidden_layers as f64).sqrt()
        }
        _ => 1.0 / fan_in.sqrt(),
    };
    let mut random = Random::new(&spec.name, seed);
    (0..n).map(|_| (std * random.normal()) as f32).collect()
}

/// Of `hc_mult` streams: pre, post and comb, or, before the LM head, pre alone.
fn hyper_connection_base(hc_mult: usize, n: usize) -> Vec<f32> {
    // One stream alone has all, whose logit would be infinite.
    let share = (1.0 / hc_mult as f32).min(0.98);
    let mut base = vec![(share / (1.0 - share)).ln(); hc_mult];
    if n > hc_mult {
        base.extend(std::iter::repeat_n(0.0, hc_mult));
        let comb = (0..hc_mult * hc_mult).map(|i| if i % (hc_mult + 1) == 0 { HC_SELF } else { 0.0 });
        base.extend(comb);
    }
    base
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use cuvier_kernels::{Compute, HcConfig, HyperConnection, Isa, hc_mix};
    use cuvier_tensor::WeightMatrix;
    use cuvier_types::TokenId;

    use super::*;
    use crate::config::{Preset, Vocabulary};
    use crate::optim::{MatrixRule, Rule, rule_of};

    fn nano() -> ModelConfig {
        let vocabulary = Vocabulary { size: 320, bos: TokenId(0), eos: TokenId(1) };
        Preset::Nano.config(vocabulary).expect("a preset")
    }

    #[test]
    fn every_trainable_tensor_of_the_inventory_is_there_in_its_shape_and_nothing_else() {
        let config = nano();
        let parameters = initial(&config, 1);
        let mut expected: Vec<(String, usize, usize)> = inventory(&config, true)
            .iter()
            .filter(|spec| keeper_of(spec) == Keeper::Parameters)
            .map(|spec| {
                let cols = *spec.shape.last().expect("an axis");
                (spec.name, spec.shape.iter().product::<usize>() / cols, cols)
            })
            .collect();
        expected.sort();
        let got: Vec<(String, usize, usize)> =
            parameters.iter().map(|(name, t)| (name.to_owned(), t.rows(), t.cols())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_layer_or_an_expert_more_leaves_the_others_as_they_are() {
        let config = nano();
        let small = initial(&config, 7);
        let mut more = config.clone();
        more.n_routed_experts += 1;
        more.num_hash_layers = 0;
        let large = initial(&more, 7);
        for (name, tensor) in small.iter().filter(|(name, _)| !name.ends_with("gate.weight")) {
            assert_eq!(large.get(name), Some(tensor), "{name}");
        }
        assert_ne!(initial(&config, 8).get("embed.weight"), small.get("embed.weight"));
    }

    #[test]
    fn matrices_under_muon_have_the_deviation_of_their_width() {
        let config = nano();
        for (name, tensor) in initial(&config, 3).iter() {
            if rule_of(name, MatrixRule::Muon) != Rule::Muon || tensor.data().len() < 2000 {
                continue;
            }
            let out = name.ends_with(".wo_b.weight") || name.ends_with(".w2.weight");
            let layers = if out { 2.0 * config.num_hidden_layers as f64 } else { 1.0 };
            let expected = 1.0 / (tensor.cols() as f64 * layers).sqrt();
            let squares: f64 = tensor.data().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let got = (squares / tensor.data().len() as f64).sqrt();
            assert!((got / expected - 1.0).abs() < 0.08, "{name}: {got}, {expected}");
        }
    }

    #[test]
    fn hyper_connections_begin_as_a_plain_residual_connection() {
        let config = nano();
        let parameters = initial(&config, 3);
        let get = |part: &str| parameters.get(&format!("layers.0.hc_attn_{part}")).expect("there");
        let r#fn = WeightMatrix::from_f32(get("fn").data(), get("fn").rows(), get("fn").cols());
        let (base, scale) = (get("base").data().to_vec(), get("scale").data().to_vec());
        let weights = HyperConnection::new(&r#fn, base, scale, config.hc_mult).expect("shapes that fit");
        let hc = HcConfig {
            hc_mult: config.hc_mult,
            sinkhorn_iters: config.hc_sinkhorn_iters,
            hc_eps: config.hc_eps,
            norm_eps: config.rms_norm_eps,
        };
        let compute = Compute::new(Isa::best(), NonZeroUsize::MIN).expect("one thread");
        let mut random = Random::new("streams", 1);
        let numbers = 5 * config.hc_mult * config.hidden_size;
        let streams: Vec<f32> = (0..numbers).map(|_| random.normal() as f32).collect();
        let streams = Matrix::from_vec(streams, config.hc_mult * config.hidden_size);
        let mix = hc_mix(&compute, streams.view(), &weights, &hc);
        assert!(mix.pre.data().iter().all(|pre| (pre - 0.25).abs() < 0.02), "{:?}", mix.pre.data());
        assert!(mix.post.data().iter().all(|post| (post - 1.0).abs() < 0.05), "{:?}", mix.post.data());
        for (i, comb) in mix.comb.data().iter().enumerate() {
            let expected = if i % 16 % 5 == 0 { 0.948 } else { 0.017 };
            assert!((comb - expected).abs() < 0.02, "{i}: {comb}");
        }
    }
}
