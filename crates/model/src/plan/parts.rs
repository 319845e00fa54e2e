//! The weights of a model in bytes: as they are stored, and as they are in memory.

use cuvier_tensor::{Dtype, Int8Panel, panels_of};
use cuvier_weights::expert_store::ExpertStore;
use cuvier_weights::{
    COPIED_BYTES, Checkpoint, Drafter, Family, ModelConfig, Precision, StoredRows, TensorSpec, inventory,
};

use crate::ModelError;
use crate::embedding::TOKENS_AT_ONCE;
use crate::load::{EMBEDDING, HEAD, layer_of};

/// What a checkpoint holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Stock {
    /// Its config.
    pub config: ModelConfig,
    /// Bytes of all tensors as they are stored.
    pub stored: u64,
    /// Embedding, head, and whatever belongs to no layer, in memory.
    outside: u64,
    /// Of that, the embedding: one row of it is read per token.
    embedding: u64,
    /// Whether its rows can be read from their file.
    is_embedding_plain: bool,
    /// The head as it is stored, and in memory.
    head: (u64, u64),
    /// By layer, the MTP block's last, without routed experts.
    pub(super) layers: Vec<LayerBytes>,
    /// Routed experts of all layers as they are stored.
    experts: u64,
    /// Bytes of one routed expert in the memory of a store, the most of all.
    pub expert: u64,
    /// Whether tensors can be read from files.
    is_in_files: bool,
}

/// A layer without its routed experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LayerBytes {
    /// In memory, if it stays there.
    kept: u64,
    /// In memory, if it is read for every step.
    outline: u64,
    /// Read for every step then.
    read: u64,
    /// Its largest matrix as it is stored: it is there while it is packed.
    largest: u64,
}

/// What is known of a tensor: its name and place, for a checkpoint and for a store of experts.
const TABLE_PER_TENSOR: u64 = 700;
/// Larger pieces of memory go back to the system at once.
const HEAP_MAX: u64 = 32 << 20;

