//! Checkpoints in the format of the releases, which every verb opens.

use std::fs;
use std::path::Path;

use cuvier_model::Parameters;
use cuvier_tensor::Matrix;
use cuvier_weights::{
    Checkpoint, Drafter, ModelConfig, Numbers, Precision, WeightsError, inventory, write_checkpoint,
};

use super::SaveError;
use super::folder::{Existing, make, write_file};
use crate::routers::{Keeper, Routers, keeper_of};

/// The files of a tokenizer, and whether a checkpoint needs them.
const TOKENIZER_FILES: [(&str, bool); 2] = [("tokenizer.json", true), ("tokenizer_config.json", false)];

/// Writes the checkpoint `folder`, which must be empty or absent, and copies the tokenizer of the folder `tokenizer` into
/// it.
///
/// The numbers are rounded as `precision` says: [`Precision::Official`] has FP8 matrices, FP4 experts and BF16 as a
/// release has; [`Precision::F32`] rounds nothing.
///
/// # Errors
/// If parameters or routers are not those of `config`, a number is not finite, a file of the tokenizer cannot be read,
/// or the disk refuses. There is no folder then.
pub fn write_official(
    folder: &Path,
    config: &ModelConfig,
    parameters: &Parameters,
    routers: &Routers,
    precision: Precision,
    tokenizer: &Path,
) -> Result<(), SaveError> {
    let numbers = |name: &str| {
        let parameter = parameters.get(name).map(Matrix::data);
        let bias = || routers.biases.get(name).map(Vec::as_slice);
        let table = || routers.tables.get(name).map(Matrix::data);
        parameter.or_else(bias).map(Numbers::F32).or_else(|| table().map(Numbers::Experts))
    };
    make(folder, Existing::Refuse, |part| {
        write_checkpoint(part, config, precision, numbers)?;
        copy_tokenizer(tokenizer, part)
    })
}

