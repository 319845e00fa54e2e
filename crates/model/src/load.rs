//! From a checkpoint's tensors to the model's fields: the one place that knows which name is which field.

use std::sync::Arc;

use cuvier_kernels::{
    CompressorShape, Compute, ExpertWeights, HcConfig, HcHead, HyperConnection, KvFormat, RopeTable, pack,
};
use cuvier_tensor::{Matrix, WeightFormat, WeightMatrix};
use cuvier_types::LayerId;
use cuvier_weights::expert_store::ExpertStore;
use cuvier_weights::{Checkpoint, Drafter, LayerKind, ModelConfig};

use crate::ModelError;
use crate::attention::{Attention, Compressed};
use crate::compressor::Compressor;
use crate::embedding::Embedding;
use crate::hyper_connection::Connection;
use crate::indexer::Indexer;
use crate::layer::Layer;
use crate::layer_ahead::LayerAhead;
use crate::moe::{Experts, Gate, Moe, Selection, weights_of};
use crate::mtp::Mtp;
use crate::state::{CompressedGeometry, LayerGeometry};
use crate::transformer::{Tables, Transformer};

impl Transformer {
    /// Makes the model of a checkpoint. Experts and BF16 matrices stay where they are; FP8 matrices and the LM head are
    /// brought to the form of [`pack`] on the threads of `compute`, and the memory of their file is given back.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape or dtype than its place asks for.
    pub fn load(checkpoint: &Checkpoint, compute: &Compute) -> Result<Self, ModelError> {
        Self::assemble(checkpoint, compute, None, usize::MAX)
    }

    /// Makes a model of a checkpoint that does not fit into memory: see [`Streaming`] for what is kept there. Everything
    /// else is read when a step needs it. Results are those of [`load`](Self::load), bit for bit.
    ///
    /// # Errors
    /// As [`load`](Self::load), and if files cannot be read.
    ///
    /// # Panics
    /// If `streaming.experts` is less than [`ExpertStore::CAPACITY_MIN`].
    pub fn load_streamed(
        checkpoint: Arc<Checkpoint>,
        compute: &Compute,
        streaming: Streaming,
    ) -> Result<Self, ModelError> {
        let store = Arc::new(ExpertStore::new(&checkpoint, streaming.experts)?);
        let mut model = Self::assemble(&checkpoint, compute, Some(&store), streaming.layers)?;
        let ahead = LayerAhead::new(Arc::clone(&checkpoint), streaming.layers);
        model.streamed = Some(Streamed { checkpoint, store, layers: streaming.layers, ahead });
        Ok(model)
    }

    fn assemble(
        checkpoint: &Checkpoint,
        compute: &Compute,
        store: Option<&Arc<ExpertStore>>,
        n_whole: usize,
    ) -> Result<Self, ModelError> {
        let config = checkpoint.config().clone();
        let tables = tables(&config);
        let loader = |depth| Loader { checkpoint, compute, config: &config, tables: &tables, store, depth };
        let depth = |index: usize| if index < n_whole { Depth::Whole } else { Depth::Outline };
        let whole = loader(Depth::Whole);
        // The largest first: while it is packed, its stored form takes memory as well.
        let head = whole.head()?;
        let layers = config.layers().map(|layer| loader(depth(layer.0.into())).layer(layer));
        let layers = layers.collect::<Result<_, _>>()?;
        let mtp = match checkpoint.drafter() {
            Drafter::Mtp => Some(loader(depth(config.num_hidden_layers)).mtp()?),
            _ => None,
        };
        let mut model = Self {
            embed: whole.embedding()?,
            layers,
            hc_head: whole.hc_head("")?,
            hc_config: hc_config(&config),
            norm: whole.vector("norm.weight")?,
            head,
            mtp,
            fingerprint: 0,
            config: config.clone(),
            tables,
            streamed: None,
        };
        model.fingerprint = model.compute_fingerprint();
        Ok(model)
    }

    /// A number that differs between models whose states must not be mixed: a hash (FNV-1a) of the config and of
    /// every layer's small vectors, which no two trained or random models share.
    pub(crate) fn compute_fingerprint(&self) -> u64 {
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        let mut mix = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
            }
        };
        mix(self.config.to_json().as_bytes());
        for layer in self.layers.iter().chain(self.mtp.as_ref().map(|mtp| &mtp.layer)) {
            let attn = &layer.attn;
            for vector in [&layer.attn_norm, &layer.ffn_norm, &attn.q_norm, &attn.kv_norm, &attn.attn_sink] {
                for value in vector {
                    mix(&value.to_le_bytes());
                }
            }
        }
        hash
    }
}

