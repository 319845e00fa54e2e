//! A checkpoint that was opened: its config, and its tensors by their official names.

mod check;
mod gather;
pub(crate) mod values;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuvier_tensor::{Dtype, Storage, Tensor, WeightFormat, WeightMatrix};
use cuvier_types::{ExpertId, ExpertKey, LayerId};

use crate::config::CONFIG_BYTES_MAX;
use crate::direct::DirectFile;
use crate::index::{INDEX, SINGLE, read_index, read_text, resolve};
use crate::inventory::{expert_names, scale_name};
use crate::mapping::{Mapping, map};
use crate::safetensors::{StoredDtype, known};
use crate::{ModelConfig, WeightsError};

/// A checkpoint in the official file format, mapped and checked.
pub struct Checkpoint {
    config: ModelConfig,
    files: Vec<MappedFile>,
    tensors: HashMap<String, Place>,
    /// The file that errors about absent tensors name.
    listing: String,
    drafter: Drafter,
    ignored: Vec<String>,
    unused: Vec<String>,
    /// Read before they were asked for.
    ahead: Mutex<HashMap<String, Tensor>>,
}

/// What a checkpoint holds beside its backbone to draft tokens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drafter {
    /// Nothing.
    None,
    /// The MTP block of the first releases.
    Mtp,
    /// The block drafter of later releases: recognised, its tensors are not loaded.
    DSpark {
        /// Its stages.
        stages: usize,
    },
}

/// The three matrices of a routed expert.
#[derive(Clone, Debug)]
pub struct Expert {
    /// Gate, `[moe_intermediate_size, hidden_size]`.
    pub w1: WeightMatrix,
    /// Up, `[moe_intermediate_size, hidden_size]`.
    pub w3: WeightMatrix,
    /// Down, `[hidden_size, moe_intermediate_size]`.
    pub w2: WeightMatrix,
}

/// How thoroughly a checkpoint is looked at when opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Names, dtypes, shapes and places of all tensors.
    Headers,
    /// And every scale.
    Scales,
    /// As headers; numbers are looked at when they are read.
    Streamed,
}

pub(crate) struct MappedFile {
    pub(crate) name: String,
    pub(crate) storage: Storage,
    /// `None`: the bytes came from elsewhere, or there are none.
    mapping: Option<Mapping>,
    /// Where it lies. `None`: in memory.
    pub(crate) path: Option<PathBuf>,
    /// What its bytes are read from, one tensor at a time, instead of `storage`, which is empty then.
    pub(crate) direct: Option<Arc<DirectFile>>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// An index into `files`.
    pub(crate) file: usize,
    pub(crate) range: Range<usize>,
    pub(crate) dtype: StoredDtype,
    pub(crate) shape: Vec<usize>,
    /// The name in the file.
    pub(crate) stored: String,
}

