//! What must hold between the fields of a config.

use super::raw::Fields;
use super::{LayerKind, ModelConfig};
use crate::WeightsError;

/// Layers times experts. With the bounds below it keeps every product of fields, and every list made from
/// them, far from the limits of 64 bits and of memory.
const EXPERTS_TOTAL_MAX: usize = 1 << 18;

pub(super) fn check(config: &ModelConfig, source: &str) -> Result<(), WeightsError> {
    let at = Fields { source };
    dims(config, &at)?;
    attention(config, &at)?;
    experts(config, &at)?;
    numbers(config, &at)?;
    for (field, token) in [("bos_token_id", config.bos_token_id), ("eos_token_id", config.eos_token_id)] {
        if token.0 as usize >= config.vocab_size {
            return Err(at.wrong(field, format!("is {}, outside the vocabulary", token.0)));
        }
    }
    if let Some(dspark) = &config.dspark
        && let Some(layer) =
            dspark.dspark_target_layer_ids.iter().find(|l| usize::from(l.0) >= config.num_hidden_layers)
    {
        return Err(at.wrong("dspark_target_layer_ids", format!("names layer {layer}, which does not exist")));
    }
    Ok(())
}

/// Every count lies between 1 and a bound well above any plausible model.
fn dims(c: &ModelConfig, at: &Fields<'_>) -> Result<(), WeightsError> {
    for (field, value, max) in [
        ("vocab_size", c.vocab_size, 1 << 22),
        ("hidden_size", c.hidden_size, 1 << 16),
        ("num_hidden_layers", c.num_hidden_layers, 512),
        ("num_attention_heads", c.num_attention_heads, 1 << 10),
        ("head_dim", c.head_dim, 1 << 12),
        ("qk_rope_head_dim", c.qk_rope_head_dim, 1 << 12),
        ("q_lora_rank", c.q_lora_rank, 1 << 16),
        ("o_groups", c.o_groups, 1 << 10),
        ("o_lora_rank", c.o_lora_rank, 1 << 14),
        ("sliding_window", c.sliding_window, 1 << 20),
        ("max_position_embeddings", c.max_position_embeddings, 1 << 30),
        ("index_n_heads", c.index_n_heads, 1 << 10),
        ("index_head_dim", c.index_head_dim, 1 << 12),
        ("index_topk", c.index_topk, 1 << 20),
        ("n_routed_experts", c.n_routed_experts, 1 << 12),
        ("num_experts_per_tok", c.num_experts_per_tok, 1 << 8),
        ("moe_intermediate_size", c.moe_intermediate_size, 1 << 16),
        ("hc_mult", c.hc_mult, 16),
        ("hc_sinkhorn_iters", c.hc_sinkhorn_iters, 1000),
    ] {
        if value == 0 || value > max {
            return Err(at.wrong(field, format!("is {value}; it can be 1 to {max}")));
        }
    }
    Ok(())
}

fn attention(c: &ModelConfig, at: &Fields<'_>) -> Result<(), WeightsError> {
    let layers = c.num_hidden_layers;
    if c.compress_ratios.len() != layers {
        let n = c.compress_ratios.len();
        return Err(at.wrong("compress_ratios", format!("has {n} entries for {layers} layers")));
    }
    if let Some(ratio) = c.compress_ratios.iter().find(|ratio| ![0, 4, 128].contains(*ratio)) {
        return Err(at.wrong("compress_ratios", format!("has {ratio}; it can be 0, 4 or 128")));
    }
    if !c.qk_rope_head_dim.is_multiple_of(2) {
        return Err(at.wrong("qk_rope_head_dim", format!("is {}, which is odd", c.qk_rope_head_dim)));
    }
    if c.qk_rope_head_dim > c.head_dim {
        return Err(at.wrong("qk_rope_head_dim", format!("exceeds `head_dim` {}", c.head_dim)));
    }
    if !c.num_attention_heads.is_multiple_of(c.o_groups) {
        return Err(at.wrong(
            "o_groups",
            format!("is {}, which does not divide {} attention heads", c.o_groups, c.num_attention_heads),
        ));
    }
    // Only layers of ratio 4 have an indexer.
    if c.compress_ratios.contains(&LayerKind::Csa.ratio()) {
        if !c.index_head_dim.is_power_of_two() {
            return Err(at.wrong("index_head_dim", format!("is {}, not a power of two", c.index_head_dim)));
        }
        if c.qk_rope_head_dim > c.index_head_dim {
            return Err(
                at.wrong("qk_rope_head_dim", format!("exceeds `index_head_dim` {}", c.index_head_dim))
            );
        }
    }
    Ok(())
}

fn experts(c: &ModelConfig, at: &Fields<'_>) -> Result<(), WeightsError> {
    if c.n_shared_experts != 1 {
        return Err(at.wrong("n_shared_experts", format!("is {}; it can be 1", c.n_shared_experts)));
    }
    if c.num_experts_per_tok > c.n_routed_experts {
        return Err(at.wrong(
            "num_experts_per_tok",
            format!("is {}, of {} experts", c.num_experts_per_tok, c.n_routed_experts),
        ));
    }
    if c.n_routed_experts * c.num_hidden_layers > EXPERTS_TOTAL_MAX {
        return Err(at.wrong("n_routed_experts", format!("times layers exceeds {EXPERTS_TOTAL_MAX}")));
    }
    if c.num_hash_layers > c.num_hidden_layers {
        return Err(at.wrong("num_hash_layers", format!("exceeds {} layers", c.num_hidden_layers)));
    }
    if c.num_nextn_predict_layers > 16 {
        return Err(at.wrong("num_nextn_predict_layers", format!("is {}", c.num_nextn_predict_layers)));
    }
    if c.tie_word_embeddings {
        return Err(at.wrong("tie_word_embeddings", "must be false"));
    }
    Ok(())
}

fn numbers(c: &ModelConfig, at: &Fields<'_>) -> Result<(), WeightsError> {
    let mut positive = vec![
        ("compress_rope_theta", c.compress_rope_theta),
        ("rope_theta", c.rope_theta),
        ("routed_scaling_factor", f64::from(c.routed_scaling_factor)),
        ("swiglu_limit", f64::from(c.swiglu_limit)),
        ("hc_eps", f64::from(c.hc_eps)),
        ("rms_norm_eps", f64::from(c.rms_norm_eps)),
    ];
    if let Some(yarn) = c.rope_scaling {
        positive.extend([
            ("rope_scaling.factor", yarn.factor),
            ("rope_scaling.beta_fast", yarn.beta_fast),
            ("rope_scaling.beta_slow", yarn.beta_slow),
            ("rope_scaling.original_max_position_embeddings", yarn.original_max_position_embeddings as f64),
        ]);
        if yarn.beta_slow > yarn.beta_fast {
            return Err(at.wrong("rope_scaling.beta_slow", "exceeds `beta_fast`"));
        }
    }
    for (field, value) in positive {
        if !(value > 0.0 && value.is_finite()) {
            return Err(at.wrong(field, format!("is {value}; it must be a positive number")));
        }
    }
    // A base of at most 1 gives no decreasing frequencies; YaRN divides by its logarithm.
    for (field, theta) in [("rope_theta", c.rope_theta), ("compress_rope_theta", c.compress_rope_theta)] {
        if theta <= 1.0 {
            return Err(at.wrong(field, format!("is {theta}; it must exceed 1")));
        }
    }
    Ok(())
}
