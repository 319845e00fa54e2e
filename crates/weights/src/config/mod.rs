//! The facts of a checkpoint: `config.json`, checked.

mod builtin;
mod check;
mod raw;
mod write;

#[cfg(test)]
mod tests;

use cuvier_types::{LayerId, TokenId};

use crate::WeightsError;

pub(crate) use raw::CONFIG_BYTES_MAX;

/// A DeepSeek-V4 shape. Fields keep the keys of the official `config.json`.
///
/// One that exists is consistent: its bounds are such that no product of its fields overflows, and its parts
/// divide as the model needs.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Rows of the embedding and of the LM head.
    pub vocab_size: usize,
    /// Width of one residual stream.
    pub hidden_size: usize,
    /// Layers of the backbone; the MTP block is not one of them.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Width of a head, and of the one vector per token that is key and value at once.
    pub head_dim: usize,
    /// The last dims of a head rotate.
    pub qk_rope_head_dim: usize,
    /// Width of the query bottleneck.
    pub q_lora_rank: usize,
    /// Groups of heads in the output projection.
    pub o_groups: usize,
    /// Rank per group.
    pub o_lora_rank: usize,
    /// Raw tokens that every layer sees, the current one included.
    pub sliding_window: usize,
    /// Tokens per compressed entry, one number per backbone layer: 0, 4 or 128.
    pub compress_ratios: Vec<usize>,
    /// RoPE base of layers with a compressed history.
    pub compress_rope_theta: f64,
    /// RoPE base of layers without.
    pub rope_theta: f64,
    /// YaRN, on layers with a compressed history only. `None`: no scaling.
    pub rope_scaling: Option<RopeScaling>,
    /// The longest context the checkpoint was made for.
    pub max_position_embeddings: usize,
    /// Heads of the indexer.
    pub index_n_heads: usize,
    /// Width of an index key; a power of two, because it is rotated by a Hadamard matrix.
    pub index_head_dim: usize,
    /// Compressed entries that a query keeps in layers of ratio 4.
    pub index_topk: usize,
    /// Routed experts per layer.
    pub n_routed_experts: usize,
    /// Always 1.
    pub n_shared_experts: usize,
    /// Routed experts per token.
    pub num_experts_per_tok: usize,
    /// Width of an expert, routed or shared.
    pub moe_intermediate_size: usize,
    /// This many first layers choose experts by token id. Never more than there are layers.
    pub num_hash_layers: usize,
    /// How router logits become scores.
    pub scoring_func: ScoringFunc,
    /// Multiplies the normalised routing weights.
    pub routed_scaling_factor: f32,
    /// Bound of the expert activations before the product.
    pub swiglu_limit: f32,
    /// Residual streams.
    pub hc_mult: usize,
    /// Row and column normalisations of the mixing matrix.
    pub hc_sinkhorn_iters: usize,
    /// Added inside the hyper-connections.
    pub hc_eps: f32,
    /// Added to the mean square of every RMS norm.
    pub rms_norm_eps: f32,
    /// MTP blocks that the checkpoint was trained with; what it holds is told by its tensors.
    pub num_nextn_predict_layers: usize,
    /// How routed experts are stored, where the file says so. Loading goes by each tensor's own dtype.
    pub expert_dtype: Option<ExpertDtype>,
    /// Present in quantised checkpoints.
    pub quantization_config: Option<QuantizationConfig>,
    /// Always false: the LM head is a tensor of its own.
    pub tie_word_embeddings: bool,
    /// First token of a conversation.
    pub bos_token_id: TokenId,
    /// Token that ends an answer.
    pub eos_token_id: TokenId,
    /// Later releases carry a block drafter; recognised, not run.
    pub dspark: Option<DsparkConfig>,
}

/// YaRN: how a RoPE base trained on short contexts is stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeScaling {
    /// Slow frequencies are divided by this.
    pub factor: f64,
    /// Context before stretching.
    pub original_max_position_embeddings: usize,
    /// Turns within the original context above which a frequency is kept.
    pub beta_fast: f64,
    /// Turns below which it is fully divided.
    pub beta_slow: f64,
}