/// The weights, biases and tables of a checkpoint of any precision: to train it further.
///
/// # Errors
/// If a number is not finite or a table names an expert that does not exist.
pub fn read_official(checkpoint: &Checkpoint) -> Result<(Parameters, Routers), WeightsError> {
    let (mut parameters, mut routers) = (Parameters::default(), Routers::default());
    for spec in inventory(checkpoint.config(), checkpoint.drafter() == Drafter::Mtp).iter() {
        let cols = spec.shape.last().copied().unwrap_or(1);
        match keeper_of(&spec) {
            Keeper::Parameters => {
                let numbers = checkpoint.numbers(&spec.name)?;
                parameters.insert(spec.name, Matrix::from_vec(numbers, cols));
            }
            Keeper::Biases => {
                let bias = checkpoint.numbers(&spec.name)?;
                routers.biases.insert(spec.name, bias);
            }
            Keeper::Tables => {
                let table = checkpoint.expert_table(&spec.name)?;
                routers.tables.insert(spec.name, Matrix::from_vec(table, cols));
            }
        }
    }
    Ok((parameters, routers))
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), SaveError> {
    for (name, needed) in TOKENIZER_FILES {
        let file = from.join(name);
        match fs::read(&file) {
            Ok(bytes) => write_file(&to.join(name), &bytes)?,
            Err(error) if !needed && error.kind() == std::io::ErrorKind::NotFound => (),
            Err(error) => return Err(SaveError::io(&file, "reading")(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use cuvier_encoding::synthetic_tokenizer_json;
    use cuvier_kernels::{Compute, Isa, KvFormat};
    use cuvier_model::exact_state::{CHUNKS, Sweep, sweep};
    use cuvier_model::{Batch, Chunk, Ctx, LogitRows, TokenId, Transformer};
    use cuvier_types::SequenceId;
    use tempfile::TempDir;

    use super::*;
    use crate::config::{Preset, Qat, Vocabulary};
    use crate::init::initial;
    use crate::trainer::rounding::as_stored;

    const VOCAB: usize = 400;

    fn compute() -> Compute {
        Compute::new(Isa::best(), NonZeroUsize::MIN).expect("one thread")
    }

    /// A preset before its first step, and the folder of a tokenizer for it.
    fn model(preset: Preset) -> (ModelConfig, Parameters, Routers, TempDir) {
        let vocabulary = Vocabulary { size: VOCAB, bos: TokenId(0), eos: TokenId(1) };
        let config = preset.config(vocabulary).expect("a shape");
        let mut routers = Routers::initial(&config, &[1; VOCAB], 1);
        for bias in routers.biases.values_mut() {
            bias[0] = -0.25;
        }
        let tokenizer = tempfile::tempdir().expect("a folder");
        let json = synthetic_tokenizer_json(VOCAB).expect("a tokenizer");
        fs::write(tokenizer.path().join("tokenizer.json"), json).expect("written");
        (config.clone(), initial(&config, 1), routers, tokenizer)
    }

    fn written(preset: Preset, precision: Precision) -> (TempDir, Checkpoint) {
        let (config, parameters, routers, tokenizer) = model(preset);
        let out = tempfile::tempdir().expect("a folder");
        let folder = out.path().join("model");
        write_official(&folder, &config, &parameters, &routers, precision, tokenizer.path())
            .expect("written");
        assert!(folder.join("tokenizer.json").exists() && !folder.join("tokenizer_config.json").exists());
        let checkpoint = Checkpoint::open(&folder).expect("what was written opens");
        (out, checkpoint)
    }

    #[test]
    fn a_checkpoint_in_f32_reads_back_with_every_bit() {
        let (_out, checkpoint) = written(Preset::Nano, Precision::F32);
        let (_, parameters, routers, _) = model(Preset::Nano);
        assert_eq!(read_official(&checkpoint).expect("whole"), (parameters, routers));
    }

    #[test]
    fn rounding_moves_no_number_far_and_happens_once() {
        let (config, parameters, routers, tokenizer) = model(Preset::Nano);
        for precision in [Precision::Official, Precision::Bf16] {
            let (_out, checkpoint) = written(Preset::Nano, precision);
            let (rounded, same_routers) = read_official(&checkpoint).expect("whole");
            assert_eq!(same_routers, routers);
            for ((name, rounded), (_, exact)) in rounded.iter().zip(parameters.iter()) {
                let largest = exact.data().iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                // Half of the widest gap between codes: 1 of at most 6, where the scale may be double what is needed.
                let bound = if name.contains(".experts.") { largest / 3.0 } else { largest / 16.0 };
                for (a, b) in rounded.data().iter().zip(exact.data()) {
                    assert!((a - b).abs() <= bound, "{name}: {a} {b}");
                }
            }
            let again = tempfile::tempdir().expect("a folder");
            write_official(again.path(), &config, &rounded, &routers, precision, tokenizer.path())
                .expect("an empty folder");
            let again = Checkpoint::open(again.path()).expect("what was written opens");
            assert_eq!(read_official(&again).expect("whole").0, rounded);
        }
    }

    #[test]
    fn every_preset_verifies_loads_and_begins_with_a_loss_near_the_logarithm_of_the_vocabulary() {
        let compute = compute();
        for (preset, precision) in [
            (Preset::Nano, Precision::Official),
            (Preset::Nano, Precision::F32),
            (Preset::Small, Precision::Official),
            (Preset::Base, Precision::Official),
        ] {
            let (_out, checkpoint) = written(preset, precision);
            assert!(checkpoint.verify(false, &mut |_, _| true).expect("readable").findings.is_empty());
            assert!(checkpoint.unused().is_empty() && checkpoint.drafter() == Drafter::Mtp);
            let model = Transformer::load(&checkpoint, &compute).expect("loads");
            let mut state = model.new_state(KvFormat::Fp8);
            let tokens: Vec<TokenId> = (0..300).map(|i| TokenId(i * 7 % VOCAB as u32)).collect();
            let chunk = Chunk { sequence: SequenceId(0), tokens: tokens.clone(), logits: LogitRows::All };
            let batch = Batch { chunks: vec![chunk] };
            let logits =
                model.forward(&batch, &mut [&mut state], &mut Ctx::new(&compute)).expect("a step").logits;
            let loss = |row: &[f32], next: TokenId| {
                let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                sum.ln() - f64::from(row[next.0 as usize])
            };
            let losses = (0..299).map(|at| loss(logits.row(at), tokens[at + 1]));
            let mean = losses.sum::<f64>() / 299.0;
            let expected = (VOCAB as f64).ln();
            assert!((mean - expected).abs() < 0.1, "{} {precision:?}: {mean} {expected}", preset.name());
        }
    }

    #[test]
    fn the_state_of_a_preset_is_exact() {
        let (_out, checkpoint) = written(Preset::Nano, Precision::Official);
        let model = Transformer::load(&checkpoint, &compute()).expect("loads");
        let least = Sweep {
            tokens: 160,
            stride: 40,
            isa: Isa::best(),
            kv: KvFormat::Fp8,
            seed: 1,
            chunks: &CHUNKS[..2],
            sequences_max: 2,
        };
        let cases = sweep(&model, &least, &mut |_| true).expect("a sweep");
        assert!(cases.iter().all(|case| case.mismatches == 0 && case.cases > 0), "{cases:?}");
    }

    #[test]
    fn a_missing_tokenizer_or_a_full_folder_leaves_nothing_behind() {
        let (config, parameters, routers, tokenizer) = model(Preset::Nano);
        let out = tempfile::tempdir().expect("a folder");
        let write = |folder: &Path, tokenizer: &Path| {
            write_official(folder, &config, &parameters, &routers, Precision::F32, tokenizer)
                .expect_err("refused")
                .to_string()
        };
        let missing = write(&out.path().join("a"), out.path());
        assert!(missing.contains("tokenizer.json: reading"), "{missing}");
        assert_eq!(fs::read_dir(out.path()).expect("a folder").count(), 0);
        fs::write(out.path().join("notes.txt"), "mine").expect("written");
        let full = write(out.path(), tokenizer.path());
        assert!(full.ends_with("the folder is not empty"), "{full}");
        assert_eq!(fs::read_dir(out.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn what_training_rounds_is_what_the_file_gives_back() {
        let (config, parameters, routers, tokenizer) = model(Preset::Nano);
        let qat = Qat { begin: 0.0, experts: true, indexer: true, linears: true };
        let rounded = as_stored(&parameters, &config, &qat);
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("model");
        write_official(&folder, &config, &parameters, &routers, Precision::Official, tokenizer.path())
            .expect("written");
        let (read, _) = read_official(&Checkpoint::open(&folder).expect("it opens")).expect("numbers");
        let mut compared = 0;
        for spec in inventory(&config, true).iter() {
            let (stored, scale) = spec.stored(Precision::Official);
            if scale.is_some() {
                assert_eq!(read.get(&spec.name), rounded.get(&spec.name), "{} {:?}", spec.name, stored.dtype);
                compared += 1;
            }
        }
        assert!(compared > 20, "{compared}");
    }
}
