//! `config.json` as written: the official keys, those of `transformers`, or both where they agree.

use std::collections::BTreeMap;

use cuvier_types::{LayerId, TokenId};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{
    DsparkConfig, ExpertDtype, LayerKind, ModelConfig, QuantizationConfig, RopeScaling, ScoringFunc,
};
use crate::WeightsError;

/// Larger than any config; a file beyond it is not one.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Every key is optional here; which ones are needed depends on the form. Keys not listed are nobody's business.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawConfig {
    model_type: Option<String>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    qk_rope_head_dim: Option<usize>,
    partial_rotary_factor: Option<f64>,
    q_lora_rank: Option<usize>,
    o_groups: Option<usize>,
    o_lora_rank: Option<usize>,
    sliding_window: Option<usize>,
    compress_ratios: Option<Vec<usize>>,
    layer_types: Option<Vec<String>>,
    compress_rates: Option<BTreeMap<String, usize>>,
    compress_rope_theta: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRopeParameters>,
    max_position_embeddings: Option<usize>,
    index_n_heads: Option<usize>,
    index_head_dim: Option<usize>,
    index_topk: Option<usize>,
    n_routed_experts: Option<usize>,
    n_shared_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    moe_intermediate_size: Option<usize>,
    num_hash_layers: Option<usize>,
    mlp_layer_types: Option<Vec<String>>,
    scoring_func: Option<String>,
    routed_scaling_factor: Option<f32>,
    swiglu_limit: Option<f32>,
    hc_mult: Option<usize>,
    hc_sinkhorn_iters: Option<usize>,
    hc_eps: Option<f32>,
    rms_norm_eps: Option<f32>,
    num_nextn_predict_layers: Option<usize>,
    expert_dtype: Option<String>,
    quantization_config: Option<RawQuantization>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<Value>,
    dspark_block_size: Option<usize>,
    dspark_noise_token_id: Option<u32>,
    dspark_target_layer_ids: Option<Vec<u16>>,
    dspark_markov_rank: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawRope {
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    attention_factor: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawRopeParameters {
    main: Option<RawRope>,
    compress: Option<RawRope>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawQuantization {
    weight_block_size: Option<Vec<usize>>,
    expert_dtype: Option<String>,
}

impl RawConfig {
    pub(super) fn parse(json: &str, source: &str) -> Result<Self, WeightsError> {
        let as_json = |e| WeightsError::Json { file: source.to_owned(), source: e };
        // Another architecture is named as such before any of its fields is complained about.
        let keys: BTreeMap<String, IgnoredAny> = serde_json::from_str(json).map_err(as_json)?;
        refuse_v41(&keys, source)?;
        let raw: Self = serde_json::from_str(json).map_err(as_json)?;
        match raw.model_type.as_deref() {
            None | Some("deepseek_v4") => Ok(raw),
            Some(other) => Err(WeightsError::Architecture {
                file: source.to_owned(),
                found: format!("`model_type` is {other:?}"),
            }),
        }
    }

    pub(super) fn into_config(self, source: &str) -> Result<ModelConfig, WeightsError> {
        let at = Fields { source };
        self.refuse_unsupported(&at)?;
        let num_hidden_layers = at.need(self.num_hidden_layers, "num_hidden_layers")?;
        let head_dim = at.need(self.head_dim, "head_dim")?;
        let compress_ratios = self.ratios(&at, num_hidden_layers)?;
        let num_hash_layers = self.hash_layers(&at, num_hidden_layers)?;
        let qk_rope_head_dim = self.rope_dim(&at, head_dim)?;
        let dspark = self.dspark(&at)?;
        let rope = self.rope_parameters.unwrap_or_default();
        let (main, compress) = (rope.main.unwrap_or_default(), rope.compress.unwrap_or_default());
        let rope_theta = at.agree("rope_theta", self.rope_theta, main.rope_theta)?;
        let compress_rope_theta =
            at.agree("compress_rope_theta", self.compress_rope_theta, compress.rope_theta)?;
        let scaling = self.rope_scaling.map_or(Ok(None), |raw| raw.scaling(&at, "rope_scaling"))?;
        let rope_scaling = match (scaling, compress.scaling(&at, "rope_parameters")?) {
            (Some(a), Some(b)) if a != b => {
                return Err(at.wrong("rope_scaling", "differs from `rope_parameters`"));
            }
            (a, b) => a.or(b),
        };
        let quantised = self.quantization_config.as_ref();
        let expert_dtype = expert_dtype(
            &at,
            self.expert_dtype.as_ref().or(quantised.and_then(|q| q.expert_dtype.as_ref())),
        )?;
        Ok(ModelConfig {
            vocab_size: at.need(self.vocab_size, "vocab_size")?,
            hidden_size: at.need(self.hidden_size, "hidden_size")?,
            num_hidden_layers,
            num_attention_heads: at.need(self.num_attention_heads, "num_attention_heads")?,
            head_dim,
            qk_rope_head_dim,
            q_lora_rank: at.need(self.q_lora_rank, "q_lora_rank")?,
            o_groups: at.need(self.o_groups, "o_groups")?,
            o_lora_rank: at.need(self.o_lora_rank, "o_lora_rank")?,
            sliding_window: at.need(self.sliding_window, "sliding_window")?,
            compress_ratios,
            compress_rope_theta,
            rope_theta,
            rope_scaling,
            max_position_embeddings: at.need(self.max_position_embeddings, "max_position_embeddings")?,
            index_n_heads: at.need(self.index_n_heads, "index_n_heads")?,
            index_head_dim: at.need(self.index_head_dim, "index_head_dim")?,
            index_topk: at.need(self.index_topk, "index_topk")?,
            n_routed_experts: at.need(self.n_routed_experts, "n_routed_experts")?,
            n_shared_experts: self.n_shared_experts.unwrap_or(1),
            num_experts_per_tok: at.need(self.num_experts_per_tok, "num_experts_per_tok")?,
            moe_intermediate_size: at.need(self.moe_intermediate_size, "moe_intermediate_size")?,
            num_hash_layers,
            scoring_func: ScoringFunc::SqrtSoftplus,
            routed_scaling_factor: at.need(self.routed_scaling_factor, "routed_scaling_factor")?,
            swiglu_limit: at.need(self.swiglu_limit, "swiglu_limit")?,
            hc_mult: at.need(self.hc_mult, "hc_mult")?,
            hc_sinkhorn_iters: at.need(self.hc_sinkhorn_iters, "hc_sinkhorn_iters")?,
            hc_eps: self.hc_eps.unwrap_or(1e-6),
            rms_norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            num_nextn_predict_layers: self.num_nextn_predict_layers.unwrap_or(0),
            expert_dtype,
            quantization_config: quantization(&at, quantised)?,
            tie_word_embeddings: false,
            bos_token_id: TokenId(self.bos_token_id.unwrap_or(0)),
            eos_token_id: eos(&at, self.eos_token_id.as_ref())?,
            dspark,
        })
    }

    /// Settings that the model has no other value for. They are refused rather than ignored: running such a
    /// checkpoint would give plausible nonsense.
    fn refuse_unsupported(&self, at: &Fields<'_>) -> Result<(), WeightsError> {
        if !matches!(self.num_key_value_heads, None | Some(1)) {
            return Err(
                at.wrong("num_key_value_heads", "must be 1: all query heads share one key-value vector")
            );
        }
        if !matches!(self.scoring_func.as_deref(), None | Some("sqrtsoftplus")) {
            return Err(at.wrong("scoring_func", "must be \"sqrtsoftplus\""));
        }
        if !matches!(self.hidden_act.as_deref(), None | Some("silu")) {
            return Err(at.wrong("hidden_act", "must be \"silu\""));
        }
        for (field, value) in [
            ("attention_bias", self.attention_bias),
            ("mlp_bias", self.mlp_bias),
            ("tie_word_embeddings", self.tie_word_embeddings),
        ] {
            if value == Some(true) {
                return Err(at.wrong(field, "must be false"));
            }
        }
        Ok(())
    }

    /// One ratio per backbone layer. The official list goes on with a 0 for every MTP or drafter block.
    fn ratios(&self, at: &Fields<'_>, layers: usize) -> Result<Vec<usize>, WeightsError> {
        let official = self.compress_ratios.as_deref().map(|r| self.official_ratios(at, r, layers));
        let normalised = self.layer_types.as_deref().map(|t| self.ratios_of_types(at, t, layers));
        match (official.transpose()?, normalised.transpose()?) {
            (Some(a), Some(b)) if a != b => Err(at.wrong("compress_ratios", "differs from `layer_types`")),
            (Some(ratios), _) | (None, Some(ratios)) => Ok(ratios),
            (None, None) => Err(at.wrong("compress_ratios", "is missing")),
        }
    }

    fn official_ratios(
        &self,
        at: &Fields<'_>,
        ratios: &[usize],
        layers: usize,
    ) -> Result<Vec<usize>, WeightsError> {
        let field = "compress_ratios";
        if ratios.len() < layers {
            let n = ratios.len();
            return Err(at.wrong(field, format!("has {n} entries for {layers} layers")));
        }
        let (backbone, trailing) = ratios.split_at(layers);
        for (layer, &ratio) in backbone.iter().enumerate() {
            if ![0, 4, 128].contains(&ratio) {
                return Err(at.wrong(field, format!("is {ratio} at layer {layer}; it can be 0, 4 or 128")));
            }
        }
        // The number of drafter stages is told by tensors only, and a list may speak of one that was left out, so
        // any few zeros will do.
        if trailing.len() > 16 {
            let n = ratios.len();
            return Err(
                at.wrong(field, format!("has {n} entries for {layers} layers and at most 16 drafter blocks"))
            );
        }
        if trailing.iter().any(|&ratio| ratio != 0) {
            return Err(at.wrong(field, "must be 0 beyond the last layer of the backbone"));
        }
        Ok(backbone.to_vec())
    }

    fn ratios_of_types(
        &self,
        at: &Fields<'_>,
        types: &[String],
        layers: usize,
    ) -> Result<Vec<usize>, WeightsError> {
        if types.len() != layers {
            return Err(at.wrong("layer_types", format!("has {} entries for {layers} layers", types.len())));
        }
        let rates = self.compress_rates.as_ref();
        for (kind, want) in [(LayerKind::Csa, CSA), (LayerKind::Hca, HCA)] {
            if rates.and_then(|rates| rates.get(want)).is_some_and(|&rate| rate != kind.ratio()) {
                return Err(at.wrong("compress_rates", format!("must be {} for {want}", kind.ratio())));
            }
        }
        let kind = |(layer, name): (usize, &String)| match name.as_str() {
            "sliding_attention" => Ok(0),
            CSA => Ok(4),
            HCA => Ok(128),
            other => Err(at.wrong("layer_types", format!("is {other:?} at layer {layer}"))),
        };
        types.iter().enumerate().map(kind).collect()
    }

    fn hash_layers(&self, at: &Fields<'_>, layers: usize) -> Result<usize, WeightsError> {
        let Some(types) = &self.mlp_layer_types else {
            return Ok(at.need(self.num_hash_layers, "num_hash_layers")?.min(layers));
        };
        if types.len() != layers {
            return Err(
                at.wrong("mlp_layer_types", format!("has {} entries for {layers} layers", types.len()))
            );
        }
        let hash = types.iter().take_while(|kind| *kind == "hash_moe").count();
        if let Some(other) = types[hash..].iter().find(|kind| *kind != "moe") {
            return Err(at.wrong("mlp_layer_types", format!("has {other:?} after layer {hash}")));
        }
        match self.num_hash_layers {
            Some(n) if n.min(layers) != hash => {
                Err(at.wrong("num_hash_layers", "differs from `mlp_layer_types`"))
            }
            _ => Ok(hash),
        }
    }

    fn rope_dim(&self, at: &Fields<'_>, head_dim: usize) -> Result<usize, WeightsError> {
        let nested = self.rope_parameters.as_ref().and_then(|rope| rope.main.as_ref());
        let factor = self.partial_rotary_factor.or(nested.and_then(|main| main.partial_rotary_factor));
        let from_factor = match factor {
            None => None,
            Some(factor) => {
                let dim = factor * head_dim as f64;
                // The factor is a quotient of small integers written with all its digits.
                if !((1.0..=head_dim as f64).contains(&dim) && (dim - dim.round()).abs() < 1e-6) {
                    return Err(at.wrong(
                        "partial_rotary_factor",
                        format!("is {factor}, no whole number of {head_dim} dims"),
                    ));
                }
                Some(dim.round() as usize)
            }
        };
        at.agree("qk_rope_head_dim", self.qk_rope_head_dim, from_factor)
    }

    fn dspark(&self, at: &Fields<'_>) -> Result<Option<DsparkConfig>, WeightsError> {
        let Some(dspark_block_size) = self.dspark_block_size else {
            return Ok(None);
        };
        Ok(Some(DsparkConfig {
            dspark_block_size,
            dspark_noise_token_id: self.dspark_noise_token_id.map(TokenId),
            dspark_target_layer_ids: at
                .need(self.dspark_target_layer_ids.as_ref(), "dspark_target_layer_ids")?
                .iter()
                .map(|&layer| LayerId(layer))
                .collect(),
            dspark_markov_rank: at.need(self.dspark_markov_rank, "dspark_markov_rank")?,
        }))
    }
}

const CSA: &str = "compressed_sparse_attention";
const HCA: &str = "heavily_compressed_attention";

impl RawRope {
    fn scaling(&self, at: &Fields<'_>, field: &str) -> Result<Option<RopeScaling>, WeightsError> {
        match self.rope_type.as_deref().or(self.kind.as_deref()) {
            None | Some("default") => return Ok(None),
            Some("yarn") => {}
            Some(other) => return Err(at.wrong(field, format!("has type {other:?}; it can be \"yarn\""))),
        }
        if self.attention_factor.is_some_and(|factor| factor != 1.0) {
            return Err(at.wrong(field, "has an `attention_factor`, which this model does not apply"));
        }
        let part = |name: &str| format!("{field}.{name}");
        Ok(Some(RopeScaling {
            factor: at.need(self.factor, &part("factor"))?,
            original_max_position_embeddings: at
                .need(self.original_max_position_embeddings, &part("original_max_position_embeddings"))?,
            beta_fast: self.beta_fast.unwrap_or(32.0),
            beta_slow: self.beta_slow.unwrap_or(1.0),
        }))
    }
}

/// Errors that name a field of one file.
pub(super) struct Fields<'a> {
    pub(super) source: &'a str,
}

impl Fields<'_> {
    pub(super) fn wrong(&self, field: &str, problem: impl Into<String>) -> WeightsError {
        WeightsError::Config {
            file: self.source.to_owned(),
            field: field.to_owned(),
            problem: problem.into(),
        }
    }

    fn need<T>(&self, value: Option<T>, field: &str) -> Result<T, WeightsError> {
        value.ok_or_else(|| self.wrong(field, "is missing"))
    }

    /// A value that both forms may give.
    fn agree<T: PartialEq>(&self, field: &str, a: Option<T>, b: Option<T>) -> Result<T, WeightsError> {
        match (a, b) {
            (Some(a), Some(b)) if a != b => Err(self.wrong(field, "is given twice, with different values")),
            (Some(value), _) | (None, Some(value)) => Ok(value),
            (None, None) => Err(self.wrong(field, "is missing")),
        }
    }
}

