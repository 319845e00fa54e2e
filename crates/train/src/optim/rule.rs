//! Which optimiser a tensor gets: by its name.

/// How one tensor is updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Muon, with decay.
    Muon,
    /// AdamW, with decay or without.
    AdamW {
        /// Whether the weights also shrink.
        decay: bool,
    },
}

/// What updates the matrices between embedding and LM head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MatrixRule {
    /// Muon, as DeepSeek-V4 was trained.
    #[default]
    Muon,
    /// AdamW, to compare with.
    AdamW,
}

/// The rule of the tensor with this checkpoint name.
///
/// AdamW has the embedding and the LM head, with decay; and without: norm weights, the bases and scales of
/// hyper-connections, sinks, and the position terms of compressors. All other tensors are matrices and go by
/// `matrices`; every expert's `w1`, `w2` and `w3` is a tensor, and so a matrix, of its own.
///
/// Source: DeepSeek-V4 report, sections on Muon and on the training setup. They do not speak of sinks and position
/// terms: vectors of few numbers, which are treated as the other vectors are.
pub fn rule_of(name: &str, matrices: MatrixRule) -> Rule {
    const VECTORS: [&str; 5] = ["norm.weight", "_base", "_scale", ".attn_sink", ".ape"];
    if ["embed.weight", "head.weight"].contains(&name) {
        Rule::AdamW { decay: true }
    } else if VECTORS.iter().any(|suffix| name.ends_with(suffix)) {
        Rule::AdamW { decay: false }
    } else {
        match matrices {
            MatrixRule::Muon => Rule::Muon,
            MatrixRule::AdamW => Rule::AdamW { decay: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use cuvier_weights::{ModelConfig, inventory};

    use super::*;

    fn is_trained(name: &str) -> bool {
        !name.ends_with("gate.bias") && !name.ends_with("tid2eid")
    }

    #[test]
    fn of_the_released_shape_exactly_the_matrices_within_layers_get_muon() {
        for spec in inventory(&ModelConfig::flash(), true).iter().filter(|spec| is_trained(&spec.name)) {
            let of_layer = spec.name.starts_with("layers.") || spec.name.starts_with("mtp.");
            let matrix = spec.shape.len() == 2 && !spec.name.ends_with("ape");
            let rule = rule_of(&spec.name, MatrixRule::Muon);
            match rule {
                Rule::Muon => assert!(matrix && (of_layer || spec.name == "hc_head_fn"), "{}", spec.name),
                Rule::AdamW { decay: true } => assert!(matrix && !of_layer, "{}", spec.name),
                Rule::AdamW { decay: false } => assert!(!matrix, "{}", spec.name),
            }
        }
    }

    #[test]
    fn each_kind_of_tensor_has_the_rule_of_the_report() {
        let (muon, decayed, plain) = (Rule::Muon, Rule::AdamW { decay: true }, Rule::AdamW { decay: false });
        for (name, rule) in [
            ("embed.weight", decayed),
            ("head.weight", decayed),
            ("norm.weight", plain),
            ("mtp.0.enorm.weight", plain),
            ("mtp.0.hnorm.weight", plain),
            ("mtp.0.e_proj.weight", muon),
            ("hc_head_fn", muon),
            ("hc_head_base", plain),
            ("hc_head_scale", plain),
            ("layers.3.hc_attn_fn", muon),
            ("layers.3.hc_ffn_base", plain),
            ("layers.3.hc_ffn_scale", plain),
            ("layers.3.attn_norm.weight", plain),
            ("layers.3.attn.q_norm.weight", plain),
            ("layers.3.attn.attn_sink", plain),
            ("layers.3.attn.wo_a.weight", muon),
            ("layers.3.attn.compressor.ape", plain),
            ("layers.3.attn.compressor.norm.weight", plain),
            ("layers.3.attn.compressor.wgate.weight", muon),
            ("layers.4.attn.indexer.weights_proj.weight", muon),
            ("layers.3.ffn.gate.weight", muon),
            ("layers.3.ffn.experts.7.w2.weight", muon),
            ("layers.3.ffn.shared_experts.w1.weight", muon),
        ] {
            assert_eq!(rule_of(name, MatrixRule::Muon), rule, "{name}");
        }
    }

    #[test]
    fn without_muon_every_matrix_gets_adamw_with_decay() {
        let rule = |name| rule_of(name, MatrixRule::AdamW);
        assert_eq!(rule("layers.3.ffn.gate.weight"), Rule::AdamW { decay: true });
        assert_eq!(rule("layers.3.ffn_norm.weight"), Rule::AdamW { decay: false });
    }
}
