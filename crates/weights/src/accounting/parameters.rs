//! Numbers, tensors and bytes, per part of the model.

use std::collections::BTreeMap;

use cuvier_tensor::Dtype;

use crate::{Family, ModelConfig, Part, Precision, inventory};

/// What a checkpoint is made of.
///
/// Expert tables are tensors with bytes but count no parameters: they are not learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The backbone.
    pub total: u64,
    /// Of the backbone, those that take part in one token: experts not chosen do not.
    pub active: u64,
    /// Of the active ones, those that are not rows of the embedding, of which a token uses one.
    pub active_without_embedding: u64,
    /// The MTP block; 0 where it was not counted.
    pub mtp: u64,
    /// Tensors in files, scales included.
    pub tensors: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Per part of the model.
    pub parts: BTreeMap<Part, PartCount>,
    /// Tensors per stored dtype.
    pub dtypes: BTreeMap<&'static str, u64>,
    /// Bytes of one routed expert.
    pub expert_bytes: u64,
    /// Bytes of weights that one decoded token reads: all but the embedding, the MTP block and experts not
    /// chosen.
    pub read_bytes_per_token: u64,
}

/// One part of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartCount {
    /// Numbers.
    pub parameters: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// Stored tensors.
    pub tensors: u64,
}

/// Counts the inventory of `config`.
pub fn parameters(config: &ModelConfig, precision: Precision, mtp: bool) -> Parameters {
    let mut parts: BTreeMap<Part, PartCount> = BTreeMap::new();
    let mut dtypes: BTreeMap<&'static str, u64> = BTreeMap::new();
    for spec in inventory(config, mtp).iter() {
        let (weight, scale) = spec.stored(precision);
        let count = parts.entry(spec.part).or_default();
        if spec.family != Family::I64 {
            count.parameters += spec.elements() as u64;
        }
        for tensor in std::iter::once(weight).chain(scale) {
            count.bytes += tensor.bytes() as u64;
            count.tensors += 1;
            *dtypes.entry(Dtype::name(tensor.dtype)).or_default() += 1;
        }
    }
    let of = |part: Part| parts.get(&part).copied().unwrap_or_default();
    let all = |count: fn(&PartCount) -> u64| parts.values().map(count).sum::<u64>();
    let (routed, embedding, mtp_part) = (of(Part::RoutedExperts), of(Part::Embedding), of(Part::Mtp));
    let experts = (config.n_routed_experts * config.num_hidden_layers) as u64;
    let chosen = (config.num_experts_per_tok * config.num_hidden_layers) as u64;
    let total = all(|count| count.parameters) - mtp_part.parameters;
    let active = total - routed.parameters + routed.parameters / experts * chosen;
    let expert_bytes = routed.bytes / experts;
    let bytes = all(|count| count.bytes);
    Parameters {
        total,
        active,
        active_without_embedding: active - embedding.parameters,
        mtp: mtp_part.parameters,
        tensors: all(|count| count.tensors),
        bytes,
        expert_bytes,
        read_bytes_per_token: bytes - mtp_part.bytes - embedding.bytes - routed.bytes + expert_bytes * chosen,
        parts,
        dtypes,
    }
}
