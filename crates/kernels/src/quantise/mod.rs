//! Activations in eight bits: what a product with FP8 or FP4 weights sees of its inputs.

use std::sync::OnceLock;

use cuvier_tensor::MatRef;

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows, Lent};

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// Columns that share a scale: as in the released inference code, whose activations are E4M3.
pub const ACTIVATION_BLOCK: usize = 128;
/// The largest code.
const CODE_MAX: f32 = 127.0;
/// Blocks without a larger number count as zeros: the quotient `127 / amax` must be finite.
const AMAX_MIN: f32 = 1e-30;

/// The inputs of products: rows of f32, and the same in eight bits as soon as a product asks for them.
///
/// Several products may share one: the rows are quantised once.
#[derive(Debug)]
pub struct Activations<'a> {
    x: MatRef<'a>,
    quantised: OnceLock<QuantisedRows>,
}

/// Rows of eight-bit codes with a scale per [`ACTIVATION_BLOCK`] columns.
///
/// Within a block the codes of the even columns come first, then those of the odd ones, both ascending: as the two
/// nibbles of FP4 bytes come apart. A last block that is not full is filled up with zeros.
#[derive(Debug)]
pub struct QuantisedRows {
    /// `[rows, blocks * ACTIVATION_BLOCK]`.
    codes: Lent<i8>,
    /// `[rows, blocks]`.
    scales: Lent,
}

impl<'a> Activations<'a> {
    /// The rows of `x`.
    pub fn new(x: MatRef<'a>) -> Self {
        Self { x, quantised: OnceLock::new() }
    }

    /// The numbers themselves.
    pub fn exact(&self) -> MatRef<'a> {
        self.x
    }

    /// The numbers in eight bits.
    pub fn quantised(&self, c: &Compute) -> &QuantisedRows {
        self.quantised.get_or_init(|| quantise(c, self.x))
    }
}

impl QuantisedRows {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.scales.rows()
    }

    /// Blocks per row.
    pub fn blocks(&self) -> usize {
        self.scales.cols()
    }

    /// The codes of row `row`, block after block.
    pub fn codes(&self, row: usize) -> &[[i8; ACTIVATION_BLOCK]] {
        self.codes.row(row).as_chunks().0
    }

    /// The scale of each block of row `row`.
    pub fn scales(&self, row: usize) -> &[f32] {
        self.scales.row(row)
    }
}

/// Rounds every number to a multiple of `amax / 127`, where `amax` is the largest magnitude of its block of
/// [`ACTIVATION_BLOCK`] columns in its row.
///
/// | argument | shape           | dtype | unit       |
/// |----------|-----------------|-------|------------|
/// | `x`      | `[rows, cols]`  | f32   | activation |
///
/// With `scale = amax / 127` and `inverse = 127 / amax`, each rounded to f32, a code is `x * inverse`, rounded to
/// f32 and then to the nearest integer, ties to even. A block whose `amax` is below 1e-30 has codes and scale 0. A
/// block that holds an infinity or a NaN has codes 0 and the scale NaN, so that no product hides it. A row depends on
/// nothing but itself.
///
/// Source: the place and the block of `act_quant` in DeepSeek-V4 `inference/kernel.py`; eight-bit integers take the
/// place of E4M3, whose error is larger (docs/numerics.md).
pub fn quantise(c: &Compute, x: MatRef<'_>) -> QuantisedRows {
    let blocks = x.cols().div_ceil(ACTIVATION_BLOCK);
    let mut codes = c.matrix(x.rows(), blocks * ACTIVATION_BLOCK);
    let mut scales = c.matrix(x.rows(), blocks);
    {
        let codes = DisjointRows::new(codes.data_mut(), blocks * ACTIVATION_BLOCK);
        let scales = DisjointRows::new(scales.data_mut(), blocks);
        // A number takes about as long as four products; a thread is woken for 2^15 of them.
        let min_len = (1 << 15) / x.cols().max(1);
        c.for_each_range(x.rows(), min_len, |rows| {
            for row in rows {
                // SAFETY: each row lies in one range only.
                let (codes, scales) =
                    unsafe { (codes.part(row, 0..blocks * ACTIVATION_BLOCK), scales.part(row, 0..blocks)) };
                c.isa().dispatch(QuantiseRow { x: x.row(row), codes, scales });
            }
        });
    }
    QuantisedRows { codes, scales }
}

/// One row.
struct QuantiseRow<'a> {
    x: &'a [f32],
    codes: &'a mut [i8],
    scales: &'a mut [f32],
}

impl Vectorized for QuantiseRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let blocks = self.x.chunks(ACTIVATION_BLOCK);
        let codes = self.codes.as_chunks_mut::<ACTIVATION_BLOCK>().0;
        for ((x, codes), scale) in blocks.zip(codes).zip(self.scales) {
            match x.as_array::<ACTIVATION_BLOCK>() {
                Some(x) => *scale = block(s, x, codes),
                None => {
                    let mut padded = [0.0; ACTIVATION_BLOCK];
                    padded[..x.len()].copy_from_slice(x);
                    *scale = block(s, &padded, codes);
                }
            }
        }
    }
}

/// Writes the codes of one block; returns its scale.
#[inline(always)]
pub(crate) fn block<S: Simd>(s: S, x: &[f32; ACTIVATION_BLOCK], codes: &mut [i8; ACTIVATION_BLOCK]) -> f32 {
    let amax = block_amax(s, x);
    if amax.is_nan() {
        codes.fill(0);
        return f32::NAN;
    }
    if amax < AMAX_MIN {
        codes.fill(0);
        return 0.0;
    }
    block_codes(s, x, CODE_MAX / amax, codes);
    amax / CODE_MAX
}

/// The largest magnitude of a block, NaN if one of its numbers is not finite.
#[inline(always)]
pub(crate) fn block_amax<S: Simd>(s: S, x: &[f32; ACTIVATION_BLOCK]) -> f32 {
    let zero = s.splat(0.0);
    let (mut amax, mut poison) = (zero, zero);
    for x in x.as_chunks::<LANES>().0 {
        let x = s.load(x);
        amax = s.max(amax, s.max(x, s.sub(zero, x)));
        poison = s.fma(x, zero, poison); // NaN as soon as a number is not finite
    }
    if s.sum(poison).is_nan() { f32::NAN } else { s.max_lane(amax) }
}

/// Writes the nearest integers of `x * inverse`, ties to even, in the order of [`QuantisedRows`].
#[inline(always)]
pub(crate) fn block_codes<S: Simd>(
    s: S,
    x: &[f32; ACTIVATION_BLOCK],
    inverse: f32,
    codes: &mut [i8; ACTIVATION_BLOCK],
) {
    let inverse = s.splat(inverse);
    let mut in_order = [0i8; ACTIVATION_BLOCK];
    for (x, out) in x.as_chunks::<LANES>().0.iter().zip(in_order.as_chunks_mut::<LANES>().0) {
        s.store_i8(s.round(s.mul(s.load(x), inverse)), out);
    }
    let (even, odd) = codes.split_at_mut(ACTIVATION_BLOCK / 2);
    for ((pair, even), odd) in in_order.as_chunks::<2>().0.iter().zip(even).zip(odd) {
        [*even, *odd] = *pair;
    }
}
