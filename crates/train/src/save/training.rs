//! A checkpoint that training goes on from: `OUT/step-00001000/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cuvier_model::Parameters;
use cuvier_tensor::Matrix;
use cuvier_weights::ModelConfig;
use serde::{Deserialize, Serialize};

use super::SaveError;
use super::folder::{Existing, make, remove, write_file};
use super::tensors::{
    check_parameters, check_routers, read_parameters, read_routers, write_parameters, write_routers,
};
use crate::anticipation::Anticipation;
use crate::optim::OptimizerState;
use crate::routers::Routers;

const CONFIG: &str = "config.json";
const PARAMETERS: &str = "parameters.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const ROUTERS: &str = "routers.safetensors";
/// Only of runs that look at their losses.
const ANTICIPATION: &str = "anticipation.safetensors";
const PROGRESS: &str = "training.json";

/// The layout of this file's folders.
const FORMAT: u64 = 1;
/// Checkpoints of a run that are kept: the last, and one more in case it is a bad one.
const KEPT: usize = 2;

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps made; also the number of the next one.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Steps that the run will have.
    pub steps: u64,
    /// What all random numbers follow from.
    pub seed: u64,
    /// [`config_hash`] of the run's configuration.
    pub config_hash: String,
    /// Whatever the source of documents needs to go on where it was.
    pub data: serde_json::Value,
}

/// All that is written.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The shape.
    pub config: &'a ModelConfig,
    /// The weights.
    pub parameters: &'a Parameters,
    /// What the optimiser remembers.
    pub optimizer: &'a OptimizerState,
    /// Biases and tables.
    pub routers: &'a Routers,
    /// Losses of the last steps, and experts of those to come.
    pub anticipation: &'a Anticipation,
    /// Where the run is.
    pub progress: &'a Progress,
}

/// All that is read back, the same bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The shape.
    pub config: ModelConfig,
    /// The weights.
    pub parameters: Parameters,
    /// What the optimiser remembers; [`crate::optim::Optimizer::restore`] checks it against the weights.
    pub optimizer: OptimizerState,
    /// Biases and tables.
    pub routers: Routers,
    /// Losses of the last steps, and experts of those to come.
    pub anticipation: Anticipation,
    /// Where the run is.
    pub progress: Progress,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgressFile {
    format: u64,
    progress: Progress,
    optimizer_steps: BTreeMap<String, u64>,
    #[serde(default)]
    anticipates_until: u64,
}

/// Read before the rest, which another format may not have.
#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

impl Saved<'_> {
    /// Writes `OUT/step-N/` and removes all but the last two of the run. Returns the folder.
    ///
    /// # Errors
    /// If the disk refuses. What was there before is then still there.
    pub fn write(&self, out: &Path) -> Result<PathBuf, SaveError> {
        let folder = out.join(format!("step-{:08}", self.progress.step));
        let progress = ProgressFile {
            format: FORMAT,
            progress: self.progress.clone(),
            optimizer_steps: self.optimizer.steps.clone(),
            anticipates_until: self.anticipation.until,
        };
        let file = folder.join(PROGRESS);
        let progress =
            serde_json::to_string_pretty(&progress).map_err(|source| SaveError::Json { file, source })?;
        make(&folder, Existing::Replace, |part| {
            write_file(&part.join(CONFIG), self.config.to_json().as_bytes())?;
            write_parameters(&part.join(PARAMETERS), self.parameters)?;
            write_parameters(&part.join(OPTIMIZER), &self.optimizer.tensors)?;
            write_routers(&part.join(ROUTERS), self.routers)?;
            if !self.anticipation.losses.is_empty() {
                write_routers(&part.join(ANTICIPATION), &as_tensors(self.anticipation))?;
            }
            write_file(&part.join(PROGRESS), progress.as_bytes())
        })?;
        let mut steps = steps_in(out)?;
        steps.truncate(steps.len().saturating_sub(KEPT));
        for (_, old) in steps {
            remove(&old)?;
        }
        Ok(folder)
    }
}

impl Loaded {
    /// Reads a folder that [`Saved::write`] wrote.
    ///
    /// # Errors
    /// If a file is absent or broken, a tensor is not what the config implies, or a weight is not finite.
    pub fn read(folder: &Path) -> Result<Self, SaveError> {
        let file = folder.join(PROGRESS);
        let text = read_text(&file)?;
        let json = |source| SaveError::Json { file: file.clone(), source };
        let FormatOnly { format } = serde_json::from_str(&text).map_err(json)?;
        if format != FORMAT {
            return Err(SaveError::Format { file: file.clone(), got: format, want: FORMAT });
        }
        let progress: ProgressFile = serde_json::from_str(&text).map_err(json)?;
        let config_file = folder.join(CONFIG);
        let config = ModelConfig::parse(&read_text(&config_file)?, &config_file.display().to_string())?;
        let parameters = read_parameters(&folder.join(PARAMETERS))?;
        check_parameters(&folder.join(PARAMETERS), &config, &parameters)?;
        let routers = read_routers(&folder.join(ROUTERS))?;
        check_routers(&folder.join(ROUTERS), &config, &routers)?;
        let tensors = read_parameters(&folder.join(OPTIMIZER))?;
        let optimizer = OptimizerState { tensors, steps: progress.optimizer_steps };
        let anticipation = read_anticipation(&folder.join(ANTICIPATION), progress.anticipates_until)?;
        Ok(Self { config, parameters, optimizer, routers, anticipation, progress: progress.progress })
    }
}

