//! Memory of a step's intermediate results: what is alive at once where most is.

use cuvier_weights::{LayerKind, ModelConfig};

use super::{Stock, Wish, kv, streams_width};

/// Buffers go back to a pool and are taken again where they are large enough; some of them are a little too large, and
/// some wait unused.
const POOL_SHARE: f64 = 0.1;
/// What allocators keep, thread stacks, and small things.
const FIXED: u64 = 8 << 20;
/// What one thread gathers and unpacks.
const PER_THREAD: u64 = 3 << 20;

/// Bytes of a step of `chunk` tokens, with `is_loaded` experts or those of a store.
pub(super) fn step(stock: &Stock, wish: &Wish, chunk: usize, is_loaded: bool) -> u64 {
    let config = &stock.config;
    let numbers = per_token(config, is_loaded) * chunk;
    let logits = 4 * (wish.logit_rows + wish.slots) * (2 * config.vocab_size + streams_width(config));
    let pooled = (4 * numbers + logits) as f64 * (1.0 + POOL_SHARE);
    pooled as u64 + kv::of_step(config, wish.kv, chunk, wish.holds) + FIXED + PER_THREAD * wish.threads as u64
}

/// Numbers of four bytes that a token has in all buffers of a step. Buffers of attention and of experts follow each
/// other, so the larger of the two counts.
fn per_token(config: &ModelConfig, is_loaded: bool) -> usize {
    let streams = 2 * streams_width(config);
    let hidden = 4 * config.hidden_size;
    streams + hidden + attention(config).max(experts(config, is_loaded))
}

fn attention(config: &ModelConfig) -> usize {
    let heads = config.num_attention_heads * config.head_dim;
    // Queries and outputs, the latter in bytes as well; entries once more as they are stored.
    let of_heads = 2 * heads + heads / 4 + 2 * config.head_dim;
    let low_rank = 2 * config.q_lora_rank + config.o_groups * config.o_lora_rank * 5 / 4;
    let has = |kind| config.n_layers_of(kind) > 0;
    let compressor = if has(LayerKind::Csa) || has(LayerKind::Hca) { 8 * config.head_dim } else { 0 };
    let indexer = if has(LayerKind::Csa) {
        2 * config.index_n_heads * config.index_head_dim + 8 * config.index_head_dim + 2 * config.index_topk
    } else {
        0
    };
    of_heads + low_rank + compressor + indexer
}

fn experts(config: &ModelConfig, is_loaded: bool) -> usize {
    let width = config.moe_intermediate_size * 5 / 4;
    // From a store they come a few at a time; what was chosen most is then at most all tokens.
    let routed = if is_loaded { config.num_experts_per_tok } else { config.num_experts_per_tok.min(4) };
    routed * width + 3 * config.moe_intermediate_size + 2 * config.n_routed_experts
}
