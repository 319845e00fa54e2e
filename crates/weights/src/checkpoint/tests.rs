#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cuvier_tensor::formats::{E2M1_VALUES, e8m0_to_f32};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::Precision;
use crate::safetensors::Header;
use crate::test_shapes::{folder, refusal, tiny, written};

/// A tensor of a file taken apart.
#[derive(Clone)]
struct Raw {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn read(path: &Path) -> Vec<Raw> {
    let bytes = fs::read(path).unwrap();
    let header = Header::parse(&bytes, "m").unwrap();
    let raw = |entry: crate::HeaderEntry| Raw {
        dtype: entry.dtype_name().to_owned(),
        bytes: bytes[entry.range.clone()].to_vec(),
        name: entry.name,
        shape: entry.shape,
    };
    header.entries.into_iter().map(raw).collect()
}

fn bytes_of(tensors: &[Raw]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = vec![];
    for tensor in tensors {
        let offsets = [data.len(), data.len() + tensor.bytes.len()];
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets });
        assert!(header.insert(tensor.name.clone(), entry).is_none());
        data.extend(&tensor.bytes);
    }
    let json = Value::Object(header).to_string();
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.bytes());
    bytes.extend(data);
    bytes
}

/// A tiny official checkpoint of one file, its tensors changed.
fn changed(change: impl FnOnce(&mut Vec<Raw>)) -> TempDir {
    changed_from(Precision::Official, change)
}

fn changed_from(precision: Precision, change: impl FnOnce(&mut Vec<Raw>)) -> TempDir {
    let folder = folder(&tiny(), |o| o.precision = precision);
    let path = folder.path().join(SINGLE);
    let mut tensors = read(&path);
    change(&mut tensors);
    fs::write(&path, bytes_of(&tensors)).unwrap();
    folder
}

fn find<'a>(tensors: &'a mut [Raw], name: &str) -> &'a mut Raw {
    tensors.iter_mut().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"))
}

/// A sharded checkpoint and its index, for changing.
fn sharded() -> (TempDir, Value) {
    let folder = folder(&tiny(), |o| o.shard_bytes_max = 100_000);
    let index = serde_json::from_str(&fs::read_to_string(folder.path().join(INDEX)).unwrap()).unwrap();
    (folder, index)
}

fn with_index(folder: &TempDir, index: &Value) -> String {
    fs::write(folder.path().join(INDEX), index.to_string()).unwrap();
    refusal(folder.path())
}

#[test]
fn a_tensor_of_another_shape_is_refused_with_both_shapes() {
    let folder = changed(|t| find(t, "layers.3.attn.wq_a.weight").shape = vec![80, 80]);
    assert_eq!(
        refusal(folder.path()),
        "model.safetensors: tensor `layers.3.attn.wq_a.weight` has shape [80, 80], config.json implies [40, 160]"
    );
    let folder = changed(|t| find(t, "layers.0.attn.attn_sink").shape = vec![2, 2]);
    assert!(
        refusal(folder.path())
            .contains("`layers.0.attn.attn_sink` has shape [2, 2], config.json implies [4]")
    );
    let folder = changed(|t| find(t, "layers.0.ffn.experts.1.w2.scale").shape = vec![320, 1]);
    assert!(refusal(folder.path()).contains("`layers.0.ffn.experts.1.w2.scale` has shape [320, 1]"));
}

#[test]
fn a_config_of_another_size_than_the_tensors_is_refused() {
    for (field, value) in
        [("vocab_size", 63), ("n_routed_experts", 4), ("num_attention_heads", 6), ("hc_mult", 3)]
    {
        let folder = folder(&tiny(), |_| ());
        let path = folder.path().join(CONFIG);
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config[field] = json!(value);
        fs::write(&path, config.to_string()).unwrap();
        let error = refusal(folder.path());
        assert!(error.contains("config.json implies"), "{field}: {error}");
    }
}