/// The losses under this name; the experts of a part and a router of a step under the three numbers.
const LOSSES: &str = "losses";

fn as_tensors(anticipation: &Anticipation) -> Routers {
    let mut tensors = Routers::default();
    tensors.biases.insert(LOSSES.to_owned(), anticipation.losses.clone());
    for (step, parts) in &anticipation.chosen {
        for (part, routers) in parts.iter().enumerate() {
            for (router, ids) in routers.iter().enumerate() {
                tensors.tables.insert(format!("{step}.{part}.{router}"), ids.clone());
            }
        }
    }
    tensors
}

/// Of a run that does not look at its losses there is no file; one that had a spike has looked.
fn read_anticipation(path: &Path, until: u64) -> Result<Anticipation, SaveError> {
    if until == 0 && !path.exists() {
        return Ok(Anticipation::default());
    }
    let Routers { mut biases, tables } = read_routers(path)?;
    let mut anticipation =
        Anticipation { until, losses: biases.remove(LOSSES).unwrap_or_default(), ..Anticipation::default() };
    let mut in_order: BTreeMap<[u64; 3], Matrix<u16>> = BTreeMap::new();
    for (name, ids) in tables {
        let numbers: Vec<u64> = name.split('.').map_while(|number| number.parse().ok()).collect();
        let place = numbers.try_into().map_err(|_| SaveError::tensor(path, &name, "is of no step"))?;
        in_order.insert(place, ids);
    }
    for ([step, part, router], ids) in in_order {
        let parts = anticipation.chosen.entry(step).or_default();
        if router == 0 {
            parts.push(Vec::new());
        }
        match parts.last_mut() {
            Some(routers) if routers.len() as u64 == router => routers.push(ids),
            _ => return Err(SaveError::tensor(path, &format!("{step}.{part}.{router}"), "follows on none")),
        }
    }
    Ok(anticipation)
}

/// The checkpoint of a run with the most steps, if there is one.
///
/// # Errors
/// If the folder is there and cannot be read.
pub fn latest(out: &Path) -> Result<Option<PathBuf>, SaveError> {
    Ok(steps_in(out)?.pop().map(|(_, folder)| folder))
}

/// A number that two configurations share only if they are the same text: FNV-1a, in hexadecimal.
pub fn config_hash(text: &str) -> String {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    format!("{:016x}", text.bytes().fold(0xCBF2_9CE4_8422_2325, mix))
}

/// The checkpoints of a run, in order of their steps.
fn steps_in(out: &Path) -> Result<Vec<(u64, PathBuf)>, SaveError> {
    let io = || SaveError::io(out, "reading");
    let entries = match fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io()(error)),
    };
    let mut steps = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io())?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok());
        if let Some(step) = number {
            steps.push((step, entry.path()));
        }
    }
    steps.sort();
    Ok(steps)
}

