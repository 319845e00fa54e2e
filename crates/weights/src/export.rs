//! Checkpoints of given numbers, in the format of the releases.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use cuvier_tensor::Dtype;
use cuvier_tensor::formats::FP4_BLOCK;
use serde_json::json;

use crate::checkpoint::CONFIG;
use crate::checkpoint::values::expert_table;
use crate::encode::{bf16s, f32s, fp4, fp8};
use crate::index::SINGLE;
use crate::save::write_tensors;
use crate::synth::plan::without_whole_blocks;
use crate::{ModelConfig, Precision, StoredTensor, TensorSpec, WeightsError, inventory};

/// The numbers of one tensor, row major.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// Of every tensor but expert tables.
    F32(&'a [f32]),
    /// Of an expert table.
    Experts(&'a [u16]),
}

/// Writes the checkpoint of `config` (with an MTP block if it counts one) into `folder`, which must be empty or absent:
/// `model.safetensors`, `generation_config.json` and `config.json`; the tokenizer is the caller's. `numbers` is asked
/// for each tensor of the inventory by its official name. The numbers are rounded as `precision` says.
///
/// Every file is written under a temporary name and renamed when whole; `config.json` comes last, so a folder with one
/// is complete. All bytes of the file are in memory at once.
///
/// # Errors
/// If a tensor is missing or of another size, a number is not finite, a table names an expert that does not exist, FP4
/// does not fit the shape, or the disk refuses.
pub fn write_checkpoint<'a>(
    folder: &Path,
    config: &ModelConfig,
    precision: Precision,
    numbers: impl Fn(&str) -> Option<Numbers<'a>>,
) -> Result<(), WeightsError> {
    let mut config = config.clone();
    // A drafter of several stages is not written.
    config.dspark = None;
    config.num_nextn_predict_layers = config.num_nextn_predict_layers.min(1);
    precision.describe(&mut config);
    config.check()?;
    if precision == Precision::Official
        && let Some((field, cols)) = without_whole_blocks(&config)
    {
        return Err(WeightsError::Config {
            file: CONFIG.to_owned(),
            field: field.to_owned(),
            problem: format!("is {cols}; FP4 experts need a multiple of {FP4_BLOCK}"),
        });
    }
    let mut tensors = Vec::new();
    for spec in inventory(&config, config.num_nextn_predict_layers > 0).iter() {
        let Some(numbers) = numbers(&spec.name) else {
            return Err(WeightsError::Missing { file: SINGLE.to_owned(), name: spec.name, want: spec.shape });
        };
        tensors.extend(encoded(&spec, precision, numbers, &config)?);
    }
    // Wide numbers first, so that every tensor is aligned to its element.
    tensors.sort_by_key(|(stored, _)| std::cmp::Reverse(stored.dtype.size()));
    let (stored, bytes): (Vec<StoredTensor>, Vec<Vec<u8>>) = tensors.into_iter().unzip();
    make_empty(folder)?;
    write_tensors(&folder.join(SINGLE), &stored, |index| Cow::Borrowed(bytes[index].as_slice()))?;
    write_configs(folder, &config)
}

/// The tensor, and its scales where the format has them.
fn encoded(
    spec: &TensorSpec,
    precision: Precision,
    numbers: Numbers<'_>,
    config: &ModelConfig,
) -> Result<Vec<(StoredTensor, Vec<u8>)>, WeightsError> {
    let (weight, scale) = spec.stored(precision);
    let (file, name) = (SINGLE.to_owned(), spec.name.clone());
    let n = match numbers {
        Numbers::F32(numbers) => numbers.len(),
        Numbers::Experts(experts) => experts.len(),
    };
    if n != spec.elements() {
        return Err(WeightsError::Shape { file, name, got: vec![n], want: spec.shape.clone() });
    }
    let numbers = match (numbers, weight.dtype) {
        (Numbers::Experts(experts), Dtype::I64) => {
            let bytes: Vec<u8> = experts.iter().flat_map(|&expert| i64::from(expert).to_le_bytes()).collect();
            return match expert_table(&bytes, config) {
                Ok(_) => Ok(vec![(weight, bytes)]),
                Err((row, problem)) => Err(WeightsError::Table { file, name, row, problem }),
            };
        }
        (Numbers::F32(numbers), dtype) if dtype != Dtype::I64 => numbers,
        (Numbers::F32(_), _) => {
            return Err(WeightsError::Dtype { file, name, got: "numbers".to_owned(), want: "expert ids" });
        }
        (Numbers::Experts(_), _) => {
            return Err(WeightsError::Dtype { file, name, got: "expert ids".to_owned(), want: "numbers" });
        }
    };
    if let Some(element) = numbers.iter().position(|number| !number.is_finite()) {
        return Err(WeightsError::NotFinite { file, name, element });
    }
    let (bytes, scale_bytes) = match (weight.dtype, &scale) {
        (Dtype::I8, _) => fp4(numbers),
        (Dtype::F8E4M3, Some(scale)) => fp8(numbers, spec.shape[1], scale.dtype),
        (Dtype::BF16, _) => (bf16s(numbers), Vec::new()),
        _ => (f32s(numbers), Vec::new()),
    };
    Ok(std::iter::once((weight, bytes)).chain(scale.map(|scale| (scale, scale_bytes))).collect())
}