#[test]
fn an_absent_tensor_is_named_with_the_shape_it_should_have() {
    let folder = changed(|t| t.retain(|tensor| tensor.name != "layers.2.attn.compressor.ape"));
    assert_eq!(
        refusal(folder.path()),
        "model.safetensors: tensor `layers.2.attn.compressor.ape` is missing; config.json implies shape [128, 48]"
    );
    let folder = changed(|t| t.retain(|tensor| tensor.name != "layers.1.ffn.experts.2.w1.scale"));
    assert_eq!(
        refusal(folder.path()),
        "model.safetensors: tensor `layers.1.ffn.experts.2.w1.scale` is missing; config.json implies shape [64, 5]"
    );
    let folder = changed(|t| t.retain(|tensor| tensor.name != "mtp.0.h_proj.weight"));
    assert!(refusal(folder.path()).contains("`mtp.0.h_proj.weight` is missing"));
}

#[test]
fn every_absent_tensor_is_missed() {
    let whole = folder(&tiny(), |_| ());
    let path = whole.path().join(SINGLE);
    let tensors = read(&path);
    for missing in &tensors {
        let rest: Vec<Raw> = tensors.iter().filter(|t| t.name != missing.name).cloned().collect();
        // Renamed over the file, as a writer should: the old one may still be mapped.
        let part = whole.path().join("part");
        fs::write(&part, bytes_of(&rest)).unwrap();
        fs::rename(&part, &path).unwrap();
        let error = refusal(whole.path());
        assert!(error.contains(&format!("`{}` is missing", missing.name)), "{error}");
    }
}

#[test]
fn a_tensor_of_a_dtype_that_its_place_does_not_allow_is_refused() {
    let as_dtype = |name: &str, dtype: &str, shape: Vec<usize>| {
        let folder = changed(|t| (find(t, name).dtype, find(t, name).shape) = (dtype.to_owned(), shape));
        refusal(folder.path())
    };
    assert_eq!(
        as_dtype("norm.weight", "F16", vec![160]),
        "model.safetensors: tensor `norm.weight` is stored as F16, expected BF16 or F32"
    );
    let table = as_dtype("layers.0.ffn.gate.tid2eid", "I32", vec![64, 4]);
    assert_eq!(table, "model.safetensors: tensor `layers.0.ffn.gate.tid2eid` is stored as I32, expected I64");
    let scale = as_dtype("layers.0.attn.wq_a.scale", "I8", vec![1, 2]);
    let want =
        "model.safetensors: tensor `layers.0.attn.wq_a.scale` is stored as I8, expected F8_E8M0 or F32";
    assert_eq!(scale, want);
    let bias = as_dtype("layers.3.ffn.gate.bias", "I32", vec![3]);
    assert!(bias.ends_with("`layers.3.ffn.gate.bias` is stored as I32, expected F32 or BF16"), "{bias}");
    let wide = as_dtype("layers.0.attn.wo_b.weight", "F16", vec![160, 24]);
    assert!(wide.contains("is stored as F16, expected F8_E4M3 or I8 with scales, BF16 or F32"), "{wide}");
}

#[test]
fn a_scale_that_is_not_a_number_is_refused_with_its_place() {
    let folder = changed(|t| find(t, "layers.3.ffn.experts.1.w3.scale").bytes[7] = 255);
    assert_eq!(
        refusal(folder.path()),
        "model.safetensors: tensor `layers.3.ffn.experts.1.w3.scale` holds a value that is not a finite number, \
         at element 7"
    );
    assert!(Checkpoint::open_headers(folder.path()).is_ok());
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let name = "layers.0.ffn.experts.0.w1.scale";
        let folder =
            changed_from(Precision::Base, |t| find(t, name).bytes[4..8].copy_from_slice(&bad.to_le_bytes()));
        assert!(refusal(folder.path()).ends_with("not a finite number, at element 1"), "{bad}");
    }
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let whole = folder(&tiny(), |_| ());
    let bytes = fs::read(whole.path().join(SINGLE)).unwrap();
    let config = fs::read(whole.path().join(CONFIG)).unwrap();
    for len in (0..bytes.len()).step_by(bytes.len() / 97 + 1).chain([7, 8, 9, bytes.len() - 1]) {
        let cut: Storage = Arc::new(bytes[..len].to_vec());
        let error = Checkpoint::from_parts(&config, cut).err().unwrap().to_string();
        assert!(error.starts_with("model.safetensors"), "{len}: {error}");
    }
}

