//! Operations of one decoded token, two per multiply-add.

use crate::{LayerKind, ModelConfig};

/// Floating-point operations by what they run on. `f64`, because they are estimates to be divided by each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flops {
    /// Products with FP8 weights: projections of attention, shared experts, index queries.
    pub fp8_weights: f64,
    /// Products with the chosen experts.
    pub routed_experts: f64,
    /// Products in BF16 or F32: compressors, routers, hyper-connections, LM head.
    pub small: f64,
    /// Scores and sums of attention.
    pub core_attention: f64,
    /// Scores of the indexer.
    pub indexer: f64,
    /// What an operation of the indexer costs in FP8 operations.
    pub indexer_weight: f64,
    /// V3.2 only: products with the up-projection of its latents, moved to queries and sums. BF16.
    pub absorbed: f64,
}

impl Flops {
    /// Every operation alike.
    pub fn raw(&self) -> f64 {
        self.fp8_weights
            + self.routed_experts
            + self.small
            + self.absorbed
            + self.core_attention
            + self.indexer
    }

    /// In FP8 operations: BF16 and F32 count twice, FP8 and FP4 experts once, FP4 index scores half.
    ///
    /// With these weights the published ratios come out. That FP4 scores count half is an inference: the report
    /// says "equivalent FP8 FLOPs" and no more.
    pub fn fp8_equivalent(&self) -> f64 {
        self.fp8_weights
            + self.routed_experts
            + 2.0 * (self.small + self.absorbed + self.core_attention)
            + self.indexer_weight * self.indexer
    }
}

/// Operations to decode one token after `context` tokens.
pub fn flops_per_token(c: &ModelConfig, context: u64) -> Flops {
    let layers = c.num_hidden_layers as f64;
    let csa = c.n_layers_of(LayerKind::Csa) as f64;
    let hca = c.n_layers_of(LayerKind::Hca) as f64;
    let (d, q) = (c.hidden_size as f64, c.q_lora_rank as f64);
    let heads = (c.num_attention_heads * c.head_dim) as f64;
    let head_dim = c.head_dim as f64;
    let groups = (c.o_groups * c.o_lora_rank) as f64;
    let expert = 3.0 * d * c.moe_intermediate_size as f64;
    let index = (c.index_n_heads * c.index_head_dim) as f64;
    // Whole groups only; decoding sees the entries of those.
    let (csa_entries, hca_entries) = ((context / 4) as f64, (context / 128) as f64);

    // Each row of `wo_a` reads one group of heads only.
    let projections = d * q + q * heads + d * head_dim + heads * c.o_lora_rank as f64 + groups * d;
    let csa_small = 2.0 * d * (2.0 * head_dim + 2.0 * c.index_head_dim as f64) + c.index_n_heads as f64 * d;
    let hca_small = 2.0 * d * head_dim;
    let n = c.hc_mult as f64;
    let per_layer_small = c.n_routed_experts as f64 * d + 2.0 * (2.0 + n) * n * n * d;
    let window = c.sliding_window as f64;
    let keys = layers * window + csa * (c.index_topk as f64).min(csa_entries) + hca * hca_entries;
    Flops {
        fp8_weights: 2.0 * (layers * (projections + expert) + csa * q * index),
        routed_experts: 2.0 * layers * c.num_experts_per_tok as f64 * expert,
        small: 2.0 * (csa * csa_small + hca * hca_small + layers * per_layer_small + c.vocab_size as f64 * d),
        core_attention: 2.0 * 2.0 * keys * heads,
        indexer: 2.0 * csa * csa_entries * index,
        indexer_weight: 0.5,
        absorbed: 0.0,
    }
}
