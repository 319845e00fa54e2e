//! A sequence state as bytes, and back.
//!
//! Layout, little endian: magic, the model's fingerprint, the cache format, the position; then for every list of
//! rows in the order of the layers its first index, its end and its rows. Only rows that a next token needs are
//! written, so the bytes are a function of the tokens: states that were reached in different ways are equal when
//! their bytes are. The rows kept longer for rollbacks are not saved; a restored state regains them as it grows.
//!
//! States that begin alike share most of their bytes, so a state is also saved in two parts. Entries and keys only
//! ever grow; those of [`SEGMENT_TOKENS`] tokens are a segment: for every layer with a past its entries, then its keys.
//! The tail is the layout above without what stands in whole segments.

use std::ops::Range;

use cuvier_kernels::KvFormat;
use cuvier_tensor::PagedRows;

use crate::attention::LayerState;
use crate::state::Geometry;
use crate::{ModelError, SequenceState};

const MAGIC: &[u8; 8] = b"CUVSTATE";

/// Tokens of a segment: whole groups of every layer, whose ratio is 4 or 128.
pub const SEGMENT_TOKENS: usize = 128;

/// Raised whenever the same weights and tokens give other bits than before: rounding, order of sums, stored formats.
const ARITHMETIC: u64 = 1;

impl SequenceState {
    /// A number that two states share only if the same weights, cache format and arithmetic made them.
    pub fn identity(&self) -> u64 {
        let version = ARITHMETIC << 8 | u64::from(format_code(self.geometry.kv));
        (self.geometry.fingerprint ^ version).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ version
    }

    /// The state as bytes; [`crate::Transformer::restore`] reads them.
    pub fn save(&self) -> Vec<u8> {
        self.save_behind(0)
    }

    /// Segments `range` one after the other, equally long in all states of one model and cache format: the same bytes
    /// in every state whose tokens up to their end are the same.
    ///
    /// # Panics
    /// If the state does not hold so many whole segments.
    pub fn segments(&self, range: Range<usize>) -> Vec<u8> {
        let mut out = Vec::new();
        for segment in range {
            let tokens = segment * SEGMENT_TOKENS..(segment + 1) * SEGMENT_TOKENS;
            assert!(tokens.end <= self.position, "segment {segment} of a state of {} tokens", self.position);
            let geometries = self.geometry.layers.iter().chain(&self.geometry.mtp);
            for (layer, geometry) in self.layers.iter().chain(&self.mtp).zip(geometries) {
                if let (Some(compressed), Some(geometry)) = (&layer.compressed, &geometry.compressed) {
                    let groups = tokens.start / geometry.ratio..tokens.end / geometry.ratio;
                    write_range(&mut out, &compressed.entries, groups.clone(), |byte| [byte]);
                    if let Some(index) = &compressed.index {
                        write_range(&mut out, &index.keys, groups, |byte| [byte]);
                    }
                }
            }
        }
        out
    }

    /// What the whole segments do not hold of the state; [`SequenceState::assemble`] joins them.
    pub fn tail(&self) -> Vec<u8> {
        self.save_behind(self.position / SEGMENT_TOKENS)
    }

