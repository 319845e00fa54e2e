//! Tensors in files, and files on the disk.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use cuvier_tensor::Dtype;

use super::codes::Source;
use super::rule::{Spread, Stream};
use super::{SynthOptions, stored_name};
use crate::index::SINGLE;
use crate::safetensors::header_bytes;
use crate::{ModelConfig, Precision, StoredTensor, TensorSpec, WeightsError};

/// Bytes made and written at a time.
const PIECE: usize = 4 << 20;

/// The largest tensor besides tables that is written where the rest is holes. The position biases of a compressor
/// are this large; the mixing matrices of hyper-connections, which only act on what is not zero, are larger.
const SMALL_BYTES_MAX: usize = 256 << 10;

/// One file.
pub(super) struct Shard {
    pub(super) tensors: Vec<PlannedTensor>,
}

/// One tensor of a file under its official name, and what its numbers follow from.
pub(super) struct PlannedTensor {
    pub(super) stored: StoredTensor,
    /// The weight whose spread this has: itself, or the one it scales.
    weight: String,
    cols: usize,
    scales: Option<Dtype>,
}

impl Shard {
    pub(super) fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.stored.bytes() as u64).sum()
    }
}

impl PlannedTensor {
    /// Whether a sparse checkpoint has it in full: expert tables, and norms, biases, sinks and their like, which are
    /// what a model of zeros would make no sense without. Experts are many, so none of their scales is small.
    fn is_small(&self) -> bool {
        match self.stored.dtype {
            Dtype::I64 => true,
            Dtype::F32 | Dtype::BF16 => self.scales.is_none() && self.stored.bytes() <= SMALL_BYTES_MAX,
            Dtype::F8E4M3 | Dtype::F8E8M0 | Dtype::I8 => false,
        }
    }
}

/// Groups (embedding, a layer, ...) go into files together as long as they fit; a group that alone is too large
/// is split between tensors, never between a tensor and its scales.
pub(super) fn pack(
    groups: impl Iterator<Item = Vec<TensorSpec>>,
    precision: Precision,
    bytes_max: u64,
) -> Vec<Shard> {
    let mut shards = vec![Shard { tensors: Vec::new() }];
    let mut bytes = 0;
    for group in groups {
        let group_bytes: u64 = group.iter().map(|spec| spec.stored_bytes(precision) as u64).sum();
        if bytes > 0 && bytes + group_bytes > bytes_max {
            shards.push(Shard { tensors: Vec::new() });
            bytes = 0;
        }
        for spec in &group {
            let spec_bytes = spec.stored_bytes(precision) as u64;
            if bytes > 0 && bytes + spec_bytes > bytes_max {
                shards.push(Shard { tensors: Vec::new() });
                bytes = 0;
            }
            bytes += spec_bytes;
            if let Some(shard) = shards.last_mut() {
                shard.tensors.extend(planned(spec, precision));
            }
        }
    }
    for shard in &mut shards {
        // Wide numbers first, so that every tensor is aligned to its element.
        shard.tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.stored.dtype.size()));
    }
    shards
}

fn planned(spec: &TensorSpec, precision: Precision) -> impl Iterator<Item = PlannedTensor> {
    let (weight, scale) = spec.stored(precision);
    let cols = spec.shape.last().copied().unwrap_or(1);
    let scales = Some(weight.dtype);
    let plan = |stored, scales| PlannedTensor { stored, weight: spec.name.clone(), cols, scales };
    let scale = scale.map(|scale| plan(scale, scales));
    std::iter::once(plan(weight, None)).chain(scale)
}

pub(super) fn file_name(number: usize, of: usize) -> String {
    if of == 1 { SINGLE.to_owned() } else { format!("model-{:05}-of-{of:05}.safetensors", number + 1) }
}

