//! Which tensors a config implies: the one table that loading, writing, checking and counting share.

use cuvier_tensor::Dtype;
use cuvier_tensor::formats::{FP4_BLOCK, FP8_WEIGHT_BLOCK};
use cuvier_types::{ExpertKey, LayerId};

use crate::{ExpertDtype, LayerKind, ModelConfig, QuantizationConfig};

/// How the official release stores a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// A matrix in E4M3 with one scale per 128x128 block.
    Fp8,
    /// A matrix of a routed expert: packed E2M1 with one scale per 32 columns, or what the release uses for
    /// experts instead.
    Expert,
    /// BF16.
    Bf16,
    /// F32.
    F32,
    /// A table of expert ids.
    I64,
}

/// What a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// `embed.weight`.
    Embedding,
    /// Projections, norms and sinks of attention.
    Attention,
    /// Compressors of the main history.
    Compressor,
    /// The indexer and its compressor.
    Indexer,
    /// Router weight, bias and table.
    Router,
    /// Routed experts.
    RoutedExperts,
    /// Shared experts.
    SharedExpert,
    /// Hyper-connections, those before the LM head included.
    HyperConnections,
    /// `head.weight` and the norm before it.
    Head,
    /// Everything of the MTP block.
    Mtp,
}

/// One tensor that a config implies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its official name.
    pub name: String,
    /// How the official release stores it.
    pub family: Family,
    /// Logical elements per axis; `[out, in]` for matrices.
    pub shape: Vec<usize>,
    /// What it belongs to.
    pub part: Part,
}

/// A tensor as it lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name: that of the spec, or of its companion `.scale`.
    pub name: String,
    /// How its numbers are stored.
    pub dtype: Dtype,
    /// Stored elements per axis.
    pub shape: Vec<usize>,
}

/// A way to store a whole checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// As released: FP8 matrices, FP4 experts, E8M0 scales.
    Official,
    /// As the Base releases: FP8 matrices, FP8 experts whose scales are F32.
    Base,
    /// Matrices and norms in BF16; what is F32 officially stays so.
    Bf16,
    /// Everything in F32.
    F32,
}

impl Precision {
    /// Makes `config` say that its checkpoint is stored like this.
    pub(crate) fn describe(self, config: &mut ModelConfig) {
        config.expert_dtype = match self {
            Self::Official => Some(ExpertDtype::Fp4),
            Self::Base => Some(ExpertDtype::Fp8),
            Self::Bf16 | Self::F32 => None,
        };
        config.quantization_config =
            config.expert_dtype.map(|_| QuantizationConfig { weight_block_size: [128, 128] });
    }
}

/// The tensors of `config`, with those of the MTP block if `mtp`.
pub fn inventory(config: &ModelConfig, mtp: bool) -> Inventory<'_> {
    Inventory { config, mtp }
}

/// The tensors that a config implies, made layer by layer so that no config makes a huge list.
#[derive(Clone, Copy, Debug)]
pub struct Inventory<'a> {
    config: &'a ModelConfig,
    mtp: bool,
}

impl<'a> Inventory<'a> {
    /// Every tensor: embedding, layers in order, final norm and head, MTP block.
    pub fn iter(self) -> impl Iterator<Item = TensorSpec> + use<'a> {
        let config = self.config;
        let layers = config.layers().flat_map(move |layer| layer_specs(config, layer));
        let mtp = self.mtp.then(|| mtp_specs(config)).into_iter().flatten();
        embedding(config).into_iter().chain(layers).chain(head(config)).chain(mtp)
    }

    /// The tensors in groups as releases shard them: embedding, one group per layer, final norm and head, MTP
    /// block.
    pub fn groups(self) -> impl Iterator<Item = Vec<TensorSpec>> + use<'a> {
        let config = self.config;
        let layers = config.layers().map(move |layer| layer_specs(config, layer));
        let mtp = self.mtp.then(|| mtp_specs(config)).into_iter();
        std::iter::once(embedding(config)).chain(layers).chain(std::iter::once(head(config))).chain(mtp)
    }
}

/// The name prefix of `layer`: `layers.N`, or `mtp.0` for the layer after the backbone.
pub(crate) fn layer_prefix(config: &ModelConfig, layer: LayerId) -> String {
    if layer == config.mtp_layer() { "mtp.0".to_owned() } else { format!("layers.{layer}") }
}

/// The official names of the matrices of a routed expert: gate, up, down.
pub(crate) fn expert_names(config: &ModelConfig, key: ExpertKey) -> [String; 3] {
    let prefix = layer_prefix(config, key.layer);
    ["w1", "w3", "w2"].map(|w| format!("{prefix}.ffn.experts.{}.{w}.weight", key.expert.0))
}

/// The name of the companion that holds the scales of `weight`.
pub(crate) fn scale_name(weight: &str) -> String {
    format!("{}.scale", weight.strip_suffix(".weight").unwrap_or(weight))
}