    /// The state that gave these segments, from the first on, and this tail. `self` says of which model and format it
    /// must be; what it holds is forgotten.
    ///
    /// # Errors
    /// [`ModelError::ForeignState`] for another model's or format's, [`ModelError::DamagedState`] for what does not fit
    /// together.
    pub fn assemble<'a>(
        self,
        segments: impl IntoIterator<Item = &'a [u8]>,
        tail: &[u8],
    ) -> Result<Self, ModelError> {
        let mut state = Self::new(self.geometry);
        for segment in segments {
            state.append_segment(segment)?;
        }
        state.read_tail(tail)
    }

    fn append_segment(&mut self, segment: &[u8]) -> Result<(), ModelError> {
        let mut input = Input(segment);
        let geometries = self.geometry.layers.iter().chain(&self.geometry.mtp);
        for (layer, geometry) in self.layers.iter_mut().chain(&mut self.mtp).zip(geometries) {
            if let (Some(compressed), Some(geometry)) = (&mut layer.compressed, &geometry.compressed) {
                let groups = SEGMENT_TOKENS / geometry.ratio;
                compressed.entries.extend(input.take(groups * compressed.entries.row_len())?);
                if let Some(index) = &mut compressed.index {
                    index.keys.extend(input.take(groups * index.keys.row_len())?);
                }
            }
        }
        if input.0.is_empty() { Ok(()) } else { Err(DAMAGED_SEGMENT) }
    }

    fn save_behind(&self, n_segments: usize) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.geometry.fingerprint.to_le_bytes());
        out.push(format_code(self.geometry.kv));
        out.extend_from_slice(&(self.position as u64).to_le_bytes());
        let geometries = self.geometry.layers.iter().chain(&self.geometry.mtp);
        for (layer, geometry) in self.layers.iter().chain(&self.mtp).zip(geometries) {
            let window_start = layer.window.range().end.saturating_sub(self.geometry.sliding_window - 1);
            write_rows(&mut out, &layer.window, window_start, |byte| [byte]);
            if let (Some(compressed), Some(geometry)) = (&layer.compressed, &geometry.compressed) {
                let pending_start = geometry.pending_start(self.position);
                write_rows(&mut out, &compressed.pending, pending_start, f32::to_le_bytes);
                let first_group = n_segments * SEGMENT_TOKENS / geometry.ratio;
                write_rows(&mut out, &compressed.entries, first_group, |byte| [byte]);
                if let Some(index) = &compressed.index {
                    write_rows(&mut out, &index.pending, pending_start, f32::to_le_bytes);
                    write_rows(&mut out, &index.keys, first_group, |byte| [byte]);
                }
            }
        }
        out
    }

    pub(crate) fn restore(bytes: &[u8], geometry: Geometry) -> Result<Self, ModelError> {
        Self::new(geometry).read_tail(bytes)
    }

    /// Takes in what stands behind the segments that the state holds.
    fn read_tail(mut self, bytes: &[u8]) -> Result<Self, ModelError> {
        let mut input = Input(bytes);
        if input.take(8)? != MAGIC {
            return Err(ModelError::DamagedState { problem: "it does not begin like one" });
        }
        let (fingerprint, code) = (input.number()?, input.take(1)?);
        if fingerprint != self.geometry.fingerprint || code != [format_code(self.geometry.kv)] {
            return Err(ModelError::ForeignState);
        }
        let position = input.number()?;
        self.position = usize::try_from(position).map_err(|_| DAMAGED_RANGE)?;
        let Self { layers, mtp, .. } = &mut self;
        for layer in layers.iter_mut().chain(mtp) {
            read_layer(&mut input, layer)?;
        }
        if !input.0.is_empty() {
            return Err(ModelError::DamagedState { problem: "there are bytes after its end" });
        }
        self.check_ranges()?;
        Ok(self)
    }

    /// Restored rows must be the ones that a state at this position has.
    fn check_ranges(&self) -> Result<(), ModelError> {
        let end = self.position;
        let consistent = self.layers.iter().zip(&self.geometry.layers).all(|(layer, geometry)| {
            let compressed = layer.compressed.as_ref().zip(geometry.compressed.as_ref());
            layer.window.range().end == end
                && compressed.is_none_or(|(state, geometry)| {
                    let entries = 0..end / geometry.ratio;
                    state.pending.range().end == end
                        && state.entries.range() == entries
                        && state.index.as_ref().is_none_or(|index| {
                            index.pending.range() == state.pending.range() && index.keys.range() == entries
                        })
                })
        });
        if consistent
            && self.mtp.as_ref().is_none_or(|mtp| mtp.window.range().end <= end)
            && self.can_end_at(end)
        {
            Ok(())
        } else {
            Err(DAMAGED_RANGE)
        }
    }
}

