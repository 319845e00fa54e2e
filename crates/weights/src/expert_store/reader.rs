//! The threads that read: take the next wanted expert, read it, look at its scales, hand it over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cuvier_tensor::{Dtype, Storage, Tensor, WeightMatrix};
use cuvier_types::{ExpertId, ExpertKey, LayerId};

use super::{Arena, Content, DirectFile, LayerReads, Layout, Shared, layers};
use crate::WeightsError;
use crate::checkpoint::values::not_finite;
use crate::checkpoint::{Checkpoint, Expert, MappedFile, Place, matrix_format};
use crate::inventory::expert_names;
use crate::safetensors::known;

/// The files, and where each expert lies in them.
pub(super) struct Source {
    files: Vec<Arc<DirectFile>>,
    /// What errors call them.
    names: Vec<String>,
    experts: HashMap<ExpertKey, Stored>,
    /// Bytes of the largest expert.
    bytes_max: usize,
}

struct Stored {
    layout: Layout,
    /// In the order of [`expert_names`]: each matrix and, behind it, its scales if it has any.
    places: Vec<Place>,
}

impl Source {
    pub(super) fn new(checkpoint: &Checkpoint) -> Result<Self, WeightsError> {
        let files = checkpoint.files().iter().map(opened).collect::<Result<_, _>>()?;
        let names = checkpoint.files().iter().map(|file| file.name.clone()).collect();
        let mut experts = HashMap::new();
        for layer in layers(checkpoint) {
            for expert in 0..checkpoint.config().n_routed_experts as u16 {
                let key = ExpertKey { layer, expert: ExpertId(expert) };
                let places = checkpoint.expert_places(key)?;
                let layout = Layout::new(&places);
                experts.insert(key, Stored { layout, places: places.into_iter().cloned().collect() });
            }
        }
        let bytes_max = experts.values().map(|stored: &Stored| stored.layout.bytes()).max().unwrap_or(0);
        Ok(Self { files, names, experts, bytes_max })
    }

    /// How many experts there are.
    pub(super) fn len(&self) -> usize {
        self.experts.len()
    }

    /// Memory that any of them has room in.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(super) fn stored_bytes(&self) -> usize {
        self.any().map_or(0, |stored| stored.places.iter().map(|place| place.range.len()).sum())
    }

    pub(super) fn dtype(&self) -> Option<Dtype> {
        known(self.any()?.places.first()?.dtype)
    }

    fn any(&self) -> Option<&Stored> {
        self.experts.get(&ExpertKey { layer: LayerId(0), expert: ExpertId(0) })
    }

    /// Reads an expert. Also says how many bytes that were.
    fn read(&self, key: ExpertKey, arena: &Arena) -> Result<(Expert, u64), WeightsError> {
        let Some(Stored { layout, places }) = self.experts.get(&key) else {
            let name = format!("layers.{}.ffn.experts.{}", key.layer, key.expert.0);
            return Err(WeightsError::NoSuchTensor { file: "the checkpoint".to_owned(), name });
        };
        let room = arena.take();
        let mut room = room.map_err(WeightsError::io(&self.names[places[0].file], "reading"))?;
        for piece in &layout.pieces {
            let file = &self.files[piece.file];
            let out = &mut room.bytes_mut()[piece.at..piece.at + piece.len()];
            let got = file.read_blocks(piece.blocks.clone(), out)?;
            if piece.blocks.start + (got as u64) < piece.needed_end {
                return Err(file.ends_before(piece.needed_end));
            }
        }
        let storage: Storage = Arc::new(room);
        let tensors = places.iter().zip(&layout.tensors);
        let tensors = tensors.map(|(place, range)| self.tensor(&storage, place, range.clone()));
        let expert = matrices(&mut tensors.collect::<Result<Vec<_>, _>>()?.into_iter(), |problem| {
            WeightsError::Entry {
                file: self.names[places[0].file].clone(),
                name: places[0].stored.clone(),
                problem,
            }
        })?;
        Ok((expert, layout.bytes() as u64))
    }

    fn tensor(
        &self,
        storage: &Storage,
        place: &Place,
        range: std::ops::Range<usize>,
    ) -> Result<Tensor, WeightsError> {
        let (file, name) = (self.names[place.file].clone(), place.stored.clone());
        let Some(dtype) = known(place.dtype) else {
            let got = place.dtype.name().to_owned();
            return Err(WeightsError::Dtype { file, name, got, want: "a dtype of DeepSeek-V4" });
        };
        // A scale that is no number would silently poison a block.
        let bytes = &(**storage).as_ref()[range.clone()];
        if matches!(dtype, Dtype::F8E8M0 | Dtype::F32)
            && let Some(element) = not_finite(bytes, dtype)
        {
            return Err(WeightsError::NotFinite { file, name, element });
        }
        Tensor::new(Storage::clone(storage), range, dtype, place.shape.clone())
            .map_err(|source| WeightsError::Entry { file, name, problem: source.to_string() })
    }
}

