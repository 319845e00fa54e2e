//! The state of a sequence in bytes of memory: pages, and what is kept to roll back.

use cuvier_kernels::{EntryCodec, IndexKeyCodec, KvFormat};
use cuvier_tensor::PAGE_ROWS;
use cuvier_weights::{LayerKind, ModelConfig};

use crate::state::ROLLBACK_MAX;

/// Bytes of a whole state of `context` tokens, between steps.
pub(super) fn state(config: &ModelConfig, kv: KvFormat, context: usize) -> u64 {
    let (entry, key) = row_bytes(config, kv);
    let window = rows((config.sliding_window + ROLLBACK_MAX).min(context)) * entry;
    let layers = config.layers().map(|layer| {
        let kind = config.layer_kind(layer);
        let pending = 4 * rows(pending_rows(kind, context)) * pending_len(config, kind);
        window
            + match kind {
                LayerKind::Sliding => 0,
                LayerKind::Hca => rows(context / kind.ratio()) * entry + pending,
                LayerKind::Csa => rows(context / kind.ratio()) * (entry + key) + pending,
            }
    });
    (layers.sum::<usize>() + window) as u64
}

/// Bytes that the tokens of a step add to states before they are given up: in one layer after the other, or, if a state
/// `holds` them, in all.
pub(super) fn of_step(config: &ModelConfig, kv: KvFormat, chunk: usize, holds: bool) -> u64 {
    let (entry, _) = row_bytes(config, kv);
    let layers = config.layers().map(|layer| entry + 4 * pending_len(config, config.layer_kind(layer)));
    let bytes = if holds { layers.sum::<usize>() } else { layers.max().unwrap_or(0) };
    (rows(chunk) * bytes) as u64
}

/// Bytes of an entry and of an index key.
fn row_bytes(config: &ModelConfig, kv: KvFormat) -> (usize, usize) {
    let (head_dim, rope_dim) = (config.head_dim, config.qk_rope_head_dim);
    let entry = EntryCodec { format: kv, head_dim, rope_dim }.row_bytes();
    let key = IndexKeyCodec { format: kv, dim: config.index_head_dim }.row_bytes();
    (entry, key)
}

/// Rows with those that fill their last page, and a page that is given up late.
fn rows(rows: usize) -> usize {
    (rows.div_ceil(PAGE_ROWS) + 1) * PAGE_ROWS
}

/// Positions whose keys and scores wait for their group to be whole, and those that a rollback may ask for.
fn pending_rows(kind: LayerKind, context: usize) -> usize {
    let groups = if kind == LayerKind::Csa { 2 } else { 1 };
    (groups * kind.ratio() + ROLLBACK_MAX).min(context)
}

/// Numbers of a waiting position: keys and scores, of the indexer as well; overlapping groups have two of each.
fn pending_len(config: &ModelConfig, kind: LayerKind) -> usize {
    match kind {
        LayerKind::Sliding => 0,
        LayerKind::Hca => 2 * config.head_dim,
        LayerKind::Csa => 4 * (config.head_dim + config.index_head_dim),
    }
}
