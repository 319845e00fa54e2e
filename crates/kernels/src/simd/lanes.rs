//! Vectors in memory, where loads and stores do not cross cache lines.

use super::LANES;

/// Sixteen numbers of one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// Zeros.
    pub const ZERO: Self = Self([0.0; LANES]);

    /// The numbers of consecutive vectors.
    #[inline(always)]
    pub fn flat(lanes: &[Self]) -> &[f32] {
        // SAFETY: a `Lanes` is sixteen f32 and nothing else: its size equals its alignment.
        unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), lanes.len() * LANES) }
    }

    /// The numbers of consecutive vectors.
    #[inline(always)]
    pub fn flat_mut(lanes: &mut [Self]) -> &mut [f32] {
        // SAFETY: as in `flat`.
        unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len() * LANES) }
    }
}

/// Fills `out` with the numbers of `lanes`, the last of which may have more than are left.
///
/// # Panics
/// If `lanes` has too few.
pub fn copy_lanes<'a>(mut lanes: impl Iterator<Item = &'a Lanes>, out: &mut [f32]) {
    let (whole, rest) = out.as_chunks_mut::<LANES>();
    for out in whole {
        *out = lanes.next().expect("lanes for all numbers").0;
    }
    if !rest.is_empty() {
        rest.copy_from_slice(&lanes.next().expect("lanes for all numbers").0[..rest.len()]);
    }
}
