//! A smaller shape that still has every kind of layer of the larger one.

use cuvier_tensor::formats::FP4_BLOCK;

use super::SynthOptions;
use crate::{ModelConfig, Precision, WeightsError};

pub(super) fn plan(options: &SynthOptions) -> Result<ModelConfig, WeightsError> {
    let mut config = options.config.clone();
    config.check()?;
    if let Some(layers) = options.layers {
        fewer_layers(&mut config, layers)?;
    }
    if let Some(experts) = options.experts {
        config.n_routed_experts = experts;
        config.num_experts_per_tok = config.num_experts_per_tok.min(experts);
    }
    if let Some(vocab) = options.vocab {
        config.vocab_size = vocab;
    }
    config.num_nextn_predict_layers = usize::from(options.mtp && config.num_nextn_predict_layers > 0);
    // A drafter of several stages is not written.
    config.dspark = None;
    options.precision.describe(&mut config);
    if options.precision == Precision::Official
        && let Some((field, cols)) = without_whole_blocks(&config)
    {
        return Err(WeightsError::Synth {
            option: "precision",
            problem: format!("FP4 needs a `{field}` that is a multiple of {FP4_BLOCK}, not {cols}"),
        });
    }
    config.check()?;
    Ok(config)
}

/// The columns of experts that blocks of FP4 do not fill, if there are such: the config's key, and how many.
pub(crate) fn without_whole_blocks(config: &ModelConfig) -> Option<(&'static str, usize)> {
    [("hidden_size", config.hidden_size), ("moe_intermediate_size", config.moe_intermediate_size)]
        .into_iter()
        .find(|(_, cols)| !cols.is_multiple_of(FP4_BLOCK))
}

/// The first `layers` of the plan where they have every kind that the whole plan has; else as many kinds as
/// fit, the richest first. Both ways of routing stay, from two layers on.
fn fewer_layers(config: &mut ModelConfig, layers: usize) -> Result<(), WeightsError> {
    if layers == 0 || layers > config.num_hidden_layers {
        let problem = format!("{layers} layers were asked for; the shape has {}", config.num_hidden_layers);
        return Err(WeightsError::Synth { option: "layers", problem });
    }
    let all = &config.compress_ratios;
    let kinds: Vec<usize> = [4, 128, 0].into_iter().filter(|ratio| all.contains(ratio)).collect();
    let first = all[..layers].to_vec();
    let ratios = if kinds.iter().all(|kind| first.contains(kind)) {
        first
    } else {
        let mut few: Vec<usize> = kinds.into_iter().take(layers).collect();
        few.sort_unstable();
        let padding = layers - few.len();
        let mut ratios = vec![few[0]; padding];
        ratios.extend(few);
        ratios
    };
    let all_hash = config.num_hash_layers == config.num_hidden_layers;
    if !all_hash {
        config.num_hash_layers = config.num_hash_layers.min(layers - 1);
    } else {
        config.num_hash_layers = layers;
    }
    config.compress_ratios = ratios;
    config.num_hidden_layers = layers;
    Ok(())
}
