//! From headers to one table of tensors under official names.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{MappedFile, Place};
use crate::index::INDEX;
use crate::names::{Official, official};
use crate::safetensors::{Header, HeaderEntry};
use crate::{ModelConfig, WeightsError};

/// Every tensor of every file. Each name is there once, and where the index says.
pub(super) fn gather(
    files: &[MappedFile],
    weight_map: Option<&HashMap<String, String>>,
    config: &ModelConfig,
) -> Result<HashMap<String, Place>, WeightsError> {
    let mut tensors = HashMap::new();
    let mut listed = 0;
    for (file, mapped) in files.iter().enumerate() {
        let header = Header::parse((*mapped.storage).as_ref(), &mapped.name)?;
        for entry in header.entries {
            if weight_map.is_some_and(|map| map.get(&entry.name) == Some(&mapped.name)) {
                listed += 1;
            }
            for (name, place) in expand(entry, file, config, &mapped.name)? {
                insert(&mut tensors, name, place, files)?;
            }
        }
    }
    if let Some(map) = weight_map
        && listed != map.len()
    {
        return Err(not_where_listed(map, files));
    }
    Ok(tensors)
}

fn insert(
    tensors: &mut HashMap<String, Place>,
    name: String,
    place: Place,
    files: &[MappedFile],
) -> Result<(), WeightsError> {
    match tensors.entry(name) {
        Entry::Vacant(vacant) => {
            vacant.insert(place);
            Ok(())
        }
        Entry::Occupied(first) => {
            let first = first.get();
            let other = &files[first.file].name;
            let spelled =
                if first.stored == place.stored { String::new() } else { format!(" as `{}`", first.stored) };
            Err(WeightsError::Duplicate {
                file: files[place.file].name.clone(),
                name: place.stored,
                other: format!("{other}{spelled}"),
            })
        }
    }
}

/// The official tensors in a stored one: itself, or, for experts stacked along a first axis, each of them.
fn expand(
    entry: HeaderEntry,
    file: usize,
    config: &ModelConfig,
    file_name: &str,
) -> Result<Vec<(String, Place)>, WeightsError> {
    let (prefix, matrices): (String, &[&str]) = match official(&entry.name) {
        Official::One(name) => {
            let HeaderEntry { name: stored, dtype, shape, range } = entry;
            return Ok(vec![(name, Place { file, range, dtype, shape, stored })]);
        }
        Official::StackedW1W3(prefix) => (prefix, &["w1", "w3"]),
        Official::StackedW2(prefix) => (prefix, &["w2"]),
    };
    let (experts, d, inner) = (config.n_routed_experts, config.hidden_size, config.moe_intermediate_size);
    let (rows, cols) = if matrices.len() == 2 { (inner, d) } else { (d, inner) };
    let want = vec![experts, matrices.len() * rows, cols];
    if entry.shape != want {
        let (file, name, got) = (file_name.to_owned(), entry.name, entry.shape);
        return Err(WeightsError::Shape { file, name, got, want });
    }
    // The header was checked: these are `experts * matrices.len()` equal parts.
    let bytes = entry.range.len() / (experts * matrices.len());
    let part = |index: usize| {
        let start = entry.range.start + index * bytes;
        let (expert, matrix) = (index / matrices.len(), matrices[index % matrices.len()]);
        let place = Place {
            file,
            range: start..start + bytes,
            dtype: entry.dtype,
            shape: vec![rows, cols],
            stored: entry.name.clone(),
        };
        (format!("{prefix}.{expert}.{matrix}.weight"), place)
    };
    Ok((0..experts * matrices.len()).map(part).collect())
}

/// The first tensor, by name, that the index puts into a file that does not have it.
fn not_where_listed(map: &HashMap<String, String>, files: &[MappedFile]) -> WeightsError {
    let mut listed: Vec<(&String, &String)> = map.iter().collect();
    for file in files {
        // Parsed a second time on the way to an error only.
        if let Ok(header) = Header::parse((*file.storage).as_ref(), &file.name) {
            let names: std::collections::HashSet<String> =
                header.entries.into_iter().map(|e| e.name).collect();
            listed.retain(|(name, shard)| **shard != file.name || !names.contains(*name));
        }
    }
    let (name, shard) = listed.into_iter().min().map_or(("", ""), |(name, shard)| (name, shard));
    WeightsError::Index {
        file: INDEX.to_owned(),
        problem: format!("tensor `{name}` is said to be in {shard}, which does not have it"),
    }
}
