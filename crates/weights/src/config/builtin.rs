//! The two released shapes.

use cuvier_types::TokenId;

use super::{ExpertDtype, ModelConfig, QuantizationConfig, RopeScaling, ScoringFunc};

/// Layers 0 and 1 see the window only; then CSA and HCA alternate, from CSA to CSA.
pub(super) fn flash() -> ModelConfig {
    let mut compress_ratios = vec![0, 0];
    compress_ratios.extend([4, 128].repeat(20));
    compress_ratios.push(4);
    ModelConfig {
        vocab_size: 129_280,
        hidden_size: 4096,
        num_hidden_layers: 43,
        num_attention_heads: 64,
        head_dim: 512,
        qk_rope_head_dim: 64,
        q_lora_rank: 1024,
        o_groups: 8,
        o_lora_rank: 1024,
        sliding_window: 128,
        compress_ratios,
        compress_rope_theta: 160_000.0,
        rope_theta: 10_000.0,
        rope_scaling: Some(RopeScaling {
            factor: 16.0,
            original_max_position_embeddings: 65_536,
            beta_fast: 32.0,
            beta_slow: 1.0,
        }),
        max_position_embeddings: 1_048_576,
        index_n_heads: 64,
        index_head_dim: 128,
        index_topk: 512,
        n_routed_experts: 256,
        n_shared_experts: 1,
        num_experts_per_tok: 6,
        moe_intermediate_size: 2048,
        num_hash_layers: 3,
        scoring_func: ScoringFunc::SqrtSoftplus,
        routed_scaling_factor: 1.5,
        swiglu_limit: 10.0,
        hc_mult: 4,
        hc_sinkhorn_iters: 20,
        hc_eps: 1e-6,
        rms_norm_eps: 1e-6,
        num_nextn_predict_layers: 1,
        expert_dtype: Some(ExpertDtype::Fp4),
        quantization_config: Some(QuantizationConfig { weight_block_size: [128, 128] }),
        tie_word_embeddings: false,
        bos_token_id: TokenId(0),
        eos_token_id: TokenId(1),
        dspark: None,
    }
}

/// Layers 0 and 1 are HCA; then CSA and HCA alternate, from CSA to CSA.
pub(super) fn pro() -> ModelConfig {
    let mut compress_ratios = vec![128, 128];
    compress_ratios.extend([4, 128].repeat(29));
    compress_ratios.push(4);
    ModelConfig {
        hidden_size: 7168,
        num_hidden_layers: 61,
        num_attention_heads: 128,
        q_lora_rank: 1536,
        o_groups: 16,
        compress_ratios,
        index_topk: 1024,
        n_routed_experts: 384,
        moe_intermediate_size: 3072,
        routed_scaling_factor: 2.5,
        ..flash()
    }
}