impl TensorSpec {
    /// How it lies in a file: the tensor, and its scales where the format has them.
    pub fn stored(&self, precision: Precision) -> (StoredTensor, Option<StoredTensor>) {
        let plain =
            |dtype| (StoredTensor { name: self.name.clone(), dtype, shape: self.shape.clone() }, None);
        match (precision, self.family) {
            (_, Family::I64) => plain(Dtype::I64),
            (Precision::F32, _) | (_, Family::F32) => plain(Dtype::F32),
            (Precision::Bf16, _) | (_, Family::Bf16) => plain(Dtype::BF16),
            (_, Family::Fp8) => self.scaled(Dtype::F8E4M3, Dtype::F8E8M0),
            (Precision::Official, Family::Expert) => self.scaled(Dtype::I8, Dtype::F8E8M0),
            (Precision::Base, Family::Expert) => self.scaled(Dtype::F8E4M3, Dtype::F32),
        }
    }

    /// Bytes in a file, scales included.
    pub fn stored_bytes(&self, precision: Precision) -> usize {
        let (weight, scale) = self.stored(precision);
        weight.bytes() + scale.map_or(0, |scale| scale.bytes())
    }

    /// Numbers.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn scaled(&self, dtype: Dtype, scale_dtype: Dtype) -> (StoredTensor, Option<StoredTensor>) {
        let (weight, scale) = scaled_shapes(&self.shape, dtype);
        (
            StoredTensor { name: self.name.clone(), dtype, shape: weight },
            Some(StoredTensor { name: scale_name(&self.name), dtype: scale_dtype, shape: scale }),
        )
    }
}

/// The stored shapes of a matrix `[out, in]` of `dtype` and of its scales.
pub(crate) fn scaled_shapes(shape: &[usize], dtype: Dtype) -> (Vec<usize>, Vec<usize>) {
    let (out, cols) = match *shape {
        [out, cols] => (out, cols),
        // Only matrices are asked about; anything else has no scales that could fit.
        _ => (0, 0),
    };
    match dtype {
        Dtype::I8 => (vec![out, cols / 2], vec![out, cols / FP4_BLOCK]),
        _ => (vec![out, cols], vec![out.div_ceil(FP8_WEIGHT_BLOCK), cols.div_ceil(FP8_WEIGHT_BLOCK)]),
    }
}