impl Stock {
    /// Of an opened checkpoint; reads nothing.
    ///
    /// # Errors
    /// If it lacks experts of its layers.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let mtp = checkpoint.drafter() == Drafter::Mtp;
        let mut stock = Self::count(checkpoint.config(), mtp, |spec| checkpoint.stored_as(&spec.name));
        stock.stored = checkpoint.tensor_bytes();
        stock.expert = ExpertStore::expert_bytes(checkpoint)?;
        stock.is_in_files = checkpoint.is_in_files();
        Ok(stock)
    }

    /// Of a shape that is stored in `precision`, with its MTP block if `mtp`.
    pub fn of_shape(config: &ModelConfig, precision: Precision, mtp: bool) -> Self {
        Self::count(config, mtp, |spec| {
            let (tensor, scale) = spec.stored(precision);
            let bytes = |t: &cuvier_weights::StoredTensor| {
                t.shape.iter().product::<usize>() as u64 * t.dtype.size() as u64
            };
            Some((tensor.dtype, bytes(&tensor) + scale.as_ref().map_or(0, bytes)))
        })
    }

    fn count(
        config: &ModelConfig,
        mtp: bool,
        stored_as: impl Fn(&TensorSpec) -> Option<(Dtype, u64)>,
    ) -> Self {
        let mut stock = Self {
            config: config.clone(),
            stored: 0,
            outside: 0,
            embedding: 0,
            is_embedding_plain: false,
            head: (0, 0),
            layers: vec![LayerBytes::default(); config.num_hidden_layers + usize::from(mtp)],
            experts: 0,
            expert: 0,
            is_in_files: true,
        };
        for spec in inventory(config, mtp).iter() {
            let Some((dtype, stored)) = stored_as(&spec) else { continue };
            stock.stored += stored;
            // Its scales are one more.
            stock.outside += TABLE_PER_TENSOR * (1 + u64::from(matches!(dtype, Dtype::I8 | Dtype::F8E4M3)));
            if spec.family == Family::Expert {
                stock.experts += stored;
                continue;
            }
            let kept = in_memory(&spec, dtype, stored);
            match layer_of(&spec.name, config) {
                Some(layer) => stock.layers[layer].add(&spec, kept, stored),
                None => stock.outside += kept,
            }
            match spec.name.as_str() {
                HEAD => stock.head = (stored, kept),
                EMBEDDING => {
                    stock.embedding = kept;
                    stock.is_embedding_plain = matches!(dtype, Dtype::BF16 | Dtype::F32);
                }
                _ => {}
            }
        }
        stock.expert = stock.experts / stock.n_experts() as u64 + ExpertStore::SLACK_BYTES;
        stock
    }

    /// Routed experts of all layers.
    pub fn n_experts(&self) -> usize {
        self.layers.len() * self.config.n_routed_experts
    }

    /// Whether parts can be read when they are needed: not of what is inside the program.
    pub(super) fn can_stream(&self) -> bool {
        self.is_in_files
    }

    /// Everything in memory: experts as they are stored.
    pub(super) fn loaded(&self) -> u64 {
        self.kept(self.layers.len()) + self.experts
    }

    /// All but routed experts, with the first `layers` layers whole.
    pub(super) fn kept(&self, layers: usize) -> u64 {
        let bytes = self.layers.iter().enumerate();
        self.outside + bytes.map(|(i, l)| if i < layers { l.kept } else { l.outline }).sum::<u64>()
    }

    /// The same where experts come from disk: the embedding stays there as well, if its rows can be read one by one.
    pub(super) fn kept_streamed(&self, layers: usize) -> u64 {
        self.kept(layers) - if self.is_embedding_plain { self.embedding } else { 0 }
    }

    /// Bytes of memory through which a step of `tokens` tokens reads their rows of the embedding.
    pub(super) fn reading_rows(&self, tokens: usize) -> u64 {
        StoredRows::reading_bytes(self.embedding_row(), tokens.min(TOKENS_AT_ONCE) as u64)
    }

    /// Bytes of a token's row of the embedding.
    fn embedding_row(&self) -> u64 {
        self.embedding / self.config.vocab_size as u64
    }

    /// What is read for every token of layers that do not stay, and of the embedding.
    pub(super) fn read_per_step(&self, layers: usize) -> u64 {
        let row = if self.is_embedding_plain { self.embedding_row() } else { 0 };
        row + self.backbone().skip(layers).map(|layer| layer.read).sum::<u64>()
    }

    /// Memory of a layer that is read for a step, while it is there, and of the next one, as it is stored.
    pub(super) fn transient(&self) -> u64 {
        let most = |bytes: fn(&LayerBytes) -> u64| self.layers.iter().map(bytes).max().unwrap_or(0);
        let (layer, next) = (most(|layer| layer.kept + layer.largest), most(|layer| layer.read));
        // What is smaller than that comes from heaps, which keep about as much again.
        layer + layer.min(HEAP_MAX) + next + next.min(HEAP_MAX) + COPIED_BYTES
    }

    /// Memory of the largest matrix that is packed, beside its packed form.
    pub(super) fn packing(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.largest);
        layers.chain([self.head.0]).max().unwrap_or(0) + COPIED_BYTES
    }

    /// Bytes of the routed experts of one token.
    pub(super) fn experts_per_token(&self) -> f64 {
        (self.config.num_hidden_layers * self.config.num_experts_per_tok) as f64 * self.expert as f64
    }

    /// Bytes of weights that a decoded token reads, from wherever they are. The MTP block drafts nothing yet.
    pub(super) fn used_per_token(&self) -> f64 {
        let layers: u64 = self.backbone().map(|layer| layer.kept).sum();
        (self.head.1 + self.embedding_row() + layers) as f64 + self.experts_per_token()
    }

    fn backbone(&self) -> impl Iterator<Item = &LayerBytes> {
        self.layers.iter().take(self.config.num_hidden_layers)
    }
}

impl LayerBytes {
    fn add(&mut self, spec: &TensorSpec, kept: u64, stored: u64) {
        let is_matrix = spec.shape.len() == 2 && matches!(spec.family, Family::Fp8 | Family::Bf16);
        self.kept += kept;
        self.read += stored;
        if is_matrix {
            self.largest = self.largest.max(stored);
        } else {
            self.outline += kept;
        }
    }
}

/// Bytes of a tensor once it is loaded.
fn in_memory(spec: &TensorSpec, dtype: Dtype, stored: u64) -> u64 {
    let numbers = spec.shape.iter().product::<usize>() as u64;
    let panels = |rows, cols| (panels_of(rows, cols) * size_of::<Int8Panel>()) as u64;
    match (&spec.shape[..], spec.family, dtype) {
        (&[rows, cols], Family::Fp8, Dtype::F8E4M3) => panels(rows, cols),
        (&[rows, cols], _, Dtype::F8E4M3 | Dtype::BF16) if spec.name == HEAD => panels(rows, cols),
        (_, Family::I64, _) => 2 * numbers,
        // Vectors are widened, and so are the matrices of hyper-connections.
        (_, Family::F32, _) | ([_], ..) => 4 * numbers,
        _ => stored,
    }
}
