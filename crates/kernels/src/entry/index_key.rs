//! Index keys as bytes, and index queries rounded the same way.

use cuvier_tensor::formats::{E2M1_MAX, FP4_BLOCK, e2m1_to_f32, e8m0_to_f32, f32_to_e2m1, index_key_bytes};
use cuvier_tensor::{MatMut, MatRef};

use super::codec::{decode_f32, encode_f32, encode_rows};
use super::{KvFormat, block_scale};
use crate::isa::Vectorized;
use crate::simd::Simd;
use crate::{Compute, DisjointRows};

/// Rows that are worth a task of their own.
const ROWS_PER_TASK: usize = 64;
/// Blocks of smaller numbers are scaled as if their largest magnitude were this.
const AMAX_FLOOR: f32 = 6.0 * f32::MIN_POSITIVE;

/// How one index key of `dim` numbers lies in its row of bytes.
///
/// [`KvFormat::Fp8`]: `dim / 2` bytes (rounded up) of E2M1 codes over their block's scale, the even element in the
/// low nibble; then one UE8M0 scale per block of 32 numbers, the last block may be shorter. A scale is
/// `2^ceil(log2(amax / 6))`, decided on the bits of the f32 product `amax * (1 / 6)`, where `amax` is the block's
/// largest magnitude and at least `6 * 2^-126`. Codes are rounded to nearest, ties to even. 68 bytes for 128.
///
/// [`KvFormat::F32`]: `dim` numbers of four bytes, little endian.
///
/// Source: DeepSeek-V4 `inference/kernel.py`, `fp4_act_quant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexKeyCodec {
    /// In what numbers.
    pub format: KvFormat,
    /// Numbers per key.
    pub dim: usize,
}

impl IndexKeyCodec {
    /// Bytes of one stored key.
    pub fn row_bytes(&self) -> usize {
        match self.format {
            KvFormat::Fp8 => index_key_bytes(self.dim),
            KvFormat::F32 => 4 * self.dim,
        }
    }

    /// The numbers of one stored key. Exact.
    ///
    /// # Panics
    /// If `row` is not [`Self::row_bytes`] long or `out` not `dim`.
    pub fn decode_row(&self, row: &[u8], out: &mut [f32]) {
        assert_eq!((row.len(), out.len()), (self.row_bytes(), self.dim));
        match self.format {
            KvFormat::F32 => decode_f32(row, out),
            KvFormat::Fp8 => {
                let (codes, scales) = row.split_at(self.dim.div_ceil(2));
                for (i, out) in out.iter_mut().enumerate() {
                    *out = e2m1_to_f32(codes[i / 2] >> (4 * (i % 2))) * e8m0_to_f32(scales[i / FP4_BLOCK]);
                }
            }
        }
    }

    fn encode_row(&self, x: &[f32], row: &mut [u8]) {
        match self.format {
            KvFormat::F32 => encode_f32(x, row),
            KvFormat::Fp8 => {
                let (codes, scales) = row.split_at_mut(self.dim.div_ceil(2));
                let blocks = x.chunks(FP4_BLOCK).zip(codes.chunks_mut(FP4_BLOCK / 2));
                for ((block, codes), scale) in blocks.zip(scales) {
                    *scale = block_scale(block, E2M1_MAX, AMAX_FLOOR);
                    let inverse = 1.0 / e8m0_to_f32(*scale);
                    for (code, pair) in codes.iter_mut().zip(block.chunks(2)) {
                        let high = pair.get(1).map_or(0, |&x| f32_to_e2m1(x * inverse));
                        *code = f32_to_e2m1(pair[0] * inverse) | high << 4;
                    }
                }
            }
        }
    }
}

/// Writes each row of `x` as a stored index key.
///
/// | argument | shape               | dtype | unit                                     |
/// |----------|---------------------|-------|------------------------------------------|
/// | `x`      | `[rows, dim]`       | f32   | index keys after rotation and Hadamard   |
/// | `out`    | `[rows, row_bytes]` | bytes | as [`IndexKeyCodec`] says                |
///
/// Rounds as [`IndexKeyCodec`] says. Infinities saturate; NaN makes its whole block of 32 decode to NaN.
///
/// # Panics
/// If the shapes disagree.
pub fn encode_index_keys(c: &Compute, codec: &IndexKeyCodec, x: MatRef<'_>, out: MatMut<'_, u8>) {
    assert_eq!(x.cols(), codec.dim);
    encode_rows(c, x, codec.row_bytes(), out, |x, row| codec.encode_row(x, row));
}

/// Rounds index queries to the numbers that FP4 keys can hold: each row of `x`, in blocks of 32, becomes what it
/// would decode to after [`encode_index_keys`] with [`KvFormat::Fp8`].
///
/// | argument | shape         | dtype | unit                                        |
/// |----------|---------------|-------|---------------------------------------------|
/// | `x`      | `[rows, dim]` | f32   | index queries after rotation and Hadamard   |
///
/// This looks like lost precision; the model was trained with it, so scores without it select other entries.
///
/// Source: DeepSeek-V4 `inference/model.py`, `Indexer.forward`.
pub fn quantise_index_queries(c: &Compute, x: MatMut<'_>) {
    let (rows, dim) = (x.rows(), x.cols());
    let x = DisjointRows::new(x.into_data(), dim);
    c.for_each_range(rows, ROWS_PER_TASK, |rows| {
        for row in rows {
            // SAFETY: every row belongs to exactly one range.
            c.isa().dispatch(QuantiseRow(unsafe { x.part(row, 0..dim) }));
        }
    });
}

struct QuantiseRow<'a>(&'a mut [f32]);

impl Vectorized for QuantiseRow<'_> {
    type Output = ();

    /// Plain Rust, which the compiler turns into vectors: nothing here is a sum.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for block in self.0.chunks_mut(FP4_BLOCK) {
            let scale = e8m0_to_f32(block_scale(block, E2M1_MAX, AMAX_FLOOR));
            let inverse = 1.0 / scale;
            for x in block {
                let magnitude = (*x * inverse).abs();
                // Neighbouring E2M1 values lie 0.5 apart up to 2, 1 up to 4, 2 up to 6; even multiples of the
                // step are the even codes.
                let step = if magnitude < 2.0 { 0.5 } else { 2.0 };
                let step = if (2.0..4.0).contains(&magnitude) { 1.0 } else { step };
                let rounded = ((magnitude / step).round_ties_even() * step).min(E2M1_MAX);
                *x = rounded.copysign(*x) * scale;
            }
        }
    }
}
