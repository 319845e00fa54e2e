#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use cuvier_tensor::WeightFormat;
use proptest::prelude::*;

use super::rule::{Spread, Stream, table_row};
use super::*;
use crate::inventory::scale_name;
use crate::test_shapes::{folder, tiny, written};
use crate::{Checkpoint, Drafter, Family, LayerKind};

fn bits(name: &str, cols: usize, seed: u64, n: u64) -> Vec<u32> {
    let (stream, spread) = (Stream::new(name, seed), Spread::of(name, cols));
    (0..n).map(|i| spread.value(stream.at(i)).to_bits()).collect()
}

#[test]
fn the_portable_rule_gives_the_recorded_check_values() {
    assert_eq!(Stream::new("embed.weight", 0).at(0), 0x847c_3095_632f_2542);
    let embed = [0xbfa8_6dac, 0x3f20_97f5, 0x3fec_347e, 0xbf6c_d82c];
    assert_eq!(bits("embed.weight", 64, 0, 4), embed);
    let norm = [0x3f8e_04e5, 0x3f80_cf96, 0x3f88_dd55, 0x3f81_4f69];
    assert_eq!(bits("layers.2.attn.compressor.norm.weight", 32, 1, 4), norm);
    let w1 = [0x3f73_ef6e, 0x3f01_213e, 0xbdf0_75e3, 0xbe91_1414];
    assert_eq!(bits("layers.3.ffn.experts.5.w1.weight", 96, 7, 4), w1);
    assert_eq!(bits("mtp.0.hc_head_scale", 1, 3, 1), [0x3f3c_cc8e]);
    let stream = Stream::new("layers.1.ffn.gate.tid2eid", 0);
    let row = |row| table_row(stream, row, 2, &mut [0; 8]).to_vec();
    assert_eq!([row(0), row(1), row(2)], [[5, 1], [7, 2], [7, 4]]);
    let ids: Vec<u64> = (0..8).map(|i| Stream::new("ids", 0).at(i) % 320).collect();
    assert_eq!(ids, [12, 85, 115, 67, 106, 42, 35, 124]);
}

#[test]
fn f32_checkpoints_hold_the_numbers_of_the_rule() {
    let (_folder, checkpoint) = written(&tiny(), |o| (o.precision, o.seed) = (Precision::F32, 5));
    for (name, cols) in
        [("layers.2.attn.wo_b.weight", 48), ("mtp.0.e_proj.weight", 160), ("hc_head_scale", 1)]
    {
        let got: Vec<u32> = checkpoint.vector_f32(name).unwrap().iter().map(|v| v.to_bits()).collect();
        assert_eq!(got, bits(name, cols, 5, got.len() as u64), "{name}");
    }
}

#[test]
fn every_shape_precision_and_spelling_opens_and_verifies() {
    let mut shapes = vec![tiny(), ModelConfig { num_nextn_predict_layers: 0, ..tiny() }];
    shapes.push(ModelConfig { hc_mult: 2, n_routed_experts: 1, num_experts_per_tok: 1, ..tiny() });
    shapes.push(ModelConfig { num_hash_layers: 4, head_dim: 64, hidden_size: 256, ..tiny() });
    shapes.push(ModelConfig { num_hash_layers: 0, compress_ratios: vec![0; 4], ..tiny() });
    for config in &shapes {
        for precision in [Precision::Official, Precision::Base, Precision::Bf16, Precision::F32] {
            for names in [NameStyle::Official, NameStyle::Saved] {
                let (_folder, checkpoint) = written(config, |o| (o.precision, o.names) = (precision, names));
                let mtp = if config.num_nextn_predict_layers > 0 { Drafter::Mtp } else { Drafter::None };
                assert_eq!(checkpoint.drafter(), mtp);
                assert!(checkpoint.unused().is_empty() && checkpoint.ignored().is_empty());
                let report = checkpoint.verify(true, &mut |_, _| true).unwrap();
                assert_eq!(report.findings, []);
                assert_eq!(report.tensors, checkpoint.n_tensors());
                for spec in inventory(checkpoint.config(), mtp == Drafter::Mtp).iter() {
                    check_access(&checkpoint, &spec);
                }
            }
        }
    }
}