/// The `quantization_config` of quantised checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// Rows and columns that share one FP8 scale; always 128 by 128.
    pub weight_block_size: [usize; 2],
}

/// The `dspark_*` fields of releases with a block drafter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DsparkConfig {
    /// Tokens drafted at once.
    pub dspark_block_size: usize,
    /// The token that stands for "not drafted yet".
    pub dspark_noise_token_id: Option<TokenId>,
    /// Layers whose residual streams the drafter reads.
    pub dspark_target_layer_ids: Vec<LayerId>,
    /// Rank of the token-to-token correction.
    pub dspark_markov_rank: usize,
}

/// How router logits become scores. Released checkpoints have one way; others are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoringFunc {
    /// `sqrt(softplus(logit))`.
    SqrtSoftplus,
}

/// The stored form of routed experts, as `config.json` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertDtype {
    /// Packed E2M1 with one E8M0 scale per 32 columns.
    Fp4,
    /// E4M3 with one scale per 128x128 block.
    Fp8,
    /// BF16.
    Bf16,
    /// F32.
    F32,
}

/// What a layer attends to besides its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// Nothing: ratio 0.
    Sliding,
    /// The best `index_topk` entries of a 4:1 compressed history: ratio 4.
    Csa,
    /// Every entry of a 128:1 compressed history: ratio 128.
    Hca,
}

impl ModelConfig {
    /// Reads a `config.json`, in the official form or as `transformers` normalises it. `source` is what
    /// errors call the file.
    ///
    /// # Errors
    /// If the JSON is not a DeepSeek-V4 config, or its fields contradict each other; the error names the field.
    pub fn parse(json: &str, source: &str) -> Result<Self, WeightsError> {
        let raw = raw::RawConfig::parse(json, source)?;
        let config = raw.into_config(source)?;
        check::check(&config, source)?;
        Ok(config)
    }

    /// DeepSeek-V4-Flash as first released.
    pub fn flash() -> Self {
        builtin::flash()
    }

    /// DeepSeek-V4-Pro as first released.
    pub fn pro() -> Self {
        builtin::pro()
    }

    /// Checks a config that was put together by hand, as [`parse`](Self::parse) does.
    ///
    /// # Errors
    /// If its fields contradict each other.
    pub fn check(&self) -> Result<(), WeightsError> {
        check::check(self, "config")
    }

    /// The official `config.json` of this shape. Parsing it gives the same config back.
    pub fn to_json(&self) -> String {
        write::to_json(self)
    }

    /// What `layer` attends to. The MTP block, which follows the backbone, is [`LayerKind::Sliding`].
    pub fn layer_kind(&self, layer: LayerId) -> LayerKind {
        match self.compress_ratios.get(usize::from(layer.0)) {
            Some(4) => LayerKind::Csa,
            Some(128) => LayerKind::Hca,
            _ => LayerKind::Sliding,
        }
    }

    /// Whether `layer` chooses experts by token id.
    pub fn is_hash(&self, layer: LayerId) -> bool {
        usize::from(layer.0) < self.num_hash_layers
    }

    /// The layers of the backbone, in order.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = LayerId> + use<> {
        // Checked configs have few layers; the cast is exact.
        (0..self.num_hidden_layers as u16).map(LayerId)
    }

    /// The id of the MTP block: one past the last layer of the backbone.
    pub fn mtp_layer(&self) -> LayerId {
        LayerId(self.num_hidden_layers as u16)
    }

    /// How many layers of the backbone are of `kind`.
    pub fn n_layers_of(&self, kind: LayerKind) -> usize {
        self.layers().filter(|&layer| self.layer_kind(layer) == kind).count()
    }
}

impl LayerKind {
    /// Tokens per compressed entry; 0 where there is none.
    pub fn ratio(self) -> usize {
        match self {
            Self::Sliding => 0,
            Self::Csa => 4,
            Self::Hca => 128,
        }
    }
}