#[test]
fn a_checkpoint_in_memory_is_the_same_as_on_disk_at_any_alignment() {
    let (folder, checkpoint) = written(&tiny(), |_| ());
    let config = fs::read(folder.path().join(CONFIG)).unwrap();
    let bytes = fs::read(folder.path().join(SINGLE)).unwrap();
    struct From(Vec<u8>, usize);
    impl AsRef<[u8]> for From {
        fn as_ref(&self) -> &[u8] {
            &self.0[self.1..]
        }
    }
    for shift in 0..4 {
        let mut shifted = vec![0; shift];
        shifted.extend(&bytes);
        let memory = Checkpoint::from_parts(&config, Arc::new(From(shifted, shift))).unwrap();
        assert_eq!(memory.n_tensors(), checkpoint.n_tensors());
        let name = "layers.1.hc_attn_fn";
        assert_eq!(memory.vector_f32(name).unwrap(), checkpoint.vector_f32(name).unwrap());
    }
}

#[test]
fn an_index_that_leaves_the_folder_is_refused() {
    for path in ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\\b", "C:x"] {
        let (folder, mut index) = sharded();
        index["weight_map"]["norm.weight"] = json!(path);
        let error = with_index(&folder, &index);
        let want = format!("tensor `norm.weight` is said to be in {path:?}, which leaves the folder");
        assert_eq!(error, format!("{INDEX}: {want}"));
    }
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused() {
    use std::os::unix::fs::symlink;
    let outside = folder(&tiny(), |_| ());
    for name in [SINGLE, CONFIG] {
        let inside = tempfile::tempdir().unwrap();
        for file in [SINGLE, CONFIG] {
            let original = outside.path().join(file);
            let here = inside.path().join(file);
            if file == name {
                symlink(original, here).unwrap();
            } else {
                fs::copy(original, here).unwrap();
            }
        }
        let error = refusal(inside.path());
        assert!(error.contains("outside the checkpoint's folder"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn the_links_of_a_hub_cache_are_followed_and_links_within_the_folder_too() {
    use std::os::unix::fs::symlink;
    let original = folder(&tiny(), |_| ());
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/0123"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    for (blob, name) in [("aa", SINGLE), ("bb", CONFIG)] {
        fs::copy(original.path().join(name), blobs.join(blob)).unwrap();
        symlink(format!("../../blobs/{blob}"), snapshot.join(name)).unwrap();
    }
    assert!(Checkpoint::open(&snapshot).is_ok());
    fs::rename(original.path().join(SINGLE), original.path().join("real")).unwrap();
    symlink("real", original.path().join(SINGLE)).unwrap();
    assert!(Checkpoint::open(original.path()).is_ok());
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_is_refused_without_waiting() {
    let folder = folder(&tiny(), |_| ());
    let path = folder.path().join(SINGLE);
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(refusal(folder.path()).ends_with("not a regular file"));
}

#[test]
fn an_index_that_lists_what_a_file_does_not_have_is_refused() {
    let (folder, mut index) = sharded();
    index["weight_map"]["no.such.tensor"] = index["weight_map"]["norm.weight"].clone();
    let error = with_index(&folder, &index);
    assert!(error.contains("tensor `no.such.tensor` is said to be in model-"), "{error}");
    assert!(error.ends_with("which does not have it"), "{error}");

    let (folder, mut index) = sharded();
    let other = index["weight_map"]["embed.weight"].clone();
    assert_ne!(other, index["weight_map"]["norm.weight"]);
    index["weight_map"]["norm.weight"] = other;
    assert!(with_index(&folder, &index).contains("tensor `norm.weight` is said to be in"));
}

#[test]
fn an_index_that_is_not_one_is_refused() {
    let (folder, index) = sharded();
    let said = |text: &str| {
        fs::write(folder.path().join(INDEX), text).unwrap();
        refusal(folder.path())
    };
    assert!(said("").starts_with(&format!("{INDEX}: EOF")));
    assert!(said("{}").contains("missing field `weight_map`"));
    assert!(said("{\"weight_map\":{}}").contains("names 0 files"));
    let twice = said("{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"y.safetensors\"}}");
    assert!(twice.contains("tensor `a` is there twice"), "{twice}");
    assert!(said(&"[".repeat(100_000)).contains("weight_map") || said("[").starts_with(INDEX));
    assert!(said(&index.to_string().replace("model-00001-of", "model-99999-of")).contains("model-99999-of"));
}

#[test]
fn a_tensor_in_two_files_is_refused_with_both() {
    let (folder, index) = sharded();
    let shard = |name: &str| index["weight_map"][name].as_str().unwrap().to_owned();
    let (first, last) = (shard("embed.weight"), shard("mtp.0.norm.weight"));
    let mut tensors = read(&folder.path().join(&last));
    tensors.extend(read(&folder.path().join(&first)).into_iter().filter(|t| t.name == "embed.weight"));
    fs::write(folder.path().join(&last), bytes_of(&tensors)).unwrap();
    assert_eq!(refusal(folder.path()), format!("{last}: tensor `embed.weight` is also in {first}"));
}

#[test]
fn two_spellings_of_one_tensor_are_refused() {
    let folder = changed(|t| {
        let copy = Raw { name: "model.norm.weight".to_owned(), ..find(t, "norm.weight").clone() };
        t.push(copy);
    });
    assert_eq!(
        refusal(folder.path()),
        "model.safetensors: tensor `model.norm.weight` is also in model.safetensors as `norm.weight`"
    );
}

#[test]
fn tensors_of_vision_and_of_nobody_are_told_apart_and_neither_is_an_error() {
    let folder = changed(|t| {
        let extra = |name: &str| Raw {
            name: name.to_owned(),
            dtype: "F16".to_owned(),
            shape: vec![2],
            bytes: vec![0; 4],
        };
        let names = [
            "vision.blocks.0.norm.weight",
            "aligner.w1",
            "image_start",
            "layers.0.ffn.gate.bias_vl",
            "stray",
        ];
        t.extend(names.map(extra));
    });
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let known = ["aligner.w1", "image_start", "layers.0.ffn.gate.bias_vl", "vision.blocks.0.norm.weight"];
    assert_eq!(checkpoint.ignored(), known);
    assert_eq!(checkpoint.unused(), ["stray"]);
    assert!(checkpoint.verify(false, &mut |_, _| true).unwrap().findings.is_empty());
    let error = checkpoint.tensor("stray").unwrap_err().to_string();
    assert!(error.ends_with("tensor `stray` is stored as F16, expected a dtype of DeepSeek-V4"), "{error}");
}

#[test]
fn a_block_drafter_is_recognised_and_not_taken_for_an_mtp_block() {
    let folder = changed(|t| {
        for tensor in t.iter_mut().filter(|t| t.name.contains("_proj.") && t.name.starts_with("mtp.")) {
            tensor.name = tensor.name.replace("e_proj", "main_proj").replace("h_proj", "other_proj");
        }
        let norm = find(t, "mtp.0.norm.weight").clone();
        t.extend((1..3).map(|stage| Raw { name: format!("mtp.{stage}.norm.weight"), ..norm.clone() }));
    });
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.drafter(), Drafter::DSpark { stages: 3 });
    assert!(checkpoint.unused().is_empty());
    assert!(checkpoint.ignored().iter().all(|name| name.starts_with("mtp.")));
}

#[test]
fn a_checkpoint_without_its_mtp_block_opens_without_one() {
    let folder = changed(|t| t.retain(|tensor| !tensor.name.starts_with("mtp.")));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.drafter(), Drafter::None);
    assert_eq!(checkpoint.config().num_nextn_predict_layers, 1);
}

#[test]
fn expert_tables_that_name_no_expert_or_one_twice_are_refused() {
    let name = "layers.1.ffn.gate.tid2eid";
    let with = |ids: [i64; 2]| {
        let folder = changed(|t| {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            find(t, name).bytes[5 * 16..6 * 16].copy_from_slice(&bytes);
        });
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let findings = checkpoint.verify(false, &mut |_, _| true).unwrap().findings;
        let error = checkpoint.expert_table(name).unwrap_err().to_string();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].to_string().replace("tid2eid` row", "tid2eid`, row"), error);
        error
    };
    let place = format!("model.safetensors: tensor `{name}`, row 5: ");
    assert_eq!(with([0, 3]), format!("{place}expert 3 does not exist, there are 3"));
    assert_eq!(with([-1, 0]), format!("{place}expert -1 does not exist, there are 3"));
    assert_eq!(with([2, 2]), format!("{place}expert 2 is named twice"));
    assert_eq!(with([i64::MAX, 0]), format!("{place}expert {} does not exist, there are 3", i64::MAX));
}