fn check_access(checkpoint: &Checkpoint, spec: &crate::TensorSpec) {
    match (spec.family, spec.shape.as_slice()) {
        (Family::I64, _) => assert_eq!(checkpoint.expert_table(&spec.name).unwrap().len(), spec.elements()),
        (_, &[rows, cols]) => {
            let matrix = checkpoint.matrix(&spec.name).unwrap();
            assert_eq!((matrix.rows(), matrix.cols()), (rows, cols), "{}", spec.name);
        }
        _ => assert_eq!(checkpoint.vector_f32(&spec.name).unwrap().len(), spec.elements()),
    }
}

#[test]
fn each_precision_stores_matrices_in_its_own_format() {
    let format = |precision| {
        let (_folder, checkpoint) = written(&tiny(), |o| o.precision = precision);
        let name = |name: &str| match checkpoint.matrix(name).unwrap().format() {
            WeightFormat::F32(_) => "f32".to_owned(),
            WeightFormat::Bf16(_) => "bf16".to_owned(),
            WeightFormat::Fp8 { scale, .. } => format!("fp8 {}", scale.dtype()),
            WeightFormat::Fp4 { scale, .. } => format!("fp4 {}", scale.dtype()),
            WeightFormat::Int8(_) => "int8".to_owned(),
        };
        [name("layers.0.attn.wq_a.weight"), name("layers.3.ffn.experts.2.w2.weight"), name("head.weight")]
    };
    assert_eq!(format(Precision::Official), ["fp8 F8_E8M0", "fp4 F8_E8M0", "bf16"]);
    assert_eq!(format(Precision::Base), ["fp8 F8_E8M0", "fp8 F32", "bf16"]);
    assert_eq!(format(Precision::Bf16), ["bf16"; 3]);
    assert_eq!(format(Precision::F32), ["f32"; 3]);
}

#[test]
fn few_layers_still_have_every_kind_that_fits() {
    let ratios = |config: ModelConfig, layers| {
        let options = SynthOptions { layers: Some(layers), ..SynthOptions::new(config) };
        let plan = options.plan().unwrap();
        (plan.compress_ratios, plan.num_hash_layers)
    };
    assert_eq!(ratios(ModelConfig::flash(), 1), (vec![4], 0));
    assert_eq!(ratios(ModelConfig::flash(), 2), (vec![4, 128], 1));
    assert_eq!(ratios(ModelConfig::flash(), 3), (vec![0, 4, 128], 2));
    assert_eq!(ratios(ModelConfig::flash(), 5), (vec![0, 0, 4, 128, 4], 3));
    assert_eq!(ratios(ModelConfig::pro(), 2), (vec![4, 128], 1));
    assert_eq!(ratios(ModelConfig::pro(), 3), (vec![128, 128, 4], 2));
    let (flash, layers) = (ModelConfig::flash(), 43);
    assert_eq!(ratios(flash.clone(), layers), (flash.compress_ratios, 3));
}

#[test]
fn options_that_cannot_be_met_are_refused_by_name() {
    let refused = |change: fn(&mut SynthOptions)| {
        let mut options = SynthOptions::new(tiny());
        change(&mut options);
        options.plan().unwrap_err().to_string()
    };
    assert_eq!(refused(|o| o.layers = Some(0)), "layers: 0 layers were asked for; the shape has 4");
    assert_eq!(refused(|o| o.layers = Some(5)), "layers: 5 layers were asked for; the shape has 4");
    assert_eq!(refused(|o| o.experts = Some(0)), "config: `n_routed_experts` is 0; it can be 1 to 4096");
    assert_eq!(refused(|o| o.vocab = Some(1)), "config: `eos_token_id` is 1, outside the vocabulary");
    let odd = refused(|o| o.config.hidden_size = 100);
    assert_eq!(odd, "precision: FP4 needs a `hidden_size` that is a multiple of 32, not 100");
}

