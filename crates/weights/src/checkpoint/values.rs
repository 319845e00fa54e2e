//! Looking at stored numbers: is each one a number?

use std::num::NonZeroUsize;
use std::thread;

use cuvier_tensor::Dtype;

use super::{Checkpoint, Place};
use crate::safetensors::known;
use crate::{ModelConfig, WeightsError};

/// Fewer bytes than this are not worth a thread.
const BYTES_PER_THREAD: usize = 4 << 20;

/// Refuses a scale that is not a finite number: it would silently poison a whole block.
pub(super) fn check_scales(checkpoint: &Checkpoint) -> Result<(), WeightsError> {
    let mut places = checkpoint.places();
    places.retain(|(name, place)| {
        name.ends_with(".scale") && matches!(known(place.dtype), Some(Dtype::F8E8M0 | Dtype::F32))
    });
    let total: usize = places.iter().map(|(_, place)| place.range.len()).sum();
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = threads.min(total / BYTES_PER_THREAD).max(1);
    // Neighbours in the file stay together; the first finding of the first part is the first of all.
    let parts = places.chunks(places.len().div_ceil(threads).max(1));
    let first = thread::scope(|scope| {
        let workers: Vec<_> = parts
            .map(|part| scope.spawn(|| part.iter().find_map(|place| bad_scale(checkpoint, *place))))
            .collect();
        workers.into_iter().find_map(|worker| worker.join().ok().flatten())
    });
    first.map_or(Ok(()), Err)
}

fn bad_scale(checkpoint: &Checkpoint, (_, place): (&str, &Place)) -> Option<WeightsError> {
    let file = &checkpoint.files()[place.file];
    let bytes = &(*file.storage).as_ref()[place.range.clone()];
    let element = not_finite(bytes, known(place.dtype)?)?;
    Some(WeightsError::NotFinite { file: file.name.clone(), name: place.stored.clone(), element })
}

/// The first element that is NaN or infinite. Integers and FP4 are always numbers.
pub(crate) fn not_finite(bytes: &[u8], dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F8E8M0 => memchr::memchr(0xFF, bytes),
        Dtype::F8E4M3 => memchr::memchr2(0x7F, 0xFF, bytes),
        Dtype::BF16 => {
            let (numbers, _) = bytes.as_chunks::<2>();
            first_in_blocks(numbers, |b| u16::from_le_bytes(b) & 0x7F80 == 0x7F80)
        }
        Dtype::F32 => {
            let (numbers, _) = bytes.as_chunks::<4>();
            first_in_blocks(numbers, |b| u32::from_le_bytes(b) & 0x7F80_0000 == 0x7F80_0000)
        }
        Dtype::I8 | Dtype::I64 => None,
    }
}

/// `position`, but in blocks without early exit, which the compiler can vectorise.
fn first_in_blocks<T: Copy>(numbers: &[T], bad: impl Fn(T) -> bool + Copy) -> Option<usize> {
    const BLOCK: usize = 4096;
    let hit = numbers.chunks(BLOCK).position(|block| block.iter().fold(false, |any, &n| any | bad(n)))?;
    let start = hit * BLOCK;
    numbers[start..].iter().position(|&n| bad(n)).map(|offset| start + offset)
}

/// Rows of distinct experts, or the row at fault and why.
pub(crate) fn expert_table(bytes: &[u8], config: &ModelConfig) -> Result<Vec<u16>, (usize, String)> {
    let (ids, _) = bytes.as_chunks::<8>();
    let mut table = Vec::with_capacity(ids.len());
    for (row, ids) in ids.chunks(config.num_experts_per_tok).enumerate() {
        let start = table.len();
        for id in ids.iter().map(|&id| i64::from_le_bytes(id)) {
            let Some(expert) = u16::try_from(id).ok().filter(|&e| usize::from(e) < config.n_routed_experts)
            else {
                return Err((
                    row,
                    format!("expert {id} does not exist, there are {}", config.n_routed_experts),
                ));
            };
            if table[start..].contains(&expert) {
                return Err((row, format!("expert {id} is named twice")));
            }
            table.push(expert);
        }
    }
    Ok(table)
}
