//! Which file holds which tensor, and which files a checkpoint folder may lead to.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::WeightsError;
use crate::safetensors::HEADER_BYTES_MAX;
use crate::unique_map::UniqueMap;

/// The name of the index of a sharded checkpoint.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The name of a checkpoint's only file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// More shards than any release has.
const SHARDS_MAX: usize = 4096;

/// The parsed `model.safetensors.index.json`.
pub struct Index {
    /// Tensor name as stored, to file name.
    pub(crate) weight_map: HashMap<String, String>,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: UniqueMap<String>,
}

impl Index {
    /// Parses an index. `file` is what errors call it.
    ///
    /// # Errors
    /// If it is not one, or names a file that is not a plain name within the checkpoint's folder.
    pub fn parse(json: &str, file: &str) -> Result<Self, WeightsError> {
        let raw: RawIndex = serde_json::from_str(json)
            .map_err(|source| WeightsError::Json { file: file.to_owned(), source })?;
        for (tensor, shard) in &raw.weight_map.0 {
            if !is_plain_name(shard) {
                return Err(WeightsError::Index {
                    file: file.to_owned(),
                    problem: format!("tensor `{tensor}` is said to be in {shard:?}, which leaves the folder"),
                });
            }
        }
        let index = Self { weight_map: raw.weight_map.0.into_iter().collect() };
        let shards = index.shards().len();
        if shards == 0 || shards > SHARDS_MAX {
            let problem = format!("names {shards} files; it can be 1 to {SHARDS_MAX}");
            return Err(WeightsError::Index { file: file.to_owned(), problem });
        }
        Ok(index)
    }

    /// The files, sorted.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// One path component, on every system.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    one && !name.contains(['/', '\\', ':', '\0'])
}

/// The path of `name` in `folder`, provided that links do not lead elsewhere.
///
/// The cache of model hubs keeps a checkpoint as `models/snapshots/REVISION`, links into `models/blobs`: that
/// one detour is known and allowed.
pub(crate) fn resolve(folder: &Path, name: &str) -> Result<PathBuf, WeightsError> {
    let path = folder.join(name);
    let real = path.canonicalize().map_err(WeightsError::io(&path, "opening"))?;
    let home = folder.canonicalize().map_err(WeightsError::io(folder, "opening"))?;
    let snapshots = home.parent().filter(|parent| parent.file_name() == Some(OsStr::new("snapshots")));
    let blobs = snapshots.and_then(Path::parent).map(|cache| cache.join("blobs"));
    if real.starts_with(&home) || blobs.is_some_and(|blobs| real.starts_with(blobs)) {
        return Ok(real);
    }
    Err(WeightsError::Index {
        file: path.display().to_string(),
        problem: format!("is a link to {}, outside the checkpoint's folder", real.display()),
    })
}

/// Reads a text file of the folder, refusing one too large to be what it should be.
pub(crate) fn read_text(folder: &Path, name: &str, bytes_max: u64) -> Result<String, WeightsError> {
    let path = resolve(folder, name)?;
    let metadata = std::fs::metadata(&path).map_err(WeightsError::io(&path, "opening"))?;
    let problem = if !metadata.is_file() {
        Some("not a regular file".to_owned())
    } else if metadata.len() > bytes_max {
        Some(format!("{} bytes exceed the limit of {bytes_max}", metadata.len()))
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(WeightsError::Index { file: name.to_owned(), problem });
    }
    std::fs::read_to_string(&path).map_err(WeightsError::io(&path, "reading"))
}

/// The index of `folder`, if it has one.
pub(crate) fn read_index(folder: &Path) -> Result<Option<Index>, WeightsError> {
    if std::fs::symlink_metadata(folder.join(INDEX)).is_err() {
        return Ok(None);
    }
    // An index is made of the same names as headers, so the same bound fits.
    Index::parse(&read_text(folder, INDEX, HEADER_BYTES_MAX)?, INDEX).map(Some)
}