const DAMAGED_SEGMENT: ModelError = ModelError::DamagedState { problem: "a segment has bytes after its end" };
const DAMAGED_RANGE: ModelError = ModelError::DamagedState { problem: "its rows do not fit its position" };

fn format_code(kv: KvFormat) -> u8 {
    match kv {
        KvFormat::Fp8 => 0,
        KvFormat::F32 => 1,
    }
}

fn read_layer(input: &mut Input<'_>, layer: &mut LayerState) -> Result<(), ModelError> {
    read_rows(input, &mut layer.window, |[byte]| byte)?;
    if let Some(compressed) = &mut layer.compressed {
        read_rows(input, &mut compressed.pending, f32::from_le_bytes)?;
        read_rows(input, &mut compressed.entries, |[byte]| byte)?;
        if let Some(index) = &mut compressed.index {
            read_rows(input, &mut index.pending, f32::from_le_bytes)?;
            read_rows(input, &mut index.keys, |[byte]| byte)?;
        }
    }
    Ok(())
}

fn write_rows<T: Copy + Default, const N: usize>(
    out: &mut Vec<u8>,
    rows: &PagedRows<T>,
    start: usize,
    bytes: fn(T) -> [u8; N],
) {
    let range = start..rows.range().end;
    out.extend_from_slice(&(range.start as u64).to_le_bytes());
    out.extend_from_slice(&(range.end as u64).to_le_bytes());
    write_range(out, rows, range, bytes);
}

fn write_range<T: Copy + Default, const N: usize>(
    out: &mut Vec<u8>,
    rows: &PagedRows<T>,
    range: Range<usize>,
    bytes: fn(T) -> [u8; N],
) {
    let mut index = range.start;
    while index < range.end {
        let run = rows.run(index, range.end);
        out.extend(run.iter().flat_map(|&value| bytes(value)));
        index += run.len() / rows.row_len();
    }
}

