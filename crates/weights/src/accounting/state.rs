//! Bytes that a sequence's attention state takes, in the official cache precision.

use cuvier_tensor::formats::{entry_bytes, index_key_bytes};

use crate::{LayerKind, ModelConfig};

/// The attention state of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct StateBytes {
    /// What one more token adds, on average.
    pub bytes_per_token: f64,
    /// Compressed entries of layers of ratio 4.
    pub csa_entries: u64,
    /// Index keys of layers of ratio 4.
    pub index_keys: u64,
    /// Compressed entries of layers of ratio 128.
    pub hca_entries: u64,
    /// Windows of all layers; at a context shorter than the window, the part in use.
    pub windows: u64,
    /// Groups that are not whole yet, f32, compressors of the indexer included. Does not grow.
    pub pending: u64,
}

impl StateBytes {
    /// What grows with the context.
    pub fn growing(&self) -> u64 {
        self.csa_entries + self.index_keys + self.hca_entries
    }

    /// Everything.
    pub fn total(&self) -> u64 {
        self.growing() + self.windows + self.pending
    }
}

/// The state of a sequence of `context` tokens in the backbone.
pub fn state_bytes(config: &ModelConfig, context: u64) -> StateBytes {
    let entry = entry_bytes(config.head_dim, config.qk_rope_head_dim) as u64;
    let key = index_key_bytes(config.index_head_dim) as u64;
    let csa = config.n_layers_of(LayerKind::Csa) as u64;
    let hca = config.n_layers_of(LayerKind::Hca) as u64;
    let (csa_blocks, hca_blocks) = (context / 4, context / 128);
    let window = context.min(config.sliding_window as u64);
    // Keys and scores, f32. Overlapping groups keep two groups of twice the width.
    let overlapping = |dim: usize| (2 * 4 * 2 * 2 * dim * 4) as u64;
    let plain = |dim: usize| (128 * 2 * dim * 4) as u64;
    StateBytes {
        bytes_per_token: (csa * (entry + key)) as f64 / 4.0 + (hca * entry) as f64 / 128.0,
        csa_entries: csa * entry * csa_blocks,
        index_keys: csa * key * csa_blocks,
        hca_entries: hca * entry * hca_blocks,
        windows: config.num_hidden_layers as u64 * window * entry,
        pending: csa * (overlapping(config.head_dim) + overlapping(config.index_head_dim))
            + hca * plain(config.head_dim),
    }
}
