//! Small checkpoints for tests.

use std::path::Path;

use tempfile::TempDir;

use crate::synth::{self, SynthOptions};
use crate::{Checkpoint, ModelConfig};

/// All three kinds of layers, both ways of routing, FP8 blocks that are not full.
pub(crate) fn tiny() -> ModelConfig {
    ModelConfig {
        vocab_size: 64,
        hidden_size: 160,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        head_dim: 48,
        qk_rope_head_dim: 16,
        q_lora_rank: 40,
        o_groups: 2,
        o_lora_rank: 24,
        compress_ratios: vec![0, 4, 128, 4],
        index_n_heads: 4,
        index_head_dim: 32,
        index_topk: 8,
        n_routed_experts: 3,
        num_experts_per_tok: 2,
        moe_intermediate_size: 64,
        num_hash_layers: 2,
        max_position_embeddings: 4096,
        ..ModelConfig::flash()
    }
}

/// A checkpoint of `config` with `change`d options in a folder of its own.
pub(crate) fn written(config: &ModelConfig, change: impl FnOnce(&mut SynthOptions)) -> (TempDir, Checkpoint) {
    let folder = folder(config, change);
    let checkpoint = Checkpoint::open(folder.path()).expect("what synth writes opens");
    (folder, checkpoint)
}

/// The folder only.
pub(crate) fn folder(config: &ModelConfig, change: impl FnOnce(&mut SynthOptions)) -> TempDir {
    let folder = tempfile::tempdir().expect("the system has a temporary folder");
    let mut options = SynthOptions::new(config.clone());
    change(&mut options);
    synth::write(folder.path(), &options, &mut |_, _| {}).expect("the options can be met");
    folder
}

/// What opening says when it refuses.
pub(crate) fn refusal(folder: &Path) -> String {
    match Checkpoint::open(folder) {
        Ok(_) => panic!("it opened"),
        Err(error) => error.to_string(),
    }
}