impl StoredTensor {
    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Specs of one place in the model: names under a prefix.
struct Specs {
    prefix: String,
    specs: Vec<TensorSpec>,
}

impl Specs {
    fn add(&mut self, part: Part, family: Family, name: &str, shape: &[usize]) {
        let dot = if self.prefix.is_empty() { "" } else { "." };
        let name = format!("{}{dot}{name}", self.prefix);
        self.specs.push(TensorSpec { name, family, shape: shape.to_vec(), part });
    }
}

fn embedding(c: &ModelConfig) -> Vec<TensorSpec> {
    let mut specs = Specs { prefix: String::new(), specs: Vec::new() };
    specs.add(Part::Embedding, Family::Bf16, "embed.weight", &[c.vocab_size, c.hidden_size]);
    specs.specs
}

fn head(c: &ModelConfig) -> Vec<TensorSpec> {
    let mut specs = Specs { prefix: String::new(), specs: Vec::new() };
    hc_head(c, &mut specs);
    specs.add(Part::Head, Family::Bf16, "norm.weight", &[c.hidden_size]);
    specs.add(Part::Head, Family::Bf16, "head.weight", &[c.vocab_size, c.hidden_size]);
    specs.specs
}

fn hc_head(c: &ModelConfig, specs: &mut Specs) {
    let hc = Part::HyperConnections;
    specs.add(hc, Family::F32, "hc_head_fn", &[c.hc_mult, c.hc_mult * c.hidden_size]);
    specs.add(hc, Family::F32, "hc_head_base", &[c.hc_mult]);
    specs.add(hc, Family::F32, "hc_head_scale", &[1]);
}

/// Every tensor of one layer of the backbone.
pub(crate) fn layer_specs(c: &ModelConfig, layer: LayerId) -> Vec<TensorSpec> {
    let mut specs = Specs { prefix: layer_prefix(c, layer), specs: Vec::new() };
    block(c, layer, &mut specs);
    specs.specs
}

/// Every tensor of the MTP block: an ordinary layer without compressed history, fed by two projections, and a
/// head of its own except for the vocabulary matrices.
pub(crate) fn mtp_specs(c: &ModelConfig) -> Vec<TensorSpec> {
    let mut specs = Specs { prefix: layer_prefix(c, c.mtp_layer()), specs: Vec::new() };
    let d = c.hidden_size;
    block(c, c.mtp_layer(), &mut specs);
    specs.add(Part::Mtp, Family::Fp8, "e_proj.weight", &[d, d]);
    specs.add(Part::Mtp, Family::Fp8, "h_proj.weight", &[d, d]);
    for norm in ["enorm.weight", "hnorm.weight", "norm.weight"] {
        specs.add(Part::Mtp, Family::Bf16, norm, &[d]);
    }
    hc_head(c, &mut specs);
    for spec in &mut specs.specs {
        spec.part = Part::Mtp;
    }
    specs.specs
}

fn block(c: &ModelConfig, layer: LayerId, specs: &mut Specs) {
    let d = c.hidden_size;
    let hc_rows = (2 + c.hc_mult) * c.hc_mult;
    for part in ["attn", "ffn"] {
        let owner = if part == "attn" { Part::Attention } else { Part::Router };
        specs.add(owner, Family::Bf16, &format!("{part}_norm.weight"), &[d]);
        let hc = Part::HyperConnections;
        specs.add(hc, Family::F32, &format!("hc_{part}_fn"), &[hc_rows, c.hc_mult * d]);
        specs.add(hc, Family::F32, &format!("hc_{part}_base"), &[hc_rows]);
        specs.add(hc, Family::F32, &format!("hc_{part}_scale"), &[3]);
    }
    attention(c, c.layer_kind(layer), specs);
    ffn(c, layer, specs);
}

fn attention(c: &ModelConfig, kind: LayerKind, specs: &mut Specs) {
    let (d, q) = (c.hidden_size, c.q_lora_rank);
    let heads = c.num_attention_heads * c.head_dim;
    let groups = c.o_groups * c.o_lora_rank;
    let part = Part::Attention;
    specs.add(part, Family::Fp8, "attn.wq_a.weight", &[q, d]);
    specs.add(part, Family::Bf16, "attn.q_norm.weight", &[q]);
    specs.add(part, Family::Fp8, "attn.wq_b.weight", &[heads, q]);
    specs.add(part, Family::Fp8, "attn.wkv.weight", &[c.head_dim, d]);
    specs.add(part, Family::Bf16, "attn.kv_norm.weight", &[c.head_dim]);
    // One block of rows per group of heads, each applied to its own group.
    specs.add(part, Family::Fp8, "attn.wo_a.weight", &[groups, heads / c.o_groups]);
    specs.add(part, Family::Fp8, "attn.wo_b.weight", &[d, groups]);
    specs.add(part, Family::F32, "attn.attn_sink", &[c.num_attention_heads]);
    if kind == LayerKind::Sliding {
        return;
    }
    compressor(c, kind, Part::Compressor, "attn.compressor", c.head_dim, specs);
    if kind == LayerKind::Csa {
        let part = Part::Indexer;
        specs.add(part, Family::Fp8, "attn.indexer.wq_b.weight", &[c.index_n_heads * c.index_head_dim, q]);
        specs.add(part, Family::Bf16, "attn.indexer.weights_proj.weight", &[c.index_n_heads, d]);
        compressor(c, kind, part, "attn.indexer.compressor", c.index_head_dim, specs);
    }
}

/// Blocks of ratio 4 overlap: features for the block itself and for the next one, twice the width.
fn compressor(c: &ModelConfig, kind: LayerKind, part: Part, name: &str, dim: usize, specs: &mut Specs) {
    let width = if kind == LayerKind::Csa { 2 * dim } else { dim };
    specs.add(part, Family::F32, &format!("{name}.ape"), &[kind.ratio(), width]);
    specs.add(part, Family::Bf16, &format!("{name}.wkv.weight"), &[width, c.hidden_size]);
    specs.add(part, Family::Bf16, &format!("{name}.wgate.weight"), &[width, c.hidden_size]);
    specs.add(part, Family::Bf16, &format!("{name}.norm.weight"), &[dim]);
}

fn ffn(c: &ModelConfig, layer: LayerId, specs: &mut Specs) {
    let (d, inner) = (c.hidden_size, c.moe_intermediate_size);
    specs.add(Part::Router, Family::Bf16, "ffn.gate.weight", &[c.n_routed_experts, d]);
    if c.is_hash(layer) {
        let shape = [c.vocab_size, c.num_experts_per_tok];
        specs.add(Part::Router, Family::I64, "ffn.gate.tid2eid", &shape);
    } else {
        specs.add(Part::Router, Family::F32, "ffn.gate.bias", &[c.n_routed_experts]);
    }
    for (matrix, shape) in [("w1", [inner, d]), ("w2", [d, inner]), ("w3", [inner, d])] {
        let name = format!("ffn.shared_experts.{matrix}.weight");
        specs.add(Part::SharedExpert, Family::Fp8, &name, &shape);
    }
    for expert in 0..c.n_routed_experts {
        for (matrix, shape) in [("w1", [inner, d]), ("w2", [d, inner]), ("w3", [inner, d])] {
            let name = format!("ffn.experts.{expert}.{matrix}.weight");
            specs.add(Part::RoutedExperts, Family::Expert, &name, &shape);
        }
    }
}