fn read_rows<T: Copy + Default, const N: usize>(
    input: &mut Input<'_>,
    rows: &mut PagedRows<T>,
    value: fn([u8; N]) -> T,
) -> Result<(), ModelError> {
    let (start, end) = (input.number()?, input.number()?);
    let count = end.checked_sub(start).ok_or(DAMAGED_RANGE)?;
    // A position never exceeds what its sequence's context could hold; this bounds the page table.
    if end > u64::from(u32::MAX) {
        return Err(DAMAGED_RANGE);
    }
    let len = count.checked_mul((rows.row_len() * N) as u64).and_then(|len| usize::try_from(len).ok());
    let bytes = input.take(len.ok_or(DAMAGED_RANGE)?)?;
    if rows.range().is_empty() {
        *rows = PagedRows::new(rows.row_len(), start as usize);
    } else if rows.range().end as u64 != start {
        return Err(DAMAGED_RANGE);
    }
    for row in bytes.chunks_exact(rows.row_len() * N) {
        let row: Vec<T> = row.as_chunks::<N>().0.iter().map(|&bytes| value(bytes)).collect();
        rows.extend(&row);
    }
    Ok(())
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ModelError> {
        let (taken, rest) =
            self.0.split_at_checked(len).ok_or(ModelError::DamagedState { problem: "it is cut short" })?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, ModelError> {
        let bytes = self.take(8)?.try_into().expect("eight bytes were taken");
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use cuvier_kernels::{EntryCodec, IndexKeyCodec};
    use cuvier_weights::ModelConfig;

    use super::*;
    use crate::state::{CompressedGeometry, LayerGeometry};

    /// The geometry of the smaller released model's states, which no weights are needed for.
    fn flash() -> Geometry {
        let config = ModelConfig::flash();
        let kv = KvFormat::Fp8;
        let entry_bytes =
            EntryCodec { format: kv, head_dim: config.head_dim, rope_dim: config.qk_rope_head_dim }
                .row_bytes();
        let key_bytes = IndexKeyCodec { format: kv, dim: config.index_head_dim }.row_bytes();
        let layer = |&ratio: &usize| {
            let overlap = ratio == 4;
            let row_len = |dim: usize| if overlap { 4 * dim } else { 2 * dim };
            let index = overlap.then(|| (row_len(config.index_head_dim), key_bytes));
            let pending_len = row_len(config.head_dim);
            let compressed = (ratio > 0).then_some(CompressedGeometry { ratio, overlap, pending_len, index });
            LayerGeometry { entry_bytes, compressed }
        };
        let layers = config.compress_ratios.iter().map(layer).collect();
        let mtp = Some(LayerGeometry { entry_bytes, compressed: None });
        Geometry { fingerprint: 7, kv, sliding_window: config.sliding_window, layers, mtp }
    }

    /// Rows that are all different, as if so many tokens had been computed.
    fn filled(position: usize) -> SequenceState {
        let mut state = SequenceState::new(flash());
        let bytes = |len: usize, row: usize| {
            (0..len).map(|i| (i * 7 + row * 31 + row / 256) as u8).collect::<Vec<_>>()
        };
        let floats = |len: usize, row: usize| (0..len).map(|i| (i * 3 + row) as f32).collect::<Vec<_>>();
        let SequenceState { layers, mtp, geometry, .. } = &mut state;
        for (layer, geometry) in layers.iter_mut().chain(mtp).zip(geometry.layers.iter().chain(&geometry.mtp))
        {
            layer.window = PagedRows::new(geometry.entry_bytes, position.saturating_sub(159));
            (layer.window.range().start..position)
                .for_each(|row| layer.window.extend(&bytes(geometry.entry_bytes, row)));
            let Some((past, geometry)) = layer.compressed.as_mut().zip(geometry.compressed.as_ref()) else {
                continue;
            };
            let start = geometry.pending_start(position.saturating_sub(32));
            past.pending = PagedRows::new(geometry.pending_len, start);
            (start..position).for_each(|row| past.pending.extend(&floats(geometry.pending_len, row)));
            (0..position / geometry.ratio)
                .for_each(|row| past.entries.extend(&bytes(past.entries.row_len(), row)));
            if let Some(index) = &mut past.index {
                index.pending = PagedRows::new(index.pending.row_len(), start);
                (start..position).for_each(|row| index.pending.extend(&floats(index.pending.row_len(), row)));
                (0..position / geometry.ratio)
                    .for_each(|row| index.keys.extend(&bytes(index.keys.row_len(), row)));
            }
        }
        state.position = position;
        state
    }

    #[test]
    fn a_state_of_true_width_is_cut_and_assembled() {
        let geometry = flash();
        for position in [130, 16_384, 16_421] {
            let state = filled(position);
            let n_segments = position / SEGMENT_TOKENS;
            let begun = Instant::now();
            let (segments, tail) = (state.segments(0..n_segments), state.tail());
            let cut = begun.elapsed();
            let parts: Vec<&[u8]> = segments.chunks(segments.len() / n_segments).collect();
            let begun = Instant::now();
            let back = SequenceState::new(geometry.clone()).assemble(parts, &tail).expect("they fit");
            println!(
                "{position} tokens: a segment has {} bytes, the tail {}; cut in {cut:?}, assembled in {:?}; in memory \
                 {} bytes, of which {} are not the past's, slim {}",
                segments.len() / n_segments,
                tail.len(),
                begun.elapsed(),
                state.bytes(),
                own_bytes(&state),
                own_bytes(&state.at(position).expect("it is there")),
            );
            assert!(back.save() == state.save(), "{position} tokens");
        }
    }

    /// Bytes of pages that states of other positions do not share.
    fn own_bytes(state: &SequenceState) -> usize {
        let past = state.layers.iter().filter_map(|layer| layer.compressed.as_ref());
        let past = past.map(|past| {
            past.entries.capacity() + past.index.as_ref().map_or(0, |index| index.keys.capacity())
        });
        state.bytes() - past.sum::<usize>()
    }
}