#[test]
fn a_folder_with_anything_in_it_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let options = SynthOptions::new(tiny());
    let error = write(folder.path(), &options, &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.ends_with("writing a checkpoint: the folder is not empty"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn sparse_checkpoints_have_full_size_and_open() {
    let config = ModelConfig { hidden_size: 2048, vocab_size: 4096, ..tiny() };
    let (full, checkpoint) = written(&config, |_| ());
    let (sparse, holes) = written(&config, |o| o.sparse = true);
    let len = |folder: &Path| fs::metadata(folder.join("model.safetensors")).unwrap().len();
    assert_eq!(len(full.path()), len(sparse.path()));
    assert_eq!(checkpoint.tensor_bytes(), holes.tensor_bytes());
    assert!(holes.verify(false, &mut |_, _| true).unwrap().findings.is_empty());
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let blocks = fs::metadata(sparse.path().join("model.safetensors")).unwrap().blocks() * 512;
        assert!(blocks < len(sparse.path()) / 4, "{blocks}");
    }
}

#[test]
fn sparse_checkpoints_differ_from_dense_ones_in_nothing_but_large_tensors() {
    // The router is larger than what is written; norms, sinks and the rest are smaller.
    let config = ModelConfig { hidden_size: 1024, n_routed_experts: 160, ..tiny() };
    let (dense_folder, dense) = written(&config, |o| o.shard_bytes_max = 4_000_000);
    let (sparse_folder, sparse) = written(&config, |o| (o.shard_bytes_max, o.sparse) = (4_000_000, true));
    let names = |folder: &Path| -> Vec<_> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(dense_folder.path()), names(sparse_folder.path()));
    for name in names(dense_folder.path()) {
        let [dense, sparse] =
            [&dense_folder, &sparse_folder].map(|folder| fs::read(folder.path().join(&name)).unwrap());
        assert_eq!(dense.len(), sparse.len(), "{name:?}");
        let is_weights = name.to_string_lossy().ends_with(".safetensors");
        let same = if is_weights {
            8 + u64::from_le_bytes(dense[..8].try_into().unwrap()) as usize
        } else {
            dense.len()
        };
        assert!(dense[..same] == sparse[..same], "{name:?}");
    }
    let mut n_holes = 0;
    for (name, _) in dense.places() {
        let [dense, sparse] =
            [&dense, &sparse].map(|checkpoint| checkpoint.tensor(name).unwrap().bytes().to_vec());
        let is_hole = sparse.iter().all(|&byte| byte == 0);
        let must_be_whole = ["norm.weight", "gate.bias", "tid2eid", "attn_sink", "_base", "_scale", ".ape"];
        assert!(dense == sparse || is_hole, "{name}");
        assert!(!is_hole || !must_be_whole.iter().any(|end| name.ends_with(end)), "{name}");
        n_holes += usize::from(is_hole);
    }
    assert!(n_holes > 2000, "{n_holes}");
}

#[test]
#[ignore = "makes files of a terabyte, though they take no disk: not every file system can"]
fn sparse_flash_and_pro_have_every_tensor_and_byte_of_the_releases() {
    for (config, tensors, bytes) in
        [(ModelConfig::flash(), 69_187, 159_609_485_896), (ModelConfig::pro(), 145_116, 864_704_792_696)]
    {
        let folder = folder(&config, |o| o.sparse = true);
        let checkpoint = Checkpoint::open_headers(folder.path()).unwrap();
        assert_eq!((checkpoint.n_tensors(), checkpoint.tensor_bytes()), (tensors, bytes));
    }
}

