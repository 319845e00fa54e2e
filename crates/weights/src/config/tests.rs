#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Flash's config as JSON, changed.
fn with(change: impl FnOnce(&mut Value)) -> Result<ModelConfig, String> {
    let mut json: Value = serde_json::from_str(&ModelConfig::flash().to_json()).unwrap();
    change(&mut json);
    ModelConfig::parse(&json.to_string(), "config.json").map_err(|error| error.to_string())
}

fn refused(field: &str, value: Value) -> String {
    with(|json| json[field] = value).unwrap_err()
}

/// As transformers writes Flash.
fn normalised() -> Value {
    let mut json: Value = serde_json::from_str(&ModelConfig::flash().to_json()).unwrap();
    let types: Vec<&str> = ModelConfig::flash()
        .compress_ratios
        .iter()
        .map(|ratio| match ratio {
            0 => "sliding_attention",
            4 => "compressed_sparse_attention",
            _ => "heavily_compressed_attention",
        })
        .collect();
    let object = json.as_object_mut().unwrap();
    for key in ["compress_ratios", "num_hash_layers", "qk_rope_head_dim", "rope_scaling", "n_shared_experts"]
    {
        object.shift_remove(key);
    }
    json["layer_types"] = json!(types);
    json["mlp_layer_types"] = json!([vec!["hash_moe"; 3], vec!["moe"; 40]].concat());
    json["compress_rates"] = json!({"compressed_sparse_attention": 4, "heavily_compressed_attention": 128});
    json["partial_rotary_factor"] = json!(0.125);
    json["rope_parameters"] = json!({
        "main": {"partial_rotary_factor": 0.125, "rope_theta": 10000, "rope_type": "default"},
        "compress": {
            "attention_factor": 1.0, "beta_fast": 32, "beta_slow": 1, "factor": 16,
            "original_max_position_embeddings": 65536, "partial_rotary_factor": 0.125,
            "rope_theta": 160000, "rope_type": "yarn", "type": "yarn",
        },
    });
    json
}

fn parse_normalised(change: impl FnOnce(&mut Value)) -> Result<ModelConfig, String> {
    let mut json = normalised();
    change(&mut json);
    ModelConfig::parse(&json.to_string(), "config.json").map_err(|error| error.to_string())
}

#[test]
fn the_released_shapes_survive_their_json() {
    for config in [ModelConfig::flash(), ModelConfig::pro()] {
        assert_eq!(ModelConfig::parse(&config.to_json(), "config.json").unwrap(), config);
        config.check().unwrap();
    }
    let json: Value = serde_json::from_str(&ModelConfig::flash().to_json()).unwrap();
    assert_eq!(json["compress_ratios"].as_array().unwrap().len(), 44);
    assert_eq!(json["rms_norm_eps"].to_string(), "1e-6");
    assert_eq!(json["rope_scaling"]["factor"].to_string(), "16");
}

#[test]
fn layers_are_of_the_released_kinds() {
    let (flash, pro) = (ModelConfig::flash(), ModelConfig::pro());
    let kinds = [LayerKind::Sliding, LayerKind::Csa, LayerKind::Hca];
    assert_eq!(kinds.map(|kind| flash.n_layers_of(kind)), [2, 21, 20]);
    assert_eq!(kinds.map(|kind| pro.n_layers_of(kind)), [0, 30, 31]);
    assert_eq!(flash.layer_kind(LayerId(42)), LayerKind::Csa);
    assert_eq!(flash.layer_kind(flash.mtp_layer()), LayerKind::Sliding);
    let hash: Vec<_> = flash.layers().filter(|&layer| flash.is_hash(layer)).map(|layer| layer.0).collect();
    assert_eq!(hash, [0, 1, 2]);
    assert!(!flash.is_hash(flash.mtp_layer()));
}