fn read_text(path: &Path) -> Result<String, SaveError> {
    fs::read_to_string(path).map_err(SaveError::io(path, "reading"))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use cuvier_kernels::{Compute, Isa};
    use cuvier_types::TokenId;
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::config::{Preset, Vocabulary};
    use crate::init::initial;
    use crate::optim::{Optimizer, OptimizerOptions};

    struct Run {
        config: ModelConfig,
        parameters: Parameters,
        optimizer: Optimizer,
        routers: Routers,
        anticipation: Anticipation,
    }

    impl Run {
        /// One step from the beginning.
        fn new() -> Self {
            let vocabulary = Vocabulary { size: 20, bos: TokenId(0), eos: TokenId(1) };
            let config = Preset::Nano.config(vocabulary).expect("a shape");
            let mut parameters = initial(&config, 1);
            let mut optimizer = Optimizer::new(OptimizerOptions::default(), &parameters);
            let compute = Compute::new(Isa::best(), NonZeroUsize::MIN).expect("one thread");
            optimizer.step(&compute, 0.01, &mut parameters, &initial(&config, 2));
            let mut routers = Routers::initial(&config, &[3; 20], 1);
            for (at, bias) in (0_u8..).zip(routers.biases.values_mut()) {
                bias[0] = 0.1 * f32::from(at);
            }
            // Twelve parts, as their numbers do not come in the order of their names.
            let chosen = (0..12).map(|part| vec![Matrix::from_vec(vec![part, 3], 2); 2]).collect();
            let anticipation =
                Anticipation { losses: vec![2.5, 0.1], until: 17, chosen: BTreeMap::from([(9, chosen)]) };
            Self { config, parameters, optimizer, routers, anticipation }
        }

        fn write(&self, out: &Path, step: u64) -> (PathBuf, Loaded) {
            let progress = Progress {
                step,
                tokens: 1 << 40,
                steps: 100,
                seed: u64::MAX,
                config_hash: config_hash("a"),
                data: json!({ "shard": 3, "offset": 17 }),
            };
            let (config, parameters, routers) = (&self.config, &self.parameters, &self.routers);
            let optimizer = self.optimizer.state();
            let anticipation = &self.anticipation;
            let saved = Saved {
                config,
                parameters,
                optimizer: &optimizer,
                routers,
                anticipation,
                progress: &progress,
            };
            let folder = saved.write(out).expect("written");
            let loaded = Loaded {
                config: config.clone(),
                parameters: parameters.clone(),
                routers: routers.clone(),
                anticipation: anticipation.clone(),
                optimizer,
                progress,
            };
            (folder, loaded)
        }
    }

    fn out() -> TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn a_run_comes_back_with_every_bit() {
        let (out, run) = (out(), Run::new());
        let (folder, written) = run.write(out.path(), 12);
        assert_eq!(latest(out.path()).expect("readable"), Some(folder.clone()));
        let loaded = Loaded::read(&folder).expect("what was written");
        assert_eq!(loaded, written);
        let optimizer =
            Optimizer::restore(OptimizerOptions::default(), &loaded.parameters, &loaded.optimizer);
        assert_eq!(optimizer.expect("its state"), run.optimizer);
    }

    #[test]
    fn the_last_two_checkpoints_are_kept_and_other_folders_left_alone() {
        let (out, run) = (out(), Run::new());
        assert_eq!(latest(&out.path().join("not there")).expect("nothing"), None);
        fs::create_dir(out.path().join("step-by-step")).expect("made");
        for step in [1, 2, 100_000_000, 2] {
            run.write(out.path(), step);
        }
        let mut names: Vec<_> =
            fs::read_dir(out.path()).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["step-00000002", "step-100000000", "step-by-step"]);
        let latest = latest(out.path()).expect("readable").expect("one");
        assert!(latest.ends_with("step-100000000"));
    }

    #[test]
    fn broken_checkpoints_are_refused_by_file_and_tensor() {
        let run = Run::new();
        let refused = |break_it: &dyn Fn(&Path)| {
            let out = out();
            let (folder, _) = run.write(out.path(), 1);
            break_it(&folder);
            let error = Loaded::read(&folder).expect_err("broken").to_string();
            error.replace(&format!("{}/", folder.display()), "")
        };
        let missing = refused(&|folder| fs::remove_file(folder.join(ROUTERS)).expect("removed"));
        assert!(missing.starts_with("routers.safetensors: reading: "), "{missing}");
        let cut = refused(&|folder| {
            let bytes = fs::read(folder.join(PARAMETERS)).expect("there");
            fs::write(folder.join(PARAMETERS), &bytes[..bytes.len() - 4]).expect("written");
        });
        assert!(cut.starts_with("parameters.safetensors: "), "{cut}");
        let change = |folder: &Path, change: &dyn Fn(&mut Parameters)| {
            let path = folder.join(PARAMETERS);
            let mut parameters = read_parameters(&path).expect("whole");
            change(&mut parameters);
            write_parameters(&path, &parameters).expect("written");
        };
        let shape = refused(&|f| change(f, &|p| p.insert("norm.weight", Matrix::zeros(1, 3))));
        assert_eq!(
            shape,
            "parameters.safetensors: tensor `norm.weight` has shape [1, 3], the config implies [1, 64]"
        );
        let more = refused(&|f| change(f, &|p| p.insert("vision.weight", Matrix::zeros(1, 3))));
        assert_eq!(more, "parameters.safetensors: tensor `vision.weight` is not one of this config");
        let nan =
            refused(&|f| change(f, &|p| p.insert("hc_head_scale", Matrix::from_vec(vec![f32::NAN], 1))));
        assert!(nan.ends_with("tensor `hc_head_scale` holds a value that is not a finite number"), "{nan}");
        let format = refused(&|folder| {
            fs::write(folder.join(PROGRESS), "{\"format\": 9}").expect("written");
        });
        assert_eq!(format, "training.json: is of format 9; this program reads format 1");
        let forgotten = refused(&|folder| fs::remove_file(folder.join(ANTICIPATION)).expect("removed"));
        assert!(forgotten.starts_with("anticipation.safetensors: "), "{forgotten}");
        let text = refused(&|folder| fs::write(folder.join(PROGRESS), "{").expect("written"));
        assert!(text.starts_with("training.json: EOF"), "{text}");
    }
}