/// Writes one file under a temporary name and renames it. `wrote` is told the bytes of weights as they are
/// written.
pub(super) fn write(
    path: &Path,
    shard: &Shard,
    options: &SynthOptions,
    config: &ModelConfig,
    wrote: &mut dyn FnMut(u64),
) -> Result<(), WeightsError> {
    let part = path.with_extension("safetensors.part");
    let result = write_part(&part, shard, options, config, wrote)
        .and_then(|()| fs::rename(&part, path).map_err(WeightsError::io(path, "renaming into place")));
    if result.is_err() {
        // The error already under way says more than a failure to clean up would.
        let _ = fs::remove_file(&part);
    }
    result
}

fn write_part(
    path: &Path,
    shard: &Shard,
    options: &SynthOptions,
    config: &ModelConfig,
    wrote: &mut dyn FnMut(u64),
) -> Result<(), WeightsError> {
    let named = |tensor: &PlannedTensor| StoredTensor {
        name: stored_name(&tensor.stored.name, options.names),
        ..tensor.stored.clone()
    };
    let header = header_bytes(&shard.tensors.iter().map(named).collect::<Vec<_>>());
    let mut file = File::create(path).map_err(WeightsError::io(path, "creating"))?;
    file.write_all(&header).map_err(WeightsError::io(path, "writing"))?;
    let end = header.len() as u64 + shard.bytes();
    file.set_len(end).map_err(WeightsError::io(path, "making room"))?;
    let pieces = pieces(shard, header.len() as u64, options, config);
    if options.sparse {
        let written: u64 = pieces.iter().map(|piece| piece.len as u64).sum();
        wrote(shard.bytes() - written);
    }
    write_pieces(path, &pieces, wrote)
}

/// A part of a tensor at its place in the file.
struct Piece<'a> {
    source: Source<'a>,
    start: usize,
    len: usize,
    offset: u64,
}

fn pieces<'a>(
    shard: &Shard,
    data_start: u64,
    options: &SynthOptions,
    config: &'a ModelConfig,
) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let mut offset = data_start;
    for tensor in &shard.tensors {
        let PlannedTensor { stored, weight, cols, scales } = tensor;
        let bytes = stored.bytes();
        let source = || Source {
            stream: Stream::new(&stored.name, options.seed),
            spread: Spread::of(weight, *cols),
            dtype: stored.dtype,
            scales: *scales,
            config,
        };
        if !options.sparse || tensor.is_small() {
            let granule = source().granule();
            let step = (PIECE / granule * granule).max(granule);
            for start in (0..bytes).step_by(step) {
                let len = step.min(bytes - start);
                pieces.push(Piece { source: source(), start, len, offset: offset + start as u64 });
            }
        }
        offset += bytes as u64;
    }
    pieces
}

/// Pieces are independent, so threads take the next one that is left, each through its own file handle.
fn write_pieces(path: &Path, pieces: &[Piece<'_>], wrote: &mut dyn FnMut(u64)) -> Result<(), WeightsError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(pieces.len()).min(8);
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let send = send.clone();
            let next = &next;
            scope.spawn(move || {
                let result = write_some(path, pieces, next, &send);
                if let Err(error) = result {
                    // Others stop at their next piece; a receiver that is gone has its error already.
                    next.store(pieces.len(), Ordering::Relaxed);
                    let _ = send.send(Err(error));
                }
            });
        }
        drop(send);
        let mut first_error = None;
        for message in receive {
            match message {
                Ok(bytes) => wrote(bytes),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    })
}

fn write_some(
    path: &Path,
    pieces: &[Piece<'_>],
    next: &AtomicUsize,
    send: &mpsc::Sender<Result<u64, WeightsError>>,
) -> Result<(), WeightsError> {
    let mut file = File::options().write(true).open(path).map_err(WeightsError::io(path, "opening"))?;
    let mut buffer = Vec::new();
    while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
        buffer.resize(piece.len, 0);
        piece.source.fill(piece.start, &mut buffer);
        file.seek(SeekFrom::Start(piece.offset)).map_err(WeightsError::io(path, "seeking"))?;
        file.write_all(&buffer).map_err(WeightsError::io(path, "writing"))?;
        // The receiver outlives the scope's threads.
        let _ = send.send(Ok(piece.len as u64));
    }
    Ok(())
}