impl Checkpoint {
    /// Opens a folder: `config.json`, and `model.safetensors` or shards with their index. Every header and every
    /// scale is checked.
    ///
    /// # Errors
    /// If a file is absent or broken, or the tensors are not those that `config.json` implies.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        Self::open_to(folder, Depth::Scales)
    }

    /// Opens a folder by its headers only: reads no weight and no scale, so it costs the same at every size.
    ///
    /// # Errors
    /// As [`open`](Self::open), except that scales are not looked at.
    pub fn open_headers(folder: &Path) -> Result<Self, WeightsError> {
        Self::open_to(folder, Depth::Headers)
    }

    /// Opens a folder to read tensors one by one into memory of their own, past the page cache: for checkpoints that do
    /// not fit into memory. Reads no weight, so it costs the same at every size; scales are looked at when they are read.
    ///
    /// # Errors
    /// As [`open`](Self::open), except that scales are not looked at yet.
    pub fn open_streamed(folder: &Path) -> Result<Self, WeightsError> {
        Self::open_to(folder, Depth::Streamed)
    }

    /// Whether tensors are read one by one, see [`open_streamed`](Self::open_streamed).
    pub fn is_streamed(&self) -> bool {
        self.files.iter().any(|file| file.direct.is_some())
    }

    /// Whether its tensors lie in files.
    pub fn is_in_files(&self) -> bool {
        self.files.iter().all(|file| file.path.is_some())
    }

    fn open_to(folder: &Path, depth: Depth) -> Result<Self, WeightsError> {
        let json = read_text(folder, CONFIG, CONFIG_BYTES_MAX).map_err(WeightsError::of_config)?;
        let config = ModelConfig::parse(&json, CONFIG)?;
        let index = read_index(folder)?;
        let shards: Vec<&str> =
            index.as_ref().map_or(vec![SINGLE], |index| index.shards().into_iter().collect());
        let mut files = Vec::with_capacity(shards.len());
        for shard in shards {
            let path = resolve(folder, shard)?;
            let mapping = map(&path)?;
            let storage = mapping.as_ref().map_or_else(empty, Mapping::storage);
            files.push(MappedFile {
                name: shard.to_owned(),
                storage,
                mapping,
                path: Some(path),
                direct: None,
            });
        }
        let mut checkpoint =
            Self::check(config, files, index.as_ref().map(|index| &index.weight_map), depth)?;
        if depth == Depth::Streamed {
            checkpoint.files.iter_mut().try_for_each(MappedFile::stream)?;
        }
        Ok(checkpoint)
    }

    /// A checkpoint in memory: the text of its `config.json` and the bytes of its only safetensors file, at any
    /// alignment.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_parts(config_json: &[u8], safetensors: Storage) -> Result<Self, WeightsError> {
        let json = str::from_utf8(config_json).map_err(|error| WeightsError::Config {
            file: CONFIG.to_owned(),
            field: "config".to_owned(),
            problem: format!("is not UTF-8: {error}"),
        })?;
        let config = ModelConfig::parse(json, CONFIG)?;
        let files = vec![MappedFile {
            name: SINGLE.to_owned(),
            storage: safetensors,
            mapping: None,
            path: None,
            direct: None,
        }];
        Self::check(config, files, None, Depth::Scales)
    }

    fn check(
        config: ModelConfig,
        files: Vec<MappedFile>,
        weight_map: Option<&HashMap<String, String>>,
        depth: Depth,
    ) -> Result<Self, WeightsError> {
        let tensors = gather::gather(&files, weight_map, &config)?;
        let listing = if weight_map.is_some() { INDEX } else { SINGLE }.to_owned();
        let drafter = check::drafter(&tensors);
        let mut checkpoint = Self {
            config,
            files,
            tensors,
            listing,
            drafter,
            ignored: Vec::new(),
            unused: Vec::new(),
            ahead: Mutex::default(),
        };
        let used = checkpoint.check_inventory()?;
        checkpoint.sort_out(&used);
        if depth == Depth::Scales {
            values::check_scales(&checkpoint)?;
        }
        Ok(checkpoint)
    }

    /// The facts of the checkpoint.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What it holds beside the backbone.
    pub fn drafter(&self) -> Drafter {
        self.drafter
    }

    /// Tensors of known parts that this program does not run: vision tower, block drafter. Official names, sorted.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Tensors that nothing is known about. Sorted.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// Tensors in all files.
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.values().map(|place| place.range.len() as u64).sum()
    }

    /// The matrix of that official name, with its scales: `layers.3.attn.wq_a.weight`.
    ///
    /// # Errors
    /// If there is none, or it is not a matrix.
    pub fn matrix(&self, name: &str) -> Result<WeightMatrix, WeightsError> {
        let weight = self.tensor(name)?;
        let scale = || self.tensor(&scale_name(name));
        let dtype = weight.dtype();
        let Some(format) = matrix_format(weight, scale)? else {
            return Err(self.wrong_dtype(name, dtype.name(), "a matrix"));
        };
        WeightMatrix::new(format).map_err(|source| self.entry(name, source.to_string()))
    }

    /// The shape of the matrix of that official name, without its numbers.
    ///
    /// # Errors
    /// If there is none, or it is not a matrix.
    pub fn matrix_outline(&self, name: &str) -> Result<WeightMatrix, WeightsError> {
        let place = self.place(name)?;
        match *place.shape {
            [rows, bytes] if known(place.dtype) == Some(Dtype::I8) => {
                Ok(WeightMatrix::outline(rows, 2 * bytes))
            }
            [rows, cols] => Ok(WeightMatrix::outline(rows, cols)),
            _ => Err(self.entry(name, format!("has the shape {:?}, which is no matrix", place.shape))),
        }
    }

    /// The numbers of a tensor stored in BF16 or F32, row major.
    ///
    /// # Errors
    /// If there is none, it is stored otherwise, or a number is not finite.
    pub fn vector_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.tensor(name)?;
        let values = match tensor.dtype() {
            Dtype::F32 | Dtype::BF16 => tensor.to_f32().unwrap_or_default(),
            other => return Err(self.wrong_dtype(name, other.name(), "BF16 or F32")),
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(element) => {
                Err(WeightsError::NotFinite { file: self.file_of(name), name: name.to_owned(), element })
            }
        }
    }

    /// A `tid2eid` table, `[vocab_size, num_experts_per_tok]` row major: for each token the experts it goes to,
    /// all different and all existing.
    ///
    /// # Errors
    /// If there is none, or it names an expert that does not exist or one twice.
    pub fn expert_table(&self, name: &str) -> Result<Vec<u16>, WeightsError> {
        let tensor = self.tensor(name)?;
        if tensor.dtype() != Dtype::I64 {
            return Err(self.wrong_dtype(name, tensor.dtype().name(), "I64"));
        }
        values::expert_table(tensor.bytes(), &self.config).map_err(|(row, problem)| WeightsError::Table {
            file: self.file_of(name),
            name: name.to_owned(),
            row,
            problem,
        })
    }

    /// All routed experts of `layer`, in order; the MTP block is `config().mtp_layer()`.
    ///
    /// # Errors
    /// If the checkpoint does not have that layer.
    pub fn experts(&self, layer: LayerId) -> Result<Vec<Expert>, WeightsError> {
        let expert = |expert: usize| {
            let key = ExpertKey { layer, expert: ExpertId(expert as u16) };
            let [w1, w3, w2] = expert_names(&self.config, key);
            Ok(Expert { w1: self.matrix(&w1)?, w3: self.matrix(&w3)?, w2: self.matrix(&w2)? })
        };
        (0..self.config.n_routed_experts).map(expert).collect()
    }

    /// The bytes of that official name, `.scale` companions included.
    ///
    /// # Errors
    /// If there is none, or its dtype is none that the model knows.
    pub fn tensor(&self, name: &str) -> Result<Tensor, WeightsError> {
        let place = self.place(name)?;
        let Some(dtype) = known(place.dtype) else {
            return Err(self.wrong_dtype(name, place.dtype.name(), "a dtype of DeepSeek-V4"));
        };
        if let Some(file) = &self.files[place.file].direct {
            if let Some(tensor) = self.ahead().remove(name) {
                return Ok(tensor);
            }
            let bytes = file.read(place.range.start as u64..place.range.end as u64)?;
            if dtype == Dtype::F8E8M0
                && let Some(element) = values::not_finite(&bytes, dtype)
            {
                return Err(WeightsError::NotFinite {
                    file: self.file_of(name),
                    name: name.to_owned(),
                    element,
                });
            }
            return Tensor::from_bytes(bytes, dtype, place.shape.clone())
                .map_err(|source| self.entry(name, source.to_string()));
        }
        let storage = Storage::clone(&self.files[place.file].storage);
        Tensor::new(storage, place.range.clone(), dtype, place.shape.clone())
            .map_err(|source| self.entry(name, source.to_string()))
    }

    /// Reads tensors, and their scales, of a checkpoint that was [opened to be streamed](Self::open_streamed), so that
    /// [`tensor`](Self::tensor) has them at once, each for one time. What cannot be read is left for then. Returns how many
    /// bytes were read.
    pub fn read_ahead(&self, names: &[String]) -> u64 {
        let scales = names.iter().filter(|name| name.ends_with(".weight")).map(|name| scale_name(name));
        let mut names: Vec<String> = names.iter().cloned().chain(scales).collect();
        names.retain(|name| self.tensors.contains_key(name));
        names.sort_by_key(|name| (self.tensors[name].file, self.tensors[name].range.start));
        let mut bytes = 0;
        for name in names {
            if let Ok(tensor) = self.tensor(&name) {
                bytes += tensor.bytes().len() as u64;
                self.ahead().insert(name, tensor);
            }
        }
        bytes
    }

    /// Gives up what was read ahead and not asked for.
    pub fn forget_read_ahead(&self) {
        self.ahead().clear();
    }

    /// A thread that panicked while it held the lock leaves tensors that are whole.
    fn ahead(&self) -> MutexGuard<'_, HashMap<String, Tensor>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the tensor of that official name is stored, and its bytes, those of its scales included. `None`: there is none
    /// of a dtype that the model knows.
    pub fn stored_as(&self, name: &str) -> Option<(Dtype, u64)> {
        let place = self.tensors.get(name)?;
        let scale = self.tensors.get(&scale_name(name)).filter(|_| name.ends_with(".weight"));
        let bytes = place.range.len() + scale.map_or(0, |scale| scale.range.len());
        Some((known(place.dtype)?, bytes as u64))
    }

    /// Gives back the memory that the bytes of that tensor take, if they come from a file and there is such a tensor.
    /// They can still be read, and then come from the file again.
    pub fn release(&self, name: &str) {
        if let Some(place) = self.tensors.get(name)
            && let Some(mapping) = &self.files[place.file].mapping
        {
            mapping.release(place.range.clone());
        }
    }

    /// Where the tensor of that official name lies.
    pub(crate) fn place(&self, name: &str) -> Result<&Place, WeightsError> {
        self.tensors
            .get(name)
            .ok_or_else(|| WeightsError::NoSuchTensor { file: self.listing.clone(), name: name.to_owned() })
    }

    /// The files that hold its tensors; none, if they are in memory.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().filter_map(|file| file.path.as_deref())
    }

    pub(crate) fn files(&self) -> &[MappedFile] {
        &self.files
    }

    /// Official names and places, in the order of their bytes.
    pub(crate) fn places(&self) -> Vec<(&str, &Place)> {
        let mut places: Vec<_> = self.tensors.iter().map(|(name, place)| (name.as_str(), place)).collect();
        places.sort_by_key(|(name, place)| (place.file, place.range.start, *name));
        places
    }

    fn file_of(&self, name: &str) -> String {
        self.tensors.get(name).map_or(&self.listing, |place| &self.files[place.file].name).clone()
    }

    fn wrong_dtype(&self, name: &str, got: &str, want: &'static str) -> WeightsError {
        WeightsError::Dtype { file: self.file_of(name), name: name.to_owned(), got: got.to_owned(), want }
    }

    fn entry(&self, name: &str, problem: String) -> WeightsError {
        WeightsError::Entry { file: self.file_of(name), name: name.to_owned(), problem }
    }
}

impl MappedFile {
    /// From here on bytes are read one tensor at a time.
    fn stream(&mut self) -> Result<(), WeightsError> {
        self.direct = self.path.as_deref().map(DirectFile::open).transpose()?.map(Arc::new);
        (self.storage, self.mapping) = (empty(), None);
        Ok(())
    }
}

/// The form of a matrix whose stored numbers are `weight`; `scale` is asked for where the form has one. `None`: no matrix is
/// stored so.
pub(crate) fn matrix_format(
    weight: Tensor,
    scale: impl FnOnce() -> Result<Tensor, WeightsError>,
) -> Result<Option<WeightFormat>, WeightsError> {
    Ok(Some(match weight.dtype() {
        Dtype::F32 => WeightFormat::F32(weight),
        Dtype::BF16 => WeightFormat::Bf16(weight),
        Dtype::F8E4M3 => WeightFormat::Fp8 { weight, scale: scale()? },
        Dtype::I8 => WeightFormat::Fp4 { weight, scale: scale()? },
        _ => return Ok(None),
    }))
}

fn empty() -> Storage {
    Arc::new(Vec::new())
}

/// The name of the config of a checkpoint.
pub(crate) const CONFIG: &str = "config.json";
