#![no_main]

use std::sync::Arc;

use cuvier_weights::{Checkpoint, Header};
use libfuzzer_sys::fuzz_target;

/// The smallest model: random bytes may well come to describe some of its tensors.
const CONFIG: &[u8] = br#"{
    "model_type": "deepseek_v4", "vocab_size": 2, "hidden_size": 2, "num_hidden_layers": 1,
    "num_attention_heads": 1, "head_dim": 2, "qk_rope_head_dim": 2, "q_lora_rank": 1, "o_groups": 1,
    "o_lora_rank": 1, "sliding_window": 1, "compress_ratios": [0], "rope_theta": 10, "compress_rope_theta": 10,
    "max_position_embeddings": 8, "index_n_heads": 1, "index_head_dim": 2, "index_topk": 1,
    "n_routed_experts": 1, "num_experts_per_tok": 1, "moe_intermediate_size": 1, "num_hash_layers": 1,
    "routed_scaling_factor": 1, "swiglu_limit": 1, "hc_mult": 1, "hc_sinkhorn_iters": 1
}"#;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (data, json) = input;
    // As a whole file, where almost everything fails at the length, and as a header of the right length.
    check(&json);
    let mut framed = (json.len() as u64).to_le_bytes().to_vec();
    framed.extend(&json);
    framed.resize(framed.len() + usize::from(data), 0);
    check(&framed);
    if let Ok(checkpoint) = Checkpoint::from_parts(CONFIG, Arc::new(framed)) {
        let _ = checkpoint.verify(true, &mut |_, _| true);
    }
});

fn check(file: &[u8]) {
    let Ok(header) = Header::parse(file, "m.safetensors") else { return };
    let start = file.len() - header.entries.iter().map(|entry| entry.range.len()).sum::<usize>();
    let end = header.entries.iter().fold(start, |end, entry| {
        assert_eq!(entry.range.start, end, "tensors tile the file");
        entry.range.end
    });
    assert_eq!(end, file.len());
}