/// Creates the folder; one with anything in it is refused, never cleared.
pub(crate) fn make_empty(folder: &Path) -> Result<(), WeightsError> {
    fs::create_dir_all(folder).map_err(WeightsError::io(folder, "creating"))?;
    let mut entries = fs::read_dir(folder).map_err(WeightsError::io(folder, "reading"))?;
    if entries.next().is_some() {
        let source = std::io::Error::other("the folder is not empty");
        return Err(WeightsError::io(folder, "writing a checkpoint")(source));
    }
    Ok(())
}

/// Writes `generation_config.json`, and `config.json` last.
pub(crate) fn write_configs(folder: &Path, config: &ModelConfig) -> Result<(), WeightsError> {
    let generation = json!({
        "_from_model_config": true,
        "bos_token_id": config.bos_token_id.0,
        "eos_token_id": config.eos_token_id.0,
        "do_sample": true,
        "temperature": 1.0,
        "top_p": 1.0,
    });
    write_text(folder, "generation_config.json", &format!("{generation:#}\n"))?;
    write_text(folder, CONFIG, &config.to_json())
}

/// Writes a file under a temporary name and renames it when it is whole and on the disk.
pub(crate) fn write_text(folder: &Path, name: &str, text: &str) -> Result<(), WeightsError> {
    let (path, part) = (folder.join(name), folder.join(format!("{name}.part")));
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(WeightsError::io(&part, "writing"))?;
    fs::rename(&part, &path).map_err(WeightsError::io(&path, "renaming into place"))
}

#[cfg(test)]
mod tests {
    use cuvier_tensor::WeightFormat;

    use super::*;
    use crate::Checkpoint;
    use crate::test_shapes::{tiny, written};

    enum Held {
        F32(Vec<f32>),
        Experts(Vec<u16>),
    }

    /// Every tensor of a checkpoint in F32.
    fn held(checkpoint: &Checkpoint) -> Vec<(String, Held)> {
        inventory(checkpoint.config(), true)
            .iter()
            .map(|spec| {
                let held = if spec.name.ends_with("tid2eid") {
                    Held::Experts(checkpoint.expert_table(&spec.name).expect("a table"))
                } else {
                    Held::F32(checkpoint.tensor(&spec.name).expect("there").to_f32().expect("F32"))
                };
                (spec.name, held)
            })
            .collect()
    }