#[test]
fn small_shards_split_groups_but_never_a_tensor_from_its_scales() {
    let folder = folder(&tiny(), |o| o.shard_bytes_max = 30_000);
    let files = fs::read_dir(folder.path()).unwrap().count();
    assert!(files > 10, "{files}");
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let places: std::collections::HashMap<_, _> = checkpoint.places().into_iter().collect();
    for (name, place) in &places {
        if let Some(scale) = places.get(scale_name(name).as_str()) {
            assert_eq!(place.file, scale.file, "{name}");
        }
    }
    // The numbers of a tensor do not depend on the file it is in.
    let (_whole, whole) = written(&tiny(), |_| ());
    for (name, _) in checkpoint.places() {
        assert!(checkpoint.tensor(name).unwrap().bytes() == whole.tensor(name).unwrap().bytes(), "{name}");
    }
}

#[test]
fn progress_grows_to_the_total_and_the_total_is_returned() {
    for sparse in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let options = SynthOptions { sparse, ..SynthOptions::new(tiny()) };
        let mut seen = vec![];
        let total = write(folder.path(), &options, &mut |done, total| seen.push((done, total))).unwrap();
        assert!(seen.is_sorted());
        assert_eq!(seen.last(), Some(&(total, total)));
    }
}

#[test]
fn official_weights_have_zeros_of_both_signs_saturated_codes_and_uneven_scales() {
    let (_folder, checkpoint) = written(&tiny(), |_| ());
    let bytes = |name: &str| checkpoint.tensor(name).unwrap().bytes().to_vec();
    let fp8 = bytes("layers.1.attn.wo_b.weight");
    for code in [0x00, 0x80, 0x7E, 0xFE] {
        assert!(fp8.contains(&code), "{code:#x}");
    }
    let fp4: Vec<u8> =
        bytes("layers.1.ffn.experts.0.w1.weight").iter().flat_map(|b| [b & 15, b >> 4]).collect();
    for code in 0..16 {
        assert!(fp4.contains(&code), "{code}");
    }
    let scales = bytes("layers.1.ffn.experts.0.w1.scale");
    let (low, high) = (scales.iter().min().unwrap(), scales.iter().max().unwrap());
    assert_eq!(high - low, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_small_shape_survives_the_round_trip(
        layers in prop::collection::vec(prop::sample::select(vec![0_usize, 4, 128]), 1..4),
        hash in 0_usize..3, experts in 1_usize..5, streams in 1_usize..5,
        hidden in 1_usize..6, inner in 1_usize..4, groups in 1_usize..4,
        vocab in 2_usize..50, rope in 1_usize..5, seed: u64, official: bool,
    ) {
        let config = ModelConfig {
            num_hidden_layers: layers.len(),
            num_hash_layers: hash.min(layers.len()),
            compress_ratios: layers,
            n_routed_experts: experts,
            num_experts_per_tok: experts.min(2),
            hc_mult: streams,
            hidden_size: 32 * hidden,
            moe_intermediate_size: 32 * inner,
            o_groups: groups,
            num_attention_heads: 2 * groups,
            vocab_size: vocab,
            qk_rope_head_dim: 2 * rope,
            ..tiny()
        };
        let precision = if official { Precision::Official } else { Precision::F32 };
        let (_folder, checkpoint) = written(&config, |o| (o.precision, o.seed) = (precision, seed));
        let again = ModelConfig::parse(&checkpoint.config().to_json(), "config.json").unwrap();
        prop_assert_eq!(&again, checkpoint.config());
        prop_assert_eq!(again.n_layers_of(LayerKind::Csa), config.n_layers_of(LayerKind::Csa));
        prop_assert!(checkpoint.verify(false, &mut |_, _| true).unwrap().findings.is_empty());
        prop_assert_eq!(checkpoint.experts(cuvier_types::LayerId(0)).unwrap().len(), experts);
    }
}
