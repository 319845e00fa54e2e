//! A checkpoint whose tensors have more than 2^31 elements is read where they are. Its file is full size and almost all
//! holes: it takes no disk, and what is not looked at no memory.

#![cfg(unix)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cuvier_kernels::{Activations, embed, gemm};
use cuvier_model::{Compute, Isa, Matrix};
use cuvier_tensor::{Dtype, Tensor, WeightFormat, WeightMatrix};
use cuvier_types::LayerId;
use cuvier_weights::{Checkpoint, ModelConfig, Part, Precision, StoredTensor, inventory};
use serde_json::{Map, json};

/// The last rows of a tensor, which are the only ones that are not zeros.
const ROWS: usize = 3;

/// One sliding layer. The embedding, the head, and the experts stacked as transformers has them are beyond 2^31.
fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: (1 << 19) + 64,
        hidden_size: 4096,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        head_dim: 32,
        qk_rope_head_dim: 16,
        q_lora_rank: 32,
        o_groups: 1,
        o_lora_rank: 32,
        compress_ratios: vec![0],
        n_routed_experts: 24,
        num_experts_per_tok: 2,
        moe_intermediate_size: 1 << 15,
        num_hash_layers: 0,
        num_nextn_predict_layers: 0,
        ..ModelConfig::flash()
    }
}

/// What the file holds: the tensors of the config, the matrices of all experts stacked to two.
fn stored(config: &ModelConfig) -> Vec<StoredTensor> {
    let own = inventory(config, false).iter().filter(|spec| spec.part != Part::RoutedExperts);
    let mut tensors: Vec<_> = own.map(|spec| spec.stored(Precision::Bf16).0).collect();
    let (experts, hidden, inner) =
        (config.n_routed_experts, config.hidden_size, config.moe_intermediate_size);
    for (name, shape) in
        [("gate_up_proj", [experts, 2 * inner, hidden]), ("down_proj", [experts, hidden, inner])]
    {
        tensors.push(StoredTensor {
            name: format!("model.layers.0.mlp.experts.{name}"),
            dtype: Dtype::BF16,
            shape: shape.to_vec(),
        });
    }
    tensors
}

/// Element `column` of the row `row` before the last: a small number that BF16 has.
fn number(row: usize, column: usize) -> f32 {
    ((column * 7 + row * 31) % 64) as f32 - 32.0
}

fn bf16(row: usize, cols: usize) -> Vec<u8> {
    (0..cols).flat_map(|column| ((number(row, column).to_bits() >> 16) as u16).to_le_bytes()).collect()
}

/// Writes the checkpoint; the last rows of every BF16 matrix are [`number`]s.
fn write(folder: &Path, config: &ModelConfig) -> std::io::Result<()> {
    let mut header = Map::new();
    let mut end = 0;
    let mut rows = Vec::new();
    for StoredTensor { name, dtype, shape } in stored(config) {
        let cols = shape[shape.len() - 1];
        let start = end;
        end += shape.iter().product::<usize>() * dtype.size();
        if shape.len() > 1 && dtype == Dtype::BF16 {
            rows.extend((0..ROWS).map(|row| (end - (row + 1) * cols * 2, bf16(row, cols))));
        }
        header.insert(name, json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::Value::Object(header).to_string();
    let file = File::create(folder.join("model.safetensors"))?;
    file.write_all_at(&(header.len() as u64).to_le_bytes(), 0)?;
    file.write_all_at(header.as_bytes(), 8)?;
    let data = 8 + header.len();
    file.set_len((data + end) as u64)?;
    for (offset, bytes) in rows {
        file.write_all_at(&bytes, (data + offset) as u64)?;
    }
    std::fs::write(folder.join("config.json"), config.to_json())
}

/// The last rows of `tensor`.
fn last(tensor: &Tensor, rows: usize) -> WeightMatrix {
    let end = tensor.shape()[0];
    WeightMatrix::new(WeightFormat::Bf16(tensor.slice_rows(end - rows..end))).expect("a matrix")
}

/// Products of one token with the last rows of `tensor`, and what they must be.
fn check_products(c: &Compute, tensor: &Tensor, what: &str) {
    let w = last(tensor, ROWS + 1);
    let cols = w.cols();
    let x = Matrix::from_vec((0..cols).map(|column| (column % 5) as f32).collect(), cols);
    let mut out = Matrix::zeros(1, w.rows());
    gemm(c, &Activations::new(x.view()), &w, out.view_mut());
    for (i, &got) in out.data().iter().rev().enumerate() {
        let want: f32 = (0..cols).map(|column| number(i, column) * (column % 5) as f32).sum();
        assert_eq!(got, if i < ROWS { want } else { 0.0 }, "{what}, {i} rows before the last");
    }
}

#[test]
fn tensors_of_more_than_two_to_the_31_elements_are_read_where_they_are() {
    let folder = tempfile::tempdir().expect("a folder for the checkpoint");
    let config = config();
    write(folder.path(), &config).expect("the system has files with holes");
    let checkpoint = Checkpoint::open(folder.path()).expect("it opens");
    let c = Compute::new(Isa::best(), std::num::NonZeroUsize::MIN).expect("one thread");

    let table = checkpoint.matrix("embed.weight").expect("the embedding");
    assert!(table.rows() * table.cols() > 1 << 31);
    let end = config.vocab_size as u32;
    let mut out = Matrix::zeros(3, table.cols());
    embed(&c, &[end - 1, end - ROWS as u32, 0], &table, out.view_mut());
    for (column, &got) in out.row(0).iter().enumerate() {
        assert_eq!(got, number(0, column), "column {column}");
        assert_eq!(out.row(1)[column], number(ROWS - 1, column), "column {column}");
    }
    assert!(out.row(2).iter().all(|&x| x == 0.0));

    check_products(&c, &checkpoint.tensor("head.weight").expect("the head"), "head");
    let last_expert = config.n_routed_experts - 1;
    for w in ["w2", "w3"] {
        let name = format!("layers.0.ffn.experts.{last_expert}.{w}.weight");
        check_products(&c, &checkpoint.tensor(&name).expect("an expert"), &name);
    }
    let experts = checkpoint.experts(LayerId(0)).expect("experts");
    assert!(experts.len() * experts[0].w2.rows() * experts[0].w2.cols() > 1 << 31);
    let WeightFormat::Bf16(w1) = experts[last_expert].w1.format() else { panic!("BF16") };
    let before_w3 = w1.slice_rows(w1.shape()[0] - ROWS..w1.shape()[0]);
    assert!(before_w3.bytes().iter().all(|&byte| byte == 0));
}