    fn look_up<'a>(held: &'a [(String, Held)], name: &str) -> Option<Numbers<'a>> {
        held.iter().find(|(held, _)| held == name).map(|(_, held)| match held {
            Held::F32(numbers) => Numbers::F32(numbers),
            Held::Experts(experts) => Numbers::Experts(experts),
        })
    }

    #[test]
    fn numbers_in_f32_come_back_with_the_same_bits() {
        let (_synth, checkpoint) = written(&tiny(), |o| o.precision = Precision::F32);
        let held = held(&checkpoint);
        let folder = tempfile::tempdir().expect("a folder");
        write_checkpoint(folder.path(), checkpoint.config(), Precision::F32, |name| look_up(&held, name))
            .expect("whole");
        let again = Checkpoint::open(folder.path()).expect("what was written opens");
        assert_eq!(again.config(), checkpoint.config());
        assert_eq!(again.n_tensors(), checkpoint.n_tensors());
        for (name, _) in &held {
            let bytes = |checkpoint: &Checkpoint| checkpoint.tensor(name).expect("there").bytes().to_vec();
            assert!(bytes(&again) == bytes(&checkpoint), "{name}");
        }
    }

    #[test]
    fn each_precision_stores_every_tensor_as_releases_do_and_verifies() {
        let (_synth, checkpoint) = written(&tiny(), |o| o.precision = Precision::F32);
        let held = held(&checkpoint);
        for precision in [Precision::Official, Precision::Base, Precision::Bf16] {
            let (_model, model) = written(&tiny(), |o| o.precision = precision);
            let folder = tempfile::tempdir().expect("a folder");
            write_checkpoint(folder.path(), checkpoint.config(), precision, |name| look_up(&held, name))
                .expect("whole");
            let written = Checkpoint::open(folder.path()).expect("what was written opens");
            assert_eq!(written.config(), model.config());
            assert!(written.verify(false, &mut |_, _| true).expect("readable").findings.is_empty());
            for (name, _) in model.places() {
                let [written, model] = [&written, &model].map(|c| c.tensor(name).expect("there"));
                assert_eq!((written.dtype(), written.shape()), (model.dtype(), model.shape()), "{name}");
            }
            let w1 = written.experts(cuvier_types::LayerId(1)).expect("experts").remove(0).w1;
            assert_eq!(matches!(w1.format(), WeightFormat::Fp4 { .. }), precision == Precision::Official);
        }
    }

    #[test]
    fn numbers_that_a_format_holds_survive_it_and_others_are_near() {
        let (_synth, checkpoint) = written(&tiny(), |o| o.precision = Precision::Official);
        // What codes and scales say is held exactly, so it is encoded to the same numbers again.
        let held: Vec<(String, Held)> = inventory(checkpoint.config(), true)
            .iter()
            .map(|spec| {
                let held = if spec.name.ends_with("tid2eid") {
                    Held::Experts(checkpoint.expert_table(&spec.name).expect("a table"))
                } else {
                    Held::F32(checkpoint.numbers(&spec.name).expect("numbers"))
                };
                (spec.name, held)
            })
            .collect();
        let folder = tempfile::tempdir().expect("a folder");
        write_checkpoint(folder.path(), checkpoint.config(), Precision::Official, |name| {
            look_up(&held, name)
        })
        .expect("whole");
        let again = Checkpoint::open(folder.path()).expect("what was written opens");
        for (name, numbers) in &held {
            if let Held::F32(numbers) = numbers {
                assert!(again.numbers(name).expect("numbers") == *numbers, "{name}");
            }
        }
        assert!(again.numbers("layers.0.ffn.gate.tid2eid").is_err());
        assert!(again.numbers("nothing").is_err());
    }

    #[test]
    fn what_is_missing_or_no_number_is_refused_by_name_before_a_folder_is_made() {
        let (_synth, checkpoint) = written(&tiny(), |o| o.precision = Precision::F32);
        let held = held(&checkpoint);
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("new");
        let refused = |numbers: &dyn Fn(&str) -> Option<Numbers<'static>>| {
            let of = |name: &str| numbers(name).or_else(|| look_up(&held, name));
            let error = write_checkpoint(&folder, checkpoint.config(), Precision::F32, of);
            error.expect_err("broken").to_string()
        };
        let nan = refused(&|name| (name == "hc_head_scale").then_some(Numbers::F32(&[f32::NAN])));
        assert_eq!(
            nan,
            "model.safetensors: tensor `hc_head_scale` holds a value that is not a finite number, at element 0"
        );
        let size = refused(&|name| (name == "norm.weight").then_some(Numbers::F32(&[1.0])));
        assert!(size.contains("`norm.weight` has shape [1], config.json implies [160]"), "{size}");
        let table =
            refused(&|name| (name == "layers.0.ffn.gate.tid2eid").then_some(Numbers::Experts(&[9; 128])));
        assert!(table.contains("row 0: expert 9 does not exist, there are 3"), "{table}");
        let config = checkpoint.config();
        let missing = write_checkpoint(&folder, config, Precision::F32, |_| None).expect_err("nothing");
        assert!(missing.to_string().contains("tensor `embed.weight` is missing"), "{missing}");
        assert!(!folder.exists());
    }
}
