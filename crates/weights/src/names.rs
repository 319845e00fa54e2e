//! One name per tensor: the official one, whatever the file calls it.
//!
//! Three spellings are in use: the official names, the same under `model.` with a few of its own as
//! `transformers` saves them, and the names `transformers` has in memory.

/// What a stored name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Official {
    /// One tensor.
    One(String),
    /// All experts' `w1` above `w3`, `[experts, 2 * inner, hidden]`; the prefix ends in `ffn.experts`.
    StackedW1W3(String),
    /// All experts' `w2`, `[experts, hidden, inner]`.
    StackedW2(String),
}

/// Whole names outside the layers, without suffix.
const TOP: [(&str, &str); 5] = [
    ("embed_tokens", "embed"),
    ("lm_head", "head"),
    ("hc_head.hc_fn", "hc_head_fn"),
    ("hc_head.hc_base", "hc_head_base"),
    ("hc_head.hc_scale", "hc_head_scale"),
];

/// Names within a layer, without suffix.
const LAYER: [(&str, &str); 36] = [
    // As `save_pretrained` writes it.
    ("attn.norm", "attn.kv_norm"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("attn_hc.fn", "hc_attn_fn"),
    ("attn_hc.base", "hc_attn_base"),
    ("attn_hc.scale", "hc_attn_scale"),
    ("ffn_hc.fn", "hc_ffn_fn"),
    ("ffn_hc.base", "hc_ffn_base"),
    ("ffn_hc.scale", "hc_ffn_scale"),
    ("self_attn.q_a_proj", "attn.wq_a"),
    ("self_attn.q_a_norm", "attn.q_norm"),
    ("self_attn.q_b_proj", "attn.wq_b"),
    ("self_attn.kv_proj", "attn.wkv"),
    ("self_attn.kv_norm", "attn.kv_norm"),
    ("self_attn.o_a_proj", "attn.wo_a"),
    ("self_attn.o_b_proj", "attn.wo_b"),
    ("self_attn.sinks", "attn.attn_sink"),
    ("self_attn.compressor.kv_proj", "attn.compressor.wkv"),
    ("self_attn.compressor.gate_proj", "attn.compressor.wgate"),
    ("self_attn.compressor.position_bias", "attn.compressor.ape"),
    ("self_attn.compressor.kv_norm", "attn.compressor.norm"),
    ("self_attn.compressor.indexer.q_b_proj", "attn.indexer.wq_b"),
    ("self_attn.compressor.indexer.scorer.weights_proj", "attn.indexer.weights_proj"),
    ("self_attn.compressor.indexer.kv_proj", "attn.indexer.compressor.wkv"),
    ("self_attn.compressor.indexer.gate_proj", "attn.indexer.compressor.wgate"),
    ("self_attn.compressor.indexer.position_bias", "attn.indexer.compressor.ape"),
    ("self_attn.compressor.indexer.kv_norm", "attn.indexer.compressor.norm"),
    ("mlp.gate", "ffn.gate"),
    ("mlp.gate.e_score_correction_bias", "ffn.gate.bias"),
    ("mlp.gate.tid2eid", "ffn.gate.tid2eid"),
    ("mlp.shared_experts.gate_proj", "ffn.shared_experts.w1"),
    ("mlp.shared_experts.up_proj", "ffn.shared_experts.w3"),
    ("mlp.shared_experts.down_proj", "ffn.shared_experts.w2"),
    ("self_attn.norm", "attn.kv_norm"),
    ("attn.compressor.kv_norm", "attn.compressor.norm"),
    ("attn.indexer.compressor.kv_norm", "attn.indexer.compressor.norm"),
];

/// The official name of a stored one; names that are not known stay as they are.
pub(crate) fn official(stored: &str) -> Official {
    let name = stored.strip_prefix("model.").unwrap_or(stored);
    let (stem, suffix) = split_suffix(name);
    let suffix = if suffix == ".weight_scale_inv" { ".scale" } else { suffix };
    let Some((prefix, rest)) = split_layer(stem) else {
        return Official::One(format!("{}{suffix}", look_up(&TOP, stem)));
    };
    match rest {
        "mlp.experts.gate_up_proj" | "ffn.experts.gate_up_proj" => {
            Official::StackedW1W3(format!("{prefix}.ffn.experts"))
        }
        "mlp.experts.down_proj" | "ffn.experts.down_proj" => {
            Official::StackedW2(format!("{prefix}.ffn.experts"))
        }
        _ => Official::One(format!("{prefix}.{}{suffix}", look_up(&LAYER, rest))),
    }
}

/// The name that `save_pretrained` of transformers gives an official tensor.
pub(crate) fn as_saved(official: &str) -> String {
    let name = match official {
        "head.weight" => return official.to_owned(),
        "embed.weight" => "embed_tokens.weight".to_owned(),
        "hc_head_fn" | "hc_head_base" | "hc_head_scale" => official.replacen("hc_head_", "hc_head.hc_", 1),
        _ => official.replacen(".attn.kv_norm.", ".attn.norm.", 1),
    };
    format!("model.{name}")
}

fn split_suffix(name: &str) -> (&str, &str) {
    let suffixes = [".weight_scale_inv", ".weight", ".scale"];
    // `attn_hc.scale` and `hc_head.hc_scale` are tensors, not the scales of one.
    let found = suffixes.into_iter().find(|suffix| name.ends_with(suffix) && !name.ends_with("_hc.scale"));
    name.split_at(name.len() - found.map_or(0, str::len))
}

/// `layers.3.attn.wq_a` is `layers.3` and `attn.wq_a`.
fn split_layer(stem: &str) -> Option<(&str, &str)> {
    let number = stem.strip_prefix("layers.").or_else(|| stem.strip_prefix("mtp."))?;
    let dot = number.find('.')?;
    number[..dot].bytes().all(|byte| byte.is_ascii_digit()).then(|| {
        let (prefix, rest) = stem.split_at(stem.len() - number.len() + dot);
        (prefix, &rest[1..])
    })
}

fn look_up<'a>(table: &[(&'static str, &'static str)], stem: &'a str) -> &'a str {
    table.iter().find(|(from, _)| *from == stem).map_or(stem, |(_, to)| to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelConfig, inventory};

    fn one(stored: &str) -> String {
        match official(stored) {
            Official::One(name) => name,
            stacked => panic!("{stacked:?}"),
        }
    }

    #[test]
    fn official_names_stay_as_they_are_with_and_without_the_prefix() {
        for spec in inventory(&ModelConfig::flash(), true).iter() {
            let names = [Some(spec.name.clone()), spec.stored(crate::Precision::Official).1.map(|s| s.name)];
            for name in names.into_iter().flatten() {
                assert_eq!(one(&name), name);
                assert_eq!(one(&format!("model.{name}")), name);
                assert_eq!(one(&as_saved(&name)), name);
            }
        }
    }

    #[test]
    fn the_names_transformers_has_in_memory_are_understood() {
        for (stored, name) in [
            (
                "model.layers.7.self_attn.compressor.indexer.kv_proj.weight",
                "layers.7.attn.indexer.compressor.wkv.weight",
            ),
            ("model.layers.7.self_attn.q_a_proj.weight_scale_inv", "layers.7.attn.wq_a.scale"),
            ("model.layers.7.attn_hc.scale", "layers.7.hc_attn_scale"),
            ("model.layers.7.ffn_hc.fn", "layers.7.hc_ffn_fn"),
            ("model.layers.0.mlp.gate.tid2eid", "layers.0.ffn.gate.tid2eid"),
            ("model.layers.0.mlp.gate.weight", "layers.0.ffn.gate.weight"),
            ("lm_head.weight", "head.weight"),
            ("model.hc_head.hc_scale", "hc_head_scale"),
            ("model.norm.weight", "norm.weight"),
        ] {
            assert_eq!(one(stored), name);
        }
        let stacked = official("model.layers.2.mlp.experts.gate_up_proj");
        assert_eq!(stacked, Official::StackedW1W3("layers.2.ffn.experts".to_owned()));
    }

    #[test]
    fn names_of_nothing_known_stay_as_they_are() {
        for name in [
            "",
            "layers",
            "layers.",
            "layers.x.y",
            "layers.3",
            "mtp.0",
            "vision.a.weight",
            ".scale",
            "layers..a",
        ] {
            assert_eq!(one(name), name);
        }
    }
}