#[test]
fn the_normalised_form_gives_the_same_config() {
    assert_eq!(parse_normalised(|_| ()).unwrap(), ModelConfig::flash());
    // Both forms at once, agreeing.
    let both = parse_normalised(|json| {
        json["num_hash_layers"] = json!(3);
        json["qk_rope_head_dim"] = json!(64);
        json["rope_scaling"] =
            json!({"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 65536});
    });
    assert_eq!(both.unwrap(), ModelConfig::flash());
}

#[test]
fn forms_that_disagree_are_refused_by_field() {
    let said = |key: &str, value: Value| parse_normalised(|json| json[key] = value).unwrap_err();
    assert_eq!(
        said("num_hash_layers", json!(2)),
        "config.json: `num_hash_layers` differs from `mlp_layer_types`"
    );
    assert_eq!(
        said("qk_rope_head_dim", json!(32)),
        "config.json: `qk_rope_head_dim` is given twice, with different values"
    );
    assert_eq!(
        said("rope_theta", json!(5)),
        "config.json: `rope_theta` is given twice, with different values"
    );
    assert_eq!(
        said("compress_ratios", json!(vec![4; 43])),
        "config.json: `compress_ratios` differs from `layer_types`"
    );
    let yarn = json!({"type": "yarn", "factor": 8, "original_max_position_embeddings": 65536});
    assert_eq!(said("rope_scaling", yarn), "config.json: `rope_scaling` differs from `rope_parameters`");
    assert!(said("layer_types", json!(["full_attention"])).contains("has 1 entries for 43 layers"));
    assert!(
        said("layer_types", json!(vec!["full_attention"; 43])).contains("is \"full_attention\" at layer 0")
    );
    assert!(
        said("mlp_layer_types", json!([vec!["moe"; 42], vec!["hash_moe"]].concat()))
            .contains("after layer 0")
    );
    assert!(said("compress_rates", json!({"compressed_sparse_attention": 2})).contains("must be 4"));
    assert!(said("partial_rotary_factor", json!(0.1234)).contains("no whole number of 512 dims"));
    assert!(said("partial_rotary_factor", json!(-1)).contains("no whole number"));
}

#[test]
fn ratios_that_do_not_fit_the_layers_are_refused() {
    let flash = ModelConfig::flash().compress_ratios;
    let said = |ratios: Vec<usize>| refused("compress_ratios", json!(ratios));
    assert!(said(vec![0; 42]).contains("has 42 entries for 43 layers"));
    assert!(said([flash.clone(), vec![0; 17]].concat()).contains("has 60 entries for 43 layers"));
    assert!(said([flash.clone(), vec![4]].concat()).contains("must be 0 beyond the last layer"));
    let mut other = flash.clone();
    other[7] = 2;
    assert_eq!(said(other), "config.json: `compress_ratios` is 2 at layer 7; it can be 0, 4 or 128");
    // Only the backbone's entries are there in some files.
    assert_eq!(with(|json| json["compress_ratios"] = json!(flash)).unwrap(), ModelConfig::flash());
}

#[test]
fn releases_with_a_block_drafter_are_recognised() {
    let config = with(|json| {
        json["compress_ratios"] = json!([ModelConfig::flash().compress_ratios, vec![0; 3]].concat());
        json["dspark_block_size"] = json!(5);
        json["dspark_noise_token_id"] = json!(128_799);
        json["dspark_target_layer_ids"] = json!([40, 41, 42]);
        json["dspark_markov_rank"] = json!(256);
    })
    .unwrap();
    let dspark = config.dspark.clone().unwrap();
    assert_eq!(dspark.dspark_target_layer_ids, [LayerId(40), LayerId(41), LayerId(42)]);
    assert_eq!(ModelConfig::parse(&config.to_json(), "again").unwrap(), config);
    let absent = with(|json| {
        json["dspark_block_size"] = json!(5);
        json["dspark_target_layer_ids"] = json!([43]);
        json["dspark_markov_rank"] = json!(256);
    });
    assert!(absent.unwrap_err().contains("names layer 43, which does not exist"));
}

#[test]
fn fields_that_contradict_each_other_are_refused_by_name() {
    for (field, value, problem) in [
        ("o_groups", 3_u64, "is 3, which does not divide 64 attention heads"),
        ("num_experts_per_tok", 257, "is 257; it can be 1 to 256"),
        ("n_routed_experts", 5, ""),
        ("qk_rope_head_dim", 63, "is 63, which is odd"),
        ("qk_rope_head_dim", 514, "exceeds `head_dim` 512"),
        ("qk_rope_head_dim", 256, "exceeds `index_head_dim` 128"),
        ("index_head_dim", 96, "is 96, not a power of two"),
        ("n_shared_experts", 2, "is 2; it can be 1"),
        ("num_key_value_heads", 8, "must be 1: all query heads share one key-value vector"),
        ("hidden_size", 0, "is 0; it can be 1 to 65536"),
        ("hidden_size", 1_u64 << 40, "is 1099511627776; it can be 1 to 65536"),
        ("bos_token_id", 129_280, "is 129280, outside the vocabulary"),
        ("eos_token_id", 129_280, "is 129280, outside the vocabulary"),
        ("num_hidden_layers", 1_u64 << 40, "has 44 entries for 1099511627776 layers"),
    ] {
        let field_at_fault = match (field, value) {
            ("n_routed_experts", _) => "num_experts_per_tok",
            ("num_hidden_layers", _) => "compress_ratios",
            _ => field,
        };
        let error = refused(field, json!(value));
        let want = format!("config.json: `{field_at_fault}` {problem}");
        assert!(if problem.is_empty() { error.starts_with(&want) } else { error == want }, "{error}");
    }
    for (field, value) in [
        ("tie_word_embeddings", json!(true)),
        ("attention_bias", json!(true)),
        ("hidden_act", json!("gelu")),
        ("scoring_func", json!("softmax")),
        ("rms_norm_eps", json!(0)),
        ("routed_scaling_factor", json!(-1)),
        ("rope_theta", json!(1)),
        ("expert_dtype", json!("int4")),
        ("eos_token_id", json!([1, 2])),
        ("quantization_config", json!({"weight_block_size": [32, 32]})),
        ("rope_scaling", json!({"type": "linear", "factor": 4})),
        ("rope_scaling", json!({"type": "yarn"})),
    ] {
        assert!(refused(field, value).starts_with(&format!("config.json: `{field}")), "{field}");
    }
}

#[test]
fn every_needed_field_is_missed_by_name() {
    for field in ["vocab_size", "o_lora_rank", "compress_ratios", "rope_theta", "num_hash_layers", "hc_mult"]
    {
        let error = with(|json| drop(json.as_object_mut().unwrap().shift_remove(field))).unwrap_err();
        assert_eq!(error, format!("config.json: `{field}` is missing"));
    }
}

#[test]
fn other_architectures_are_named_as_such() {
    let v41 = refused("kv_source_layer_ids", json!([2, 8]));
    assert!(
        v41.contains("`kv_source_layer_ids` belongs to DeepSeek-V4.1, which is another architecture"),
        "{v41}"
    );
    assert!(refused("engram_layer_ids", json!([])).contains("belongs to DeepSeek-V4.1"));
    let v3 = ModelConfig::parse("{\"model_type\":\"deepseek_v3\"}", "config.json").unwrap_err().to_string();
    assert!(v3.contains("`model_type` is \"deepseek_v3\", which is another architecture"), "{v3}");
}

#[test]
fn text_that_is_no_config_is_an_error() {
    for text in [
        "",
        "{",
        "[]",
        "null",
        "7",
        "\u{0}",
        "{\"vocab_size\":\"many\"}",
        "{\"vocab_size\":-1}",
        "{\"rope_theta\":1e999}",
    ] {
        let error = ModelConfig::parse(text, "config.json").unwrap_err().to_string();
        assert!(error.starts_with("config.json: "), "{text:?}: {error}");
    }
    for open in ["[", "{\"a\":"] {
        for key in ["unknown", "rope_scaling", "compress_ratios"] {
            let deep = format!("{{\"{key}\":{}", open.repeat(200_000));
            assert!(ModelConfig::parse(&deep, "config.json").is_err());
        }
    }
    let twice = ModelConfig::parse("{\"vocab_size\":1,\"vocab_size\":2}", "config.json").unwrap_err();
    assert!(twice.to_string().contains("duplicate field `vocab_size`"), "{twice}");
}

#[test]
fn decimals_are_read_exactly() {
    let long = "1600888888888888888888888888888888888888888888888888888888888888888888888888888888800";
    let json = ModelConfig::flash()
        .to_json()
        .replace("\"compress_rope_theta\": 160000", &format!("\"compress_rope_theta\": {long}"));
    let config = ModelConfig::parse(&json, "config.json").unwrap();
    assert_eq!(config.compress_rope_theta, long.parse::<f64>().unwrap());
    assert_eq!(ModelConfig::parse(&config.to_json(), "config.json").unwrap(), config);
}

#[test]
fn hash_layers_beyond_the_last_layer_are_those_that_exist() {
    assert_eq!(with(|json| json["num_hash_layers"] = json!(100)).unwrap().num_hash_layers, 43);
}

proptest! {
    #[test]
    fn no_value_in_any_field_makes_the_parser_panic(
        field in 0_usize..45,
        value in prop::sample::select(vec![
            json!(0), json!(1), json!(-1), json!(3), json!(u64::MAX), json!(1e300), json!(0.5), json!(null),
            json!("x"), json!([]), json!([0]), json!({}), json!(true), json!(4096), json!(65536),
        ]),
    ) {
        for json in [serde_json::from_str(&ModelConfig::flash().to_json()).unwrap(), normalised()] {
            let mut json: Value = json;
            let keys: Vec<String> = json.as_object().unwrap().keys().cloned().collect();
            json[&keys[field % keys.len()]] = value.clone();
            if let Ok(config) = ModelConfig::parse(&json.to_string(), "config.json") {
                prop_assert_eq!(ModelConfig::parse(&config.to_json(), "again").unwrap(), config);
            }
        }
    }
}