fn refuse_v41(keys: &BTreeMap<String, IgnoredAny>, source: &str) -> Result<(), WeightsError> {
    let v41 = |key: &str| {
        key.starts_with("engram") || ["kv_source_layer_ids", "index_source_layer_ids"].contains(&key)
    };
    match keys.keys().find(|key| v41(key)) {
        None => Ok(()),
        Some(key) => Err(WeightsError::Architecture {
            file: source.to_owned(),
            found: format!("`{key}` belongs to DeepSeek-V4.1"),
        }),
    }
}

fn expert_dtype(at: &Fields<'_>, name: Option<&String>) -> Result<Option<ExpertDtype>, WeightsError> {
    Ok(Some(match name.map(String::as_str) {
        None => return Ok(None),
        Some("fp4") => ExpertDtype::Fp4,
        Some("fp8") => ExpertDtype::Fp8,
        Some("bf16" | "bfloat16") => ExpertDtype::Bf16,
        Some("f32" | "fp32" | "float32") => ExpertDtype::F32,
        Some(other) => return Err(at.wrong("expert_dtype", format!("is {other:?}, which is not known"))),
    }))
}

fn quantization(
    at: &Fields<'_>,
    raw: Option<&RawQuantization>,
) -> Result<Option<QuantizationConfig>, WeightsError> {
    match raw.map(|raw| raw.weight_block_size.as_deref()) {
        None => Ok(None),
        Some(None | Some([128, 128])) => Ok(Some(QuantizationConfig { weight_block_size: [128, 128] })),
        Some(Some(other)) => {
            Err(at
                .wrong("quantization_config.weight_block_size", format!("is {other:?}, expected [128, 128]")))
        }
    }
}

/// A number, or a list with one number.
fn eos(at: &Fields<'_>, raw: Option<&Value>) -> Result<TokenId, WeightsError> {
    let one = match raw {
        None => return Ok(TokenId(1)),
        Some(Value::Array(ids)) if ids.len() == 1 => &ids[0],
        Some(other) => other,
    };
    let id = one.as_u64().and_then(|id| u32::try_from(id).ok());
    id.map(TokenId).ok_or_else(|| at.wrong("eos_token_id", "must be one token id"))
}
