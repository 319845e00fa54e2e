//! How attention entries and index keys are stored: rows of f32 in, rows of bytes out, and back.
//!
//! An entry is one key, which is also its value: a token of the window or a compressed block. Both kinds are
//! stored alike. Entries are encoded once and decoded by [`crate::attention()`] each time they are looked at; the
//! bytes are the state of a sequence, so what a row decodes to is exact and the same everywhere.

mod codec;
mod index_key;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use codec::{EntryCodec, encode_entries};
pub use index_key::{IndexKeyCodec, encode_index_keys, quantise_index_queries};

/// In what numbers the attention state of a sequence is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// As the released model was trained: entries in E4M3 with their rotated part in BF16, index keys in E2M1.
    Fp8,
    /// Unrounded f32, for comparisons against exact arithmetic.
    F32,
}

/// The largest magnitude of a block, at least `floor`; NaN when any of its numbers is NaN.
#[inline(always)]
fn block_amax(block: &[f32], floor: f32) -> f32 {
    let amax = block.iter().fold(floor, |amax, &x| if x.abs() > amax { x.abs() } else { amax });
    if block.iter().any(|x| x.is_nan()) { f32::NAN } else { amax }
}

/// The UE8M0 byte of a block for numbers of magnitude up to `max`. A block with NaN gets 255, which decodes to
/// NaN, so that a broken activation is not stored as if it were a number.
#[inline(always)]
fn block_scale(block: &[f32], max: f32, floor: f32) -> u8 {
    let amax = block_amax(block, floor);
    if amax.is_nan() { u8::MAX } else { cuvier_tensor::formats::e8m0_ceil_scale(amax, max) }
}
