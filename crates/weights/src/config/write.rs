//! `config.json` in the official form.

use serde_json::{Map, Value, json};

use super::{ExpertDtype, ModelConfig};

pub(super) fn to_json(c: &ModelConfig) -> String {
    let mut out = Object(Map::new());
    out.put("architectures", json!(["DeepseekV4ForCausalLM"]));
    out.put("model_type", json!("deepseek_v4"));
    counts(c, &mut out);
    numbers(c, &mut out);
    formats(c, &mut out);
    constants(&mut out);
    out.put("tie_word_embeddings", json!(c.tie_word_embeddings));
    out.put("bos_token_id", json!(c.bos_token_id.0));
    out.put("eos_token_id", json!(c.eos_token_id.0));
    dspark(c, &mut out);
    let mut text = format!("{:#}", Value::Object(out.0));
    text.push('\n');
    text
}

struct Object(Map<String, Value>);

impl Object {
    fn put(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }
}

fn counts(c: &ModelConfig, out: &mut Object) {
    for (key, value) in [
        ("vocab_size", c.vocab_size),
        ("hidden_size", c.hidden_size),
        ("num_hidden_layers", c.num_hidden_layers),
        ("num_attention_heads", c.num_attention_heads),
        ("num_key_value_heads", 1),
        ("head_dim", c.head_dim),
        ("qk_rope_head_dim", c.qk_rope_head_dim),
        ("q_lora_rank", c.q_lora_rank),
        ("o_groups", c.o_groups),
        ("o_lora_rank", c.o_lora_rank),
        ("sliding_window", c.sliding_window),
        ("max_position_embeddings", c.max_position_embeddings),
        ("index_n_heads", c.index_n_heads),
        ("index_head_dim", c.index_head_dim),
        ("index_topk", c.index_topk),
        ("n_routed_experts", c.n_routed_experts),
        ("n_shared_experts", c.n_shared_experts),
        ("num_experts_per_tok", c.num_experts_per_tok),
        ("moe_intermediate_size", c.moe_intermediate_size),
        ("num_hash_layers", c.num_hash_layers),
        ("hc_mult", c.hc_mult),
        ("hc_sinkhorn_iters", c.hc_sinkhorn_iters),
        ("num_nextn_predict_layers", c.num_nextn_predict_layers),
    ] {
        out.put(key, json!(value));
    }
    out.put("compress_ratios", ratios(c));
}

fn numbers(c: &ModelConfig, out: &mut Object) {
    out.put("rope_theta", number(c.rope_theta));
    out.put("compress_rope_theta", number(c.compress_rope_theta));
    if let Some(yarn) = c.rope_scaling {
        let yarn = json!({
            "type": "yarn",
            "factor": number(yarn.factor),
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
            "beta_fast": number(yarn.beta_fast),
            "beta_slow": number(yarn.beta_slow),
        });
        out.put("rope_scaling", yarn);
    }
    out.put("routed_scaling_factor", single(c.routed_scaling_factor));
    out.put("swiglu_limit", single(c.swiglu_limit));
    out.put("hc_eps", single(c.hc_eps));
    out.put("rms_norm_eps", single(c.rms_norm_eps));
}

fn formats(c: &ModelConfig, out: &mut Object) {
    if let Some(dtype) = c.expert_dtype {
        out.put("expert_dtype", json!(expert_dtype_name(dtype)));
    }
    if let Some(quantised) = c.quantization_config {
        let quantised = json!({
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": quantised.weight_block_size,
            "scale_fmt": "ue8m0",
        });
        out.put("quantization_config", quantised);
    }
    out.put("torch_dtype", json!("bfloat16"));
}

/// What is the same in every release, for readers that ask.
fn constants(out: &mut Object) {
    out.put("scoring_func", json!("sqrtsoftplus"));
    out.put("topk_method", json!("noaux_tc"));
    out.put("norm_topk_prob", json!(true));
    out.put("hidden_act", json!("silu"));
    out.put("attention_bias", json!(false));
    out.put("attention_dropout", json!(0.0));
    out.put("initializer_range", json!(0.02));
    out.put("use_cache", json!(true));
}

fn dspark(c: &ModelConfig, out: &mut Object) {
    let Some(dspark) = &c.dspark else { return };
    out.put("dspark_block_size", json!(dspark.dspark_block_size));
    out.put("dspark_markov_rank", json!(dspark.dspark_markov_rank));
    let targets: Vec<u16> = dspark.dspark_target_layer_ids.iter().map(|layer| layer.0).collect();
    out.put("dspark_target_layer_ids", json!(targets));
    if let Some(token) = dspark.dspark_noise_token_id {
        out.put("dspark_noise_token_id", json!(token.0));
    }
}

/// One entry per layer, and a 0 for every MTP block.
fn ratios(c: &ModelConfig) -> Value {
    let mut ratios = c.compress_ratios.clone();
    ratios.resize(ratios.len() + c.num_nextn_predict_layers, 0);
    json!(ratios)
}

/// Whole numbers without a fraction, as the official files write them.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The shortest decimal that reads back as this single: `1e-6`, not `9.999999974752427e-7`.
fn single(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}

fn expert_dtype_name(dtype: ExpertDtype) -> &'static str {
    match dtype {
        ExpertDtype::Fp4 => "fp4",
        ExpertDtype::Fp8 => "fp8",
        ExpertDtype::Bf16 => "bf16",
        ExpertDtype::F32 => "f32",
    }
}
