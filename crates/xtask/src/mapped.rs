//! What a process maps of a checkpoint without ever touching it.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value};

/// The names and entries of all tensors of a safetensors file, and the place of the first byte of their data.
pub fn header(path: &Path) -> anyhow::Result<(Map<String, Value>, u64)> {
    let mut file = File::open(path)?;
    let mut len = [0; 8];
    file.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    let mut header = Vec::new();
    file.take(len).read_to_end(&mut header)?;
    Ok((serde_json::from_slice(&header).with_context(|| path.display().to_string())?, 8 + len))
}

/// Where the data of a tensor begins and ends.
pub fn offsets(entry: &Value) -> anyhow::Result<[u64; 2]> {
    let offset =
        |end: usize| entry["data_offsets"][end].as_u64().with_context(|| format!("no offsets in {entry}"));
    Ok([offset(0)?, offset(1)?])
}

/// Bytes of `folder`'s tensors that `pid` reads in place and that are not in its memory.
pub fn untouched(pid: u32, folder: &Path) -> anyhow::Result<u64> {
    let mut in_place = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            for (name, entry) in header(&path)?.0.iter().filter(|(name, entry)| is_in_place(name, entry)) {
                let [start, end] = offsets(entry).with_context(|| name.clone())?;
                in_place += end - start;
            }
        }
    }
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    Ok(in_place.saturating_sub(resident(&smaps, ".safetensors")))
}

/// Experts, and matrices in BF16 but for the head. All else is packed or widened when a model is loaded.
fn is_in_place(name: &str, entry: &Value) -> bool {
    let is_matrix = entry["shape"].as_array().is_some_and(|shape| shape.len() == 2);
    let is_plain = is_matrix && entry["dtype"] == "BF16" && name != "head.weight";
    name.contains(".ffn.experts.") || is_plain
}

/// Bytes in memory of the mappings of files whose name ends so.
fn resident(smaps: &str, ending: &str) -> u64 {
    let mut is_one = false;
    let mut kib = 0;
    for line in smaps.lines() {
        match line.strip_prefix("Rss:") {
            Some(rss) if is_one => {
                kib += rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
            }
            None if line.split_whitespace().next().is_some_and(|range| range.contains('-')) => {
                is_one = line.ends_with(ending);
            }
            _ => {}
        }
    }
    kib * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_of_the_named_files_count() {
        let smaps = "7f00-7f10 r--p 00000000 fe:00 12  /m/model-1.safetensors\nSize: 64 kB\nRss:      20 kB\n\
                     7f20-7f30 r-xp 00000000 fe:00 13  /bin/cuvier\nRss:     900 kB\n\
                     7f40-7f50 rw-p 00000000 00:00 0 \nRss:     700 kB\n\
                     7f60-7f70 r--p 00000000 fe:00 14  /m/model-2.safetensors\nRss:       3 kB\nVmFlags: rd mr\n";
        assert_eq!(resident(smaps, ".safetensors"), 23 << 10);
    }

    #[test]
    fn experts_stay_in_their_files_and_what_is_packed_does_not() {
        let entry =
            |dtype: &str| serde_json::json!({ "dtype": dtype, "shape": [2, 2], "data_offsets": [0, 8] });
        for (name, dtype, want) in [
            ("layers.0.ffn.experts.3.w1.weight", "I8", true),
            ("layers.0.ffn.experts.3.w1.scale", "F8_E8M0", true),
            ("layers.0.attn.wq_a.weight", "F8_E4M3", false),
            ("layers.0.attn.wq_a.scale", "F8_E8M0", false),
            ("embed.weight", "BF16", true),
            ("head.weight", "BF16", false),
            ("layers.0.ffn.gate.tid2eid", "I64", false),
        ] {
            assert_eq!(is_in_place(name, &entry(dtype)), want, "{name}");
        }
        assert_eq!(offsets(&entry("I8")).expect("they are there"), [0, 8]);
        assert!(offsets(&Value::Null).is_err());
    }
}