/// What a model keeps in memory whose checkpoint does not fit there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streaming {
    /// Routed experts, of all layers together.
    pub experts: usize,
    /// Layers, from the first on, the MTP block being the last, whose other weights stay in memory. Those of further
    /// layers are read for every step.
    pub layers: usize,
}

/// Where a model reads from what it does not keep.
pub(crate) struct Streamed {
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) store: Arc<ExpertStore>,
    /// As in [`Streaming`].
    pub(crate) layers: usize,
    /// What is read of further layers before it is needed.
    pub(crate) ahead: LayerAhead,
}

impl Streamed {
    /// The layer of that number with all its weights, if the model does not keep it. The MTP block is the last one.
    pub(crate) fn layer(
        &self,
        index: usize,
        tables: &Tables,
        compute: &Compute,
    ) -> Result<Option<Layer>, ModelError> {
        if index < self.layers {
            return Ok(None);
        }
        let (checkpoint, config, store) = (&*self.checkpoint, self.checkpoint.config(), Some(&self.store));
        let loader = Loader { checkpoint, compute, config, tables, store, depth: Depth::Whole };
        self.ahead.bring(index);
        let layer = loader.layer(LayerId(index as u16))?;
        self.ahead.begin(index + 1);
        Ok(Some(layer))
    }
}

/// How much of a layer is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// All.
    Whole,
    /// All but the numbers of large matrices: what states look like, and the vectors by which models differ.
    Outline,
}

impl Attention {
    pub(crate) fn is_sliding(&self) -> bool {
        matches!(self.compressed, Compressed::Sliding)
    }

    pub(crate) fn has_indexer(&self) -> bool {
        matches!(self.compressed, Compressed::Csa { .. })
    }

    pub(crate) fn geometry(&self, kv: KvFormat) -> LayerGeometry {
        let compressed = match &self.compressed {
            Compressed::Sliding => None,
            Compressed::Hca { compressor } => Some((compressor, None)),
            Compressed::Csa { compressor, indexer } => {
                Some((compressor, Some((indexer.compressor.row_len(), indexer.codec(kv).row_bytes()))))
            }
        };
        LayerGeometry {
            entry_bytes: self.codec(kv).row_bytes(),
            compressed: compressed.map(|(compressor, index)| CompressedGeometry {
                ratio: compressor.shape.ratio,
                overlap: compressor.shape.overlap,
                pending_len: compressor.row_len(),
                index,
            }),
        }
    }
}

fn tables(config: &ModelConfig) -> Tables {
    let dim = config.qk_rope_head_dim;
    let compressed = match &config.rope_scaling {
        Some(scaling) => RopeTable::yarn(
            config.compress_rope_theta,
            dim,
            scaling.factor,
            scaling.original_max_position_embeddings,
            scaling.beta_fast,
            scaling.beta_slow,
        ),
        None => RopeTable::plain(config.compress_rope_theta, dim),
    };
    Tables { sliding: Arc::new(RopeTable::plain(config.rope_theta, dim)), compressed: Arc::new(compressed) }
}

fn hc_config(config: &ModelConfig) -> HcConfig {
    HcConfig {
        hc_mult: config.hc_mult,
        sinkhorn_iters: config.hc_sinkhorn_iters,
        hc_eps: config.hc_eps,
        norm_eps: config.rms_norm_eps,
    }
}

/// The checkpoint's name of the embedding.
pub(crate) const EMBEDDING: &str = "embed.weight";
/// The checkpoint's name of the LM head.
pub(crate) const HEAD: &str = "head.weight";

/// The layer of a tensor, the MTP block being the last; `None` for what is outside of layers.
pub(crate) fn layer_of(name: &str, config: &ModelConfig) -> Option<usize> {
    if let Some(rest) = name.strip_prefix("layers.") {
        return rest.split('.').next()?.parse().ok();
    }
    let part = name.strip_prefix("mtp.0.")?;
    let is_layer = ["attn", "ffn", "hc_attn", "hc_ffn"].iter().any(|prefix| part.starts_with(prefix));
    is_layer.then_some(config.num_hidden_layers)
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    compute: &'a Compute,
    config: &'a ModelConfig,
    tables: &'a Tables,
    /// Where routed experts come from, if they are not all loaded.
    store: Option<&'a Arc<ExpertStore>>,
    depth: Depth,
}

