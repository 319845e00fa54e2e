//! How fast a disk gives what an expert store asks of it.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::WeightsError;
use crate::direct::{ALIGN, DirectFile};

/// About an expert of Flash.
const BLOB_BYTES: u64 = 12 << 20;
/// Enough of them that single slow ones do not count.
const BLOBS: usize = 160;
/// And no longer than that.
const TIME_MAX: Duration = Duration::from_secs(8);
/// Read at the same time.
const READERS: usize = 2;

/// Bytes per second of direct reads of 12 MiB at places all over `files`, two at a time. `None`: no file is that long.
///
/// # Errors
/// If the system refuses.
pub fn measure_disk<'a>(files: impl Iterator<Item = &'a Path>) -> Result<Option<f64>, WeightsError> {
    let mut blobs = Vec::new();
    for path in files {
        let len = path.metadata().map_err(WeightsError::io(path, "opening"))?.len();
        let file = DirectFile::open(path)?;
        let places: Vec<u64> =
            (0..len / BLOB_BYTES).map(|i| i * BLOB_BYTES / ALIGN as u64 * ALIGN as u64).collect();
        blobs.push((file, places));
    }
    let all: Vec<(&DirectFile, u64)> =
        blobs.iter().flat_map(|(file, places)| places.iter().map(move |&at| (file, at))).collect();
    if all.is_empty() {
        return Ok(None);
    }
    // A stride that has no divisor in common with their number visits them in a scattered order, each once.
    let stride = (all.len() * 5 / 8..).find(|&stride| gcd(stride.max(1), all.len()) == 1).unwrap_or(1).max(1);
    let wanted = BLOBS.min(all.len());
    let begun = Instant::now();
    let read = |reader: usize| -> Result<u64, WeightsError> {
        let mut buffer = all[0].0.buffer(BLOB_BYTES as usize)?;
        let mut bytes = 0;
        for i in (reader..wanted).step_by(READERS) {
            let (file, at) = all[i * stride % all.len()];
            bytes += file.read_blocks(at..at + BLOB_BYTES, buffer.bytes_mut())? as u64;
            if begun.elapsed() > TIME_MAX {
                break;
            }
        }
        Ok(bytes)
    };
    let bytes: Result<Vec<u64>, WeightsError> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                scope.spawn({
                    let read = &read;
                    move || read(reader)
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap_or(Ok(0))).collect()
    });
    Ok(Some(bytes?.iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64()))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_measured_where_a_file_is_long_enough() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(BLOB_BYTES - 1).expect("its length can be set");
        let files = || std::iter::once(file.path());
        assert_eq!(measure_disk(files()).expect("it can be read"), None);
        file.as_file().set_len(3 * BLOB_BYTES + 1).expect("its length can be set");
        assert!(measure_disk(files()).expect("it can be read").is_some_and(|rate| rate > 1e6));
        assert!(measure_disk(std::iter::once(Path::new("/nowhere"))).is_err());
    }
}