#[test]
fn verify_finds_every_kind_of_number_that_is_none() {
    let folder = changed(|t| {
        find(t, "layers.0.attn.wo_b.weight").bytes[100] = 0xFF;
        find(t, "norm.weight").bytes[4..6].copy_from_slice(&[0x80, 0x7F]);
        find(t, "layers.2.attn.attn_sink").bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let findings = checkpoint.verify(false, &mut |_, _| true).unwrap().findings;
    let mut got: Vec<_> =
        findings.iter().map(|f| (f.tensor.as_str(), f.problem.rsplit(' ').next().unwrap())).collect();
    got.sort_unstable();
    assert_eq!(
        got,
        [("layers.0.attn.wo_b.weight", "100"), ("layers.2.attn.attn_sink", "1"), ("norm.weight", "2")]
    );
    assert!(checkpoint.vector_f32("norm.weight").unwrap_err().to_string().ends_with("at element 2"));
}

#[test]
fn verify_hashes_files_and_stops_when_told() {
    let (_folder, checkpoint) = written(&tiny(), |o| (o.seed, o.precision) = (3, Precision::Official));
    let (_again, same) = written(&tiny(), |o| (o.seed, o.precision) = (3, Precision::Official));
    let (_other, other) = written(&tiny(), |o| (o.seed, o.precision) = (4, Precision::Official));
    let mut last = (0, 1);
    let report = checkpoint
        .verify(true, &mut |done, total| {
            last = (done, total);
            true
        })
        .unwrap();
    assert_eq!(last.0, last.1);
    assert_eq!(report.files, same.verify(true, &mut |_, _| true).unwrap().files);
    assert_ne!(report.files, other.verify(true, &mut |_, _| true).unwrap().files);
    assert_eq!(report.files[0].sha256.as_ref().unwrap().len(), 64);
    assert!(matches!(checkpoint.verify(false, &mut |_, _| false), Err(WeightsError::Interrupted)));
}

#[test]
fn names_that_do_not_exist_are_errors() {
    let (_folder, checkpoint) = written(&tiny(), |_| ());
    for error in [
        checkpoint.matrix("layers.9.attn.wq_a.weight").err().unwrap(),
        checkpoint.vector_f32("").err().unwrap(),
        checkpoint.expert_table("layers.3.ffn.gate.tid2eid").err().unwrap(),
        checkpoint.experts(LayerId(9)).err().unwrap(),
    ] {
        assert!(error.to_string().starts_with("model.safetensors: there is no tensor `"), "{error}");
    }
    assert!(checkpoint.expert_table("norm.weight").is_err());
    assert!(checkpoint.matrix("norm.weight").is_err());
    assert!(checkpoint.vector_f32("layers.0.attn.wq_a.weight").is_err());
}

#[test]
fn a_folder_without_config_or_weights_says_which_file_it_lacks() {
    let folder = folder(&tiny(), |_| ());
    fs::remove_file(folder.path().join(SINGLE)).unwrap();
    assert!(refusal(folder.path()).contains("model.safetensors: opening: No such file"));
    fs::remove_file(folder.path().join(CONFIG)).unwrap();
    assert!(refusal(folder.path()).contains("config.json: not there"));
}

#[test]
fn fp4_weights_keep_the_even_column_in_the_low_nibble() {
    let name = "layers.0.ffn.experts.0.w1.weight";
    let (_folder, checkpoint) = written(&tiny(), |_| ());
    let WeightFormat::Fp4 { weight, scale } = checkpoint.matrix(name).unwrap().format().clone() else {
        panic!("official experts are FP4");
    };
    let value = |row: usize, col: usize| {
        let byte = weight.bytes()[row * 80 + col / 2];
        let code = if col.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
        E2M1_VALUES[usize::from(code)] * e8m0_to_f32(scale.bytes()[row * 5 + col / 32])
    };
    let std = (0..64 * 160).map(|i| value(i / 160, i % 160).powi(2)).sum::<f32>() / (64.0 * 160.0);
    // As wide as the rule says, but for the power of two of its scales.
    let want = 4.0 / 160_f32.sqrt();
    assert!((0.6..1.7).contains(&(std.sqrt() / want)), "{} {want}", std.sqrt());
}

/// The names that transformers has in memory, experts stacked.
#[test]
fn stacked_experts_under_the_names_of_transformers_are_the_same_numbers() {
    let config = ModelConfig { num_nextn_predict_layers: 0, ..tiny() };
    let (folder, official) = written(&config, |o| o.precision = Precision::F32);
    let path = folder.path().join(SINGLE);
    let mut tensors = vec![];
    let mut all = read(&path);
    for layer in 0..4 {
        let mut take = |w: &[&str]| {
            let mut stacked = Vec::new();
            for expert in 0..3 {
                for w in w {
                    let name = format!("layers.{layer}.ffn.experts.{expert}.{w}.weight");
                    stacked.extend(find(&mut all, &name).bytes.clone());
                    all.retain(|tensor| tensor.name != name);
                }
            }
            stacked
        };
        let prefix = format!("model.layers.{layer}.mlp.experts");
        let (up, down) = (take(&["w1", "w3"]), take(&["w2"]));
        let raw = |name: &str, shape: [usize; 3], bytes| Raw {
            name: format!("{prefix}.{name}"),
            dtype: "F32".to_owned(),
            shape: shape.to_vec(),
            bytes,
        };
        tensors.push(raw("gate_up_proj", [3, 128, 160], up));
        tensors.push(raw("down_proj", [3, 160, 64], down));
    }
    let one = find(&mut all, "layers.1.attn.indexer.compressor.wgate.weight");
    one.name = "model.layers.1.self_attn.compressor.indexer.gate_proj.weight".to_owned();
    tensors.extend(all);
    let part = folder.path().join("part");
    fs::write(&part, bytes_of(&tensors)).unwrap();
    fs::rename(&part, &path).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(checkpoint.unused().is_empty(), "{:?}", checkpoint.unused());
    for spec in crate::inventory(&config, false).iter() {
        let (a, b) = (official.tensor(&spec.name).unwrap(), checkpoint.tensor(&spec.name).unwrap());
        assert!(a.bytes() == b.bytes() && a.shape() == b.shape(), "{}", spec.name);
    }

    find(&mut tensors, "model.layers.2.mlp.experts.down_proj").shape = vec![3, 64, 160];
    let error =
        Checkpoint::from_parts(config.to_json().as_bytes(), Arc::new(bytes_of(&tensors))).err().unwrap();
    assert!(
        error.to_string().contains("has shape [3, 64, 160], config.json implies [3, 160, 64]"),
        "{error}"
    );
}

#[test]
fn headers_of_a_hundred_thousand_tensors_are_read_quickly() {
    let tensors: Vec<Raw> = (0..100_000)
        .map(|i| Raw { name: format!("stray.{i}"), dtype: "I8".to_owned(), shape: vec![1], bytes: vec![0] })
        .collect();
    let folder = changed(|t| t.extend(tensors));
    let start = std::time::Instant::now();
    assert_eq!(Checkpoint::open(folder.path()).unwrap().unused().len(), 100_000);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn what_is_read_ahead_is_given_once_and_is_what_the_file_has() {
    let (folder, whole) = written(&tiny(), |_| {});
    let streamed = Checkpoint::open_streamed(folder.path()).expect("it opens");
    let names = ["layers.1.attn.wq_a.weight", "norm.weight", "layers.9.attn.wkv.weight"].map(str::to_owned);
    let scale = "layers.1.attn.wq_a.scale";
    let want: usize = [&names[0], &names[1], scale]
        .map(|name| whole.tensor(name).expect("it is there").bytes().len())
        .iter()
        .sum();
    assert_eq!(streamed.read_ahead(&names), want as u64);
    assert_eq!(streamed.ahead().len(), 3, "two of them, and the scales of one");
    for name in [&names[0], &names[1], scale, &names[0]] {
        let (got, want) =
            (streamed.tensor(name).expect("it is there"), whole.tensor(name).expect("it is there"));
        assert!(got.bytes() == want.bytes() && got.shape() == want.shape());
    }
    assert!(streamed.ahead().is_empty(), "each was given");
    streamed.read_ahead(&names);
    streamed.forget_read_ahead();
    assert!(streamed.ahead().is_empty());
}