impl Loader<'_> {
    fn matrix(&self, name: &str) -> Result<WeightMatrix, ModelError> {
        Ok(match self.depth {
            Depth::Whole => self.checkpoint.matrix(name)?,
            Depth::Outline => self.checkpoint.matrix_outline(name)?,
        })
    }

    /// A matrix that every token meets: packed, if it is FP8.
    fn dense(&self, name: &str) -> Result<WeightMatrix, ModelError> {
        let stored = self.matrix(name)?;
        Ok(match stored.format() {
            WeightFormat::Fp8 { .. } => self.packed(name, &stored),
            _ => stored,
        })
    }

    /// The embedding, in its file where experts are as well: a token needs a row of it.
    fn embedding(&self) -> Result<Embedding, ModelError> {
        let stored = if self.store.is_some() { self.checkpoint.stored_rows(EMBEDDING)? } else { None };
        Ok(match stored {
            Some(rows) => Embedding::Stored(rows),
            None => Embedding::Loaded(self.matrix(EMBEDDING)?),
        })
    }

    /// The LM head: packed, if it is BF16 or FP8.
    fn head(&self) -> Result<WeightMatrix, ModelError> {
        let stored = self.matrix(HEAD)?;
        Ok(match stored.format() {
            WeightFormat::Fp8 { .. } | WeightFormat::Bf16(_) => self.packed(HEAD, &stored),
            _ => stored,
        })
    }

    fn packed(&self, name: &str, stored: &WeightMatrix) -> WeightMatrix {
        let packed = pack(self.compute, stored);
        self.checkpoint.release(name);
        packed
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.checkpoint.vector_f32(name)?)
    }

    fn layer(&self, id: LayerId) -> Result<Layer, ModelError> {
        let prefix = if id == self.config.mtp_layer() { "mtp.0".to_owned() } else { format!("layers.{id}") };
        Ok(Layer {
            hc_attn: self.connection(&format!("{prefix}.hc_attn"))?,
            attn_norm: self.vector(&format!("{prefix}.attn_norm.weight"))?,
            attn: self.attention(id, &format!("{prefix}.attn"))?,
            hc_ffn: self.connection(&format!("{prefix}.hc_ffn"))?,
            ffn_norm: self.vector(&format!("{prefix}.ffn_norm.weight"))?,
            ffn: self.moe(id, &format!("{prefix}.ffn"))?,
        })
    }

    fn connection(&self, prefix: &str) -> Result<Connection, ModelError> {
        let r#fn = self.checkpoint.matrix(&format!("{prefix}_fn"))?;
        let base = self.vector(&format!("{prefix}_base"))?;
        let scale = self.vector(&format!("{prefix}_scale"))?;
        let name = || format!("{prefix}_fn");
        let hc = HyperConnection::new(&r#fn, base, scale, self.config.hc_mult)
            .map_err(|source| ModelError::Parts { name: name(), source })?;
        Ok(Connection { hc, config: hc_config(self.config) })
    }

    fn hc_head(&self, prefix: &str) -> Result<HcHead, ModelError> {
        let r#fn = self.checkpoint.matrix(&format!("{prefix}hc_head_fn"))?;
        let base = self.vector(&format!("{prefix}hc_head_base"))?;
        let scale = self.vector(&format!("{prefix}hc_head_scale"))?;
        HcHead::new(&r#fn, base, scale, self.config.hc_mult)
            .map_err(|source| ModelError::Parts { name: format!("{prefix}hc_head_fn"), source })
    }

    fn attention(&self, id: LayerId, prefix: &str) -> Result<Attention, ModelError> {
        let config = self.config;
        let kind = self.config.layer_kind(id);
        let table = if kind == LayerKind::Sliding { &self.tables.sliding } else { &self.tables.compressed };
        Ok(Attention {
            wq_a: self.dense(&format!("{prefix}.wq_a.weight"))?,
            q_norm: self.vector(&format!("{prefix}.q_norm.weight"))?,
            wq_b: self.dense(&format!("{prefix}.wq_b.weight"))?,
            wkv: self.dense(&format!("{prefix}.wkv.weight"))?,
            kv_norm: self.vector(&format!("{prefix}.kv_norm.weight"))?,
            wo_a: self.dense(&format!("{prefix}.wo_a.weight"))?,
            wo_b: self.dense(&format!("{prefix}.wo_b.weight"))?,
            attn_sink: self.vector(&format!("{prefix}.attn_sink"))?,
            compressed: self.compressed(kind, prefix)?,
            table: Arc::clone(table),
            num_attention_heads: config.num_attention_heads,
            head_dim: config.head_dim,
            qk_rope_head_dim: config.qk_rope_head_dim,
            o_groups: config.o_groups,
            sliding_window: config.sliding_window,
            rms_norm_eps: config.rms_norm_eps,
        })
    }

    fn compressed(&self, kind: LayerKind, prefix: &str) -> Result<Compressed, ModelError> {
        let shape = CompressorShape {
            ratio: kind.ratio(),
            overlap: kind == LayerKind::Csa,
            dim: self.config.head_dim,
        };
        let compressor = || self.compressor(&format!("{prefix}.compressor"), shape);
        Ok(match kind {
            LayerKind::Sliding => Compressed::Sliding,
            LayerKind::Hca => Compressed::Hca { compressor: compressor()? },
            LayerKind::Csa => {
                Compressed::Csa { compressor: compressor()?, indexer: Box::new(self.indexer(prefix, shape)?) }
            }
        })
    }

    fn compressor(&self, prefix: &str, shape: CompressorShape) -> Result<Compressor, ModelError> {
        Ok(Compressor {
            wkv: self.matrix(&format!("{prefix}.wkv.weight"))?,
            wgate: self.matrix(&format!("{prefix}.wgate.weight"))?,
            ape: self.vector(&format!("{prefix}.ape"))?,
            norm: self.vector(&format!("{prefix}.norm.weight"))?,
            shape,
            rms_norm_eps: self.config.rms_norm_eps,
        })
    }

    fn indexer(&self, prefix: &str, shape: CompressorShape) -> Result<Indexer, ModelError> {
        let config = self.config;
        let shape = CompressorShape { dim: config.index_head_dim, ..shape };
        Ok(Indexer {
            wq_b: self.dense(&format!("{prefix}.indexer.wq_b.weight"))?,
            weights_proj: self.matrix(&format!("{prefix}.indexer.weights_proj.weight"))?,
            compressor: self.compressor(&format!("{prefix}.indexer.compressor"), shape)?,
            index_n_heads: config.index_n_heads,
            index_head_dim: config.index_head_dim,
            index_topk: config.index_topk,
        })
    }

    fn moe(&self, id: LayerId, prefix: &str) -> Result<Moe, ModelError> {
        let config = self.config;
        let selection = if config.is_hash(id) {
            let name = format!("{prefix}.gate.tid2eid");
            let table = self.checkpoint.expert_table(&name)?;
            Selection::Hash { tid2eid: Matrix::from_vec(table, config.num_experts_per_tok) }
        } else {
            Selection::Score { bias: self.vector(&format!("{prefix}.gate.bias"))? }
        };
        Ok(Moe {
            gate: Gate { weight: self.matrix(&format!("{prefix}.gate.weight"))?, selection },
            experts: self.experts(id)?,
            shared_experts: ExpertWeights {
                w1: self.dense(&format!("{prefix}.shared_experts.w1.weight"))?,
                w3: self.dense(&format!("{prefix}.shared_experts.w3.weight"))?,
                w2: self.dense(&format!("{prefix}.shared_experts.w2.weight"))?,
            },
            num_experts_per_tok: config.num_experts_per_tok,
            routed_scaling_factor: config.routed_scaling_factor,
            swiglu_limit: config.swiglu_limit,
        })
    }

    fn experts(&self, layer: LayerId) -> Result<Experts, ModelError> {
        Ok(match self.store {
            None => Experts::Loaded(self.checkpoint.experts(layer)?.iter().map(weights_of).collect()),
            Some(store) => {
                Experts::Stored { store: Arc::clone(store), layer, n_experts: self.config.n_routed_experts }
            }
        })
    }

    fn mtp(&self) -> Result<Mtp, ModelError> {
        // What is not its layer stays in memory.
        let whole = Loader { depth: Depth::Whole, ..*self };
        Ok(Mtp {
            e_proj: whole.dense("mtp.0.e_proj.weight")?,
            h_proj: whole.dense("mtp.0.h_proj.weight")?,
            enorm: self.vector("mtp.0.enorm.weight")?,
            hnorm: self.vector("mtp.0.hnorm.weight")?,
            layer: self.layer(self.config.mtp_layer())?,
            hc_head: self.hc_head("mtp.0.")?,
            hc_config: hc_config(self.config),
            norm: self.vector("mtp.0.norm.weight")?,
        })
    }
}
