//! DeepSeek-V3.2, the model that V4 is compared with. Only what the comparison needs.

use super::Flops;

/// The shape of DeepSeek-V3.2, by the keys of its own `config.json`.
#[derive(Clone, Copy, Debug)]
pub struct V32 {
    hidden_size: u64,
    num_hidden_layers: u64,
    first_k_dense_replace: u64,
    num_attention_heads: u64,
    q_lora_rank: u64,
    kv_lora_rank: u64,
    qk_nope_head_dim: u64,
    qk_rope_head_dim: u64,
    v_head_dim: u64,
    index_n_heads: u64,
    index_head_dim: u64,
    index_topk: u64,
    intermediate_size: u64,
    moe_intermediate_size: u64,
    n_routed_experts: u64,
    num_experts_per_tok: u64,
    vocab_size: u64,
}

impl V32 {
    /// As released.
    pub const RELEASED: Self = Self {
        hidden_size: 7168,
        num_hidden_layers: 61,
        first_k_dense_replace: 3,
        num_attention_heads: 128,
        q_lora_rank: 1536,
        kv_lora_rank: 512,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 128,
        index_n_heads: 64,
        index_head_dim: 128,
        index_topk: 2048,
        intermediate_size: 18_432,
        moe_intermediate_size: 2048,
        n_routed_experts: 256,
        num_experts_per_tok: 8,
        vocab_size: 129_280,
    };

    /// Latent in E4M3 with F32 scales per 128, rotated part in BF16; index key in E4M3 with one F32 scale. Every
    /// token, every layer.
    pub fn kv_bytes_per_token(&self) -> u64 {
        let latent = self.kv_lora_rank + self.kv_lora_rank / 128 * 4 + 2 * self.qk_rope_head_dim;
        let key = self.index_head_dim + 4;
        self.num_hidden_layers * (latent + key)
    }

    /// Operations to decode one token after `context` tokens.
    pub fn flops_per_token(&self, context: u64) -> Flops {
        let layers = self.num_hidden_layers;
        let sparse = layers - self.first_k_dense_replace;
        let (d, heads) = (self.hidden_size, self.num_attention_heads);
        let latent = self.kv_lora_rank + self.qk_rope_head_dim;
        let index = self.index_n_heads * self.index_head_dim;
        let projections = d * self.q_lora_rank
            + self.q_lora_rank * heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
            + d * latent
            + heads * self.v_head_dim * d
            + self.q_lora_rank * index
            + d * self.index_head_dim;
        let dense = 3 * d * self.intermediate_size;
        let expert = 3 * d * self.moe_intermediate_size;
        let small =
            layers * self.index_n_heads * d + sparse * self.n_routed_experts * d + self.vocab_size * d;
        // Keys are read as latents: queries and sums go through `kv_b` instead of every key.
        let absorbed = layers * heads * self.kv_lora_rank * (self.qk_nope_head_dim + self.v_head_dim);
        let core = layers * self.index_topk.min(context) * heads * (latent + self.kv_lora_rank);
        let flops = |macs: u64| 2.0 * macs as f64;
        Flops {
            fp8_weights: flops(
                layers * projections
                    + self.first_k_dense_replace * dense
                    + sparse * (1 + self.num_experts_per_tok) * expert,
            ),
            routed_experts: 0.0,
            small: flops(small),
            core_attention: flops(core),
            indexer: flops(layers * index) * context as f64,
            // V3.2 scores in FP8.
            indexer_weight: 1.0,
            absorbed: flops(absorbed),
        }
    }
}
