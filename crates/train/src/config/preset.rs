//! Shapes that a small machine can train.

use cuvier_types::TokenId;
use cuvier_weights::{ModelConfig, WeightsError};

/// A DeepSeek-V4 made small: every part of the architecture is there. Of 320 tokens:
///
/// | preset | `hidden_size` | layers | experts | numbers | of them active |
/// |--------|---------------|--------|---------|---------|----------------|
/// | nano   | 64            | 6      | 8 + 1   | 1.1 M   | 0.5 M          |
/// | small  | 128           | 8      | 16 + 1  | 7 M     | 2 M            |
/// | base   | 192           | 10     | 24 + 1  | 23 M    | 6 M            |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preset {
    /// Minutes on two cores.
    Nano,
    /// An hour.
    Small,
    /// Hours.
    Base,
}

/// What a model must know of its tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Tokens.
    pub size: usize,
    /// Begins a document.
    pub bos: TokenId,
    /// Ends one.
    pub eos: TokenId,
}

impl Preset {
    /// All, smallest first.
    pub const ALL: [Self; 3] = [Self::Nano, Self::Small, Self::Base];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nano => "nano",
            Self::Small => "small",
            Self::Base => "base",
        }
    }

    /// The preset of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// The shape, with one MTP block, for a vocabulary.
    ///
    /// No YaRN: positions beyond the trained ones are the business of later stages.
    ///
    /// # Errors
    /// If the vocabulary is impossible: no token, too many, or `bos` or `eos` outside it.
    pub fn config(self, vocabulary: Vocabulary) -> Result<ModelConfig, WeightsError> {
        let config = ModelConfig {
            vocab_size: vocabulary.size,
            bos_token_id: vocabulary.bos,
            eos_token_id: vocabulary.eos,
            rope_scaling: None,
            ..self.shape()
        };
        config.check()?;
        Ok(config)
    }

    fn shape(self) -> ModelConfig {
        // Ratio 128 is the only one for HCA that the format knows: within 128 tokens such a layer sees its window only.
        let layers = |n: usize| [0, 0].into_iter().chain([4, 128].into_iter().cycle()).take(n).collect();
        match self {
            Self::Nano => ModelConfig {
                hidden_size: 64,
                num_hidden_layers: 6,
                compress_ratios: layers(6),
                num_attention_heads: 4,
                head_dim: 32,
                qk_rope_head_dim: 8,
                q_lora_rank: 32,
                o_groups: 2,
                o_lora_rank: 32,
                index_n_heads: 2,
                index_head_dim: 32,
                index_topk: 16,
                sliding_window: 32,
                n_routed_experts: 8,
                num_experts_per_tok: 2,
                moe_intermediate_size: 64,
                num_hash_layers: 1,
                ..ModelConfig::flash()
            },
            Self::Small => ModelConfig {
                hidden_size: 128,
                num_hidden_layers: 8,
                compress_ratios: layers(8),
                head_dim: 64,
                qk_rope_head_dim: 16,
                q_lora_rank: 64,
                o_lora_rank: 64,
                index_topk: 32,
                sliding_window: 64,
                n_routed_experts: 16,
                moe_intermediate_size: 96,
                num_hash_layers: 2,
                ..Self::Nano.shape()
            },
            Self::Base => ModelConfig {
                hidden_size: 192,
                num_hidden_layers: 10,
                compress_ratios: layers(10),
                num_attention_heads: 6,
                q_lora_rank: 96,
                o_lora_rank: 96,
                index_n_heads: 4,
                n_routed_experts: 24,
                num_experts_per_tok: 3,
                moe_intermediate_size: 128,
                ..Self::Small.shape()
            },
        }
    }
}
