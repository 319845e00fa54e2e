//! Random-weight checkpoints of true format: for tests, benchmarks and plans, at any size.
//!
//! F32 and BF16 numbers follow the portable rule of `fixtures/parity/README.md`, bit for bit, so that recorded
//! truths apply to them. FP8 and FP4 bytes are drawn directly as codes, with the same spread.

mod codes;
pub(crate) mod plan;
mod rule;
mod shards;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::{Map, json};

use crate::export::{make_empty, write_configs, write_text};
use crate::index::INDEX;
use crate::names::as_saved;
use crate::{ModelConfig, Precision, WeightsError, inventory};

/// What to write.
#[derive(Clone, Debug)]
pub struct SynthOptions {
    /// The shape to start from.
    pub config: ModelConfig,
    /// Layers of the backbone. Few layers still cover the kinds of layers the shape has.
    pub layers: Option<usize>,
    /// Routed experts per layer.
    pub experts: Option<usize>,
    /// Vocabulary.
    pub vocab: Option<usize>,
    /// What the random numbers follow from.
    pub seed: u64,
    /// Holes, which read as zeros, instead of random bytes: files of full size that take next to no disk. What is
    /// small is written all the same (expert tables, norms, biases, sinks), so that the checkpoint is a whole one:
    /// every number is finite, and tokens reach the experts of their tables.
    pub sparse: bool,
    /// How numbers are stored.
    pub precision: Precision,
    /// With the MTP block, if the shape has one.
    pub mtp: bool,
    /// How tensors are called.
    pub names: NameStyle,
    /// A file is ended before it would exceed this.
    pub shard_bytes_max: u64,
}

/// How the tensors of a synthetic checkpoint are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameStyle {
    /// As released.
    Official,
    /// As `save_pretrained` of transformers calls them.
    Saved,
}

impl SynthOptions {
    /// All of `config`, in the official format, from seed 0.
    pub fn new(config: ModelConfig) -> Self {
        Self {
            config,
            layers: None,
            experts: None,
            vocab: None,
            seed: 0,
            sparse: false,
            precision: Precision::Official,
            mtp: true,
            names: NameStyle::Official,
            shard_bytes_max: 4_500_000_000,
        }
    }

    /// The config of the checkpoint that these options make.
    ///
    /// # Errors
    /// If an option cannot be had from the shape.
    pub fn plan(&self) -> Result<ModelConfig, WeightsError> {
        plan::plan(self)
    }
}

/// Writes a checkpoint into `folder`, which must be empty or absent: weights, index, `config.json` and
/// `generation_config.json`; the tokenizer is the caller's. `progress` is told bytes done and in total.
/// Returns the bytes of the weights.
///
/// Every file is written under a temporary name and renamed when whole; `config.json` comes last, so a folder
/// with one is complete.
///
/// # Errors
/// If the options cannot be met, or the disk refuses.
pub fn write(
    folder: &Path,
    options: &SynthOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, WeightsError> {
    let config = options.plan()?;
    make_empty(folder)?;
    let mtp = config.num_nextn_predict_layers > 0;
    let shards = shards::pack(inventory(&config, mtp).groups(), options.precision, options.shard_bytes_max);
    let total: u64 = shards.iter().map(shards::Shard::bytes).sum();
    let mut weight_map = Map::new();
    let mut done = 0;
    progress(0, total);
    for (number, shard) in shards.iter().enumerate() {
        let file = shards::file_name(number, shards.len());
        for tensor in &shard.tensors {
            weight_map.insert(stored_name(&tensor.stored.name, options.names), json!(file));
        }
        shards::write(&folder.join(&file), shard, options, &config, &mut |bytes| {
            done += bytes;
            progress(done, total);
        })?;
    }
    if shards.len() > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        write_text(folder, INDEX, &format!("{index:#}\n"))?;
    }
    write_configs(folder, &config)?;
    Ok(total)
}

fn stored_name(official: &str, style: NameStyle) -> String {
    match style {
        NameStyle::Official => official.to_owned(),
        NameStyle::Saved => as_saved(official),
    }
}
