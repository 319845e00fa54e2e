//! The same numbers without block scales.

use std::path::Path;
use std::sync::Arc;

use cuvier_tensor::formats::{
    FP4_BLOCK, FP8_WEIGHT_BLOCK, bf16_to_f32, e2m1_to_f32, e4m3_to_f32, e8m0_to_f32,
};
use cuvier_weights::Checkpoint;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Opens a checkpoint of one file with every number in F32: its products are those of f32 activations, so that it
/// must agree with references that round none.
pub fn open(folder: &Path) -> Checkpoint {
    let config = std::fs::read(folder.join("config.json")).expect("a config");
    let file = std::fs::read(folder.join("model.safetensors")).expect("one file of weights");
    let stored = SafeTensors::deserialize(&file).expect("a safetensors file");
    let tensors = stored.iter().filter(|(name, _)| !name.ends_with(".scale"));
    let plain: Vec<_> = tensors
        .map(|(name, tensor)| {
            let scale = stored.tensor(&name.replace(".weight", ".scale")).ok();
            let (dtype, shape, bytes) = match tensor.dtype() {
                Dtype::I64 => (Dtype::I64, tensor.shape().to_vec(), tensor.data().to_vec()),
                _ => {
                    let (values, shape) = values(&tensor, scale.as_ref());
                    (Dtype::F32, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
                }
            };
            (name.to_owned(), dtype, shape, bytes)
        })
        .collect();
    let views = plain.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("the shape fits"))
    });
    let bytes = safetensors::serialize(views, None).expect("it can be written");
    Checkpoint::from_parts(&config, Arc::new(bytes)).expect("the checkpoint is whole")
}

/// What the bytes of a tensor stand for, and its shape.
fn values(tensor: &TensorView<'_>, scale: Option<&TensorView<'_>>) -> (Vec<f32>, Vec<usize>) {
    let (bytes, shape) = (tensor.data(), tensor.shape().to_vec());
    let scale = |block: usize| e8m0_to_f32(scale.expect("codes have scales").data()[block]);
    let at = |i: usize| (i / shape[1], i % shape[1]);
    let values = match tensor.dtype() {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|&b| bf16_to_f32(u16::from_le_bytes(b))).collect(),
        Dtype::F8_E4M3 => {
            let per_row = shape[1].div_ceil(FP8_WEIGHT_BLOCK);
            let block = |(row, col)| row / FP8_WEIGHT_BLOCK * per_row + col / FP8_WEIGHT_BLOCK;
            bytes.iter().enumerate().map(|(i, &code)| e4m3_to_f32(code) * scale(block(at(i)))).collect()
        }
        Dtype::I8 => {
            let code = |i: usize| (bytes[i / 2] >> (4 * (i % 2))) & 15;
            let values = (0..2 * bytes.len()).map(|i| e2m1_to_f32(code(i)) * scale(i / FP4_BLOCK)).collect();
            return (values, vec![shape[0], 2 * shape[1]]);
        }
        other => panic!("{other:?} is no dtype of weights"),
    };
    (values, shape)
}
