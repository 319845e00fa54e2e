//! What the weights of a checkpoint take in memory, known before they are loaded.

use cuvier_tensor::{Int8Panel, WeightFormat, panels_of};
use cuvier_weights::{Checkpoint, Drafter, Family, inventory};

use crate::Transformer;
use crate::load::HEAD;

impl Transformer {
    /// Bytes that the weights of `checkpoint` take once they are loaded: what is packed in its packed form, everything
    /// else as it lies in the files, tensors that are never read included.
    pub fn weight_bytes(checkpoint: &Checkpoint) -> u64 {
        let mtp = checkpoint.drafter() == Drafter::Mtp;
        let mut bytes = checkpoint.tensor_bytes();
        for spec in inventory(checkpoint.config(), mtp).iter() {
            let is_head = spec.name == HEAD;
            if !is_head && spec.family != Family::Fp8 {
                continue;
            }
            let Ok(weight) = checkpoint.matrix(&spec.name) else { continue };
            let is_packed = match weight.format() {
                WeightFormat::Fp8 { .. } => true,
                WeightFormat::Bf16(_) => is_head,
                _ => false,
            };
            if is_packed {
                let packed = panels_of(weight.rows(), weight.cols()) * size_of::<Int8Panel>();
                bytes = bytes - weight.bytes() as u64 + packed as u64;
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::path::Path;

    use cuvier_kernels::{Compute, Isa};
    use cuvier_tensor::WeightMatrix;

    use super::*;
    use crate::attention::Compressed;

    /// The matrices of a model that are packed.
    fn packed(model: &Transformer) -> Vec<&WeightMatrix> {
        let mtp = model.mtp.iter();
        let mut all: Vec<_> = mtp.clone().flat_map(|mtp| [&mtp.e_proj, &mtp.h_proj]).collect();
        all.push(&model.head);
        for layer in model.layers.iter().chain(mtp.map(|mtp| &mtp.layer)) {
            let (attn, shared) = (&layer.attn, &layer.ffn.shared_experts);
            all.extend([&attn.wq_a, &attn.wq_b, &attn.wkv, &attn.wo_a, &attn.wo_b]);
            all.extend([&shared.w1, &shared.w3, &shared.w2]);
            if let Compressed::Csa { indexer, .. } = &attn.compressed {
                all.push(&indexer.wq_b);
            }
        }
        all
    }

    #[test]
    fn what_is_packed_counts_as_packed_and_all_else_as_stored() {
        let calf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
        let checkpoint = Checkpoint::open(&calf).expect("the calf opens");
        let compute = Compute::new(Isa::best(), NonZeroUsize::MIN).expect("one thread");
        let model = Transformer::load(&checkpoint, &compute).expect("it loads");
        let mut want = checkpoint.tensor_bytes() as i64;
        for weight in packed(&model) {
            assert!(matches!(weight.format(), WeightFormat::Int8(_)));
            let (rows, cols) = (weight.rows(), weight.cols());
            let fp8 = rows * cols + rows.div_ceil(128) * cols.div_ceil(128);
            let stored = if std::ptr::eq(weight, &raw const model.head) { 2 * rows * cols } else { fp8 };
            want += weight.bytes() as i64 - stored as i64;
        }
        assert_eq!(Transformer::weight_bytes(&checkpoint) as i64, want);
    }
}