/// The file as the checkpoint opened it: what changes it from then on is noticed.
fn opened(file: &MappedFile) -> Result<Arc<DirectFile>, WeightsError> {
    file.direct.clone().ok_or_else(|| WeightsError::Header {
        file: file.name.clone(),
        problem: "was not opened to be read tensor by tensor".to_owned(),
    })
}

/// The three matrices of tensors in the order of [`expert_names`].
fn matrices(
    tensors: &mut impl Iterator<Item = Tensor>,
    entry: impl Fn(String) -> WeightsError,
) -> Result<Expert, WeightsError> {
    let mut matrix = || {
        let weight = tensors.next().ok_or_else(|| entry("is incomplete".to_owned()))?;
        let scale = || tensors.next().ok_or_else(|| entry("has no scales".to_owned()));
        let format = matrix_format(weight, scale)?.ok_or_else(|| entry("is no matrix".to_owned()))?;
        WeightMatrix::new(format).map_err(|error| entry(error.to_string()))
    };
    Ok(Expert { w1: matrix()?, w3: matrix()?, w2: matrix()? })
}

/// Reads until the store closes.
pub(super) fn read_loop(shared: &Shared) {
    loop {
        let mut state = shared.lock();
        let key = loop {
            if state.is_closing {
                return;
            }
            if let Some(key) = state.next_read() {
                break key;
            }
            state = shared.wanted.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        };
        drop(state);
        let begun = Instant::now();
        let read = shared.source.read(key, &shared.arena);
        finish(shared, key, read, begun.elapsed());
    }
}

fn finish(shared: &Shared, key: ExpertKey, read: Result<(Expert, u64), WeightsError>, took: Duration) {
    let mut state = shared.lock();
    let bytes = read.as_ref().map_or(0, |&(_, bytes)| bytes);
    if let Some(reads) = state.reads.get_mut(usize::from(key.layer.0)) {
        *reads = reads.and(LayerReads { reads: 1, bytes, reading: took, ..LayerReads::default() });
    }
    let content = match read {
        Ok((expert, _)) => Content::Ready(Arc::new(expert)),
        Err(error) => Content::Failed(Arc::new(error)),
    };
    let is_awaited = state.slots.get(&key).is_some_and(|slot| slot.pins > 0);
    if matches!(content, Content::Failed(_)) && !is_awaited {
        // Foreseen, and nobody came for it yet: who needs it will read, and hear of it.
        state.slots.remove(&key);
        state.policy.remove(key);
    } else if let Some(slot) = state.slots.get_mut(&key) {
        slot.content = content;
    }
    drop(state);
    shared.moved.notify_all();
    // What was read and nobody waits for may make room.
    shared.wanted.notify_all();
}

impl Checkpoint {
    /// Where the tensors of a routed expert lie, in the order of [`expert_names`], scales only where there are any.
    pub(super) fn expert_places(&self, key: ExpertKey) -> Result<Vec<&Place>, WeightsError> {
        let mut places = Vec::with_capacity(6);
        for name in expert_names(self.config(), key) {
            let place = self.place(&name)?;
            let has_scale = matches!(known(place.dtype), Some(Dtype::I8 | Dtype::F8E4M3));
            places.push(place);
            if has_scale {
                places.push(self.place(&crate::inventory::scale_name(&name))?);
            }
        }
        Ok(places)
    }
}
