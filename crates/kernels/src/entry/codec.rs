//! Attention entries as bytes.

use cuvier_tensor::formats::{E4M3_MAX, ENTRY_BLOCK, e8m0_to_f32, entry_bytes, f32_to_bf16, f32_to_e4m3};
use cuvier_tensor::{MatMut, MatRef};

use super::{KvFormat, block_scale};
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

/// Rows that are worth a task of their own.
const ROWS_PER_TASK: usize = 16;
/// Blocks of smaller numbers are scaled as if their largest magnitude were this.
const AMAX_FLOOR: f32 = 1e-4;

/// How one entry of `head_dim` numbers, the last `rope_dim` of them rotated by position, lies in its row of
/// bytes.
///
/// [`KvFormat::Fp8`], with `nope = head_dim - rope_dim`:
///
/// | bytes                    | content                                                             |
/// |--------------------------|---------------------------------------------------------------------|
/// | `nope`                   | the first `nope` numbers over their block's scale, as E4M3          |
/// | `2 * rope_dim`           | the last `rope_dim` numbers as BF16, little endian                  |
/// | `nope / 64`, rounded up  | UE8M0 scales, one per block of 64 numbers; the last may be shorter  |
/// | to a multiple of 8       | zeros                                                               |
///
/// A scale is `2^ceil(log2(amax / 448))`, decided on the bits of the f32 product `amax * (1 / 448)`, where `amax`
/// is the block's largest magnitude and at least 1e-4. All roundings go to nearest, ties to even. 584 bytes for
/// 512 and 64.
///
/// [`KvFormat::F32`]: `head_dim` numbers of four bytes, little endian.
///
/// Source: DeepSeek-V4 `inference/kernel.py`, `act_quant`; the cache layout of its released attention kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryCodec {
    /// In what numbers.
    pub format: KvFormat,
    /// Numbers per entry.
    pub head_dim: usize,
    /// How many of them, at the end, are rotated by position and therefore kept in BF16.
    pub rope_dim: usize,
}

impl EntryCodec {
    /// Bytes of one stored entry.
    pub fn row_bytes(&self) -> usize {
        match self.format {
            KvFormat::Fp8 => entry_bytes(self.head_dim, self.rope_dim),
            KvFormat::F32 => 4 * self.head_dim,
        }
    }

    /// The numbers of one stored entry. Exact.
    ///
    /// # Panics
    /// If `row` is not [`Self::row_bytes`] long or `out` not `head_dim`.
    pub fn decode_row(&self, row: &[u8], out: &mut [f32]) {
        self.decode(crate::simd::Scalar, row, out);
    }

    /// As [`Self::decode_row`], in vectors.
    #[inline(always)]
    pub(crate) fn decode<S: Simd>(&self, s: S, row: &[u8], out: &mut [f32]) {
        assert_eq!((row.len(), out.len()), (self.row_bytes(), self.head_dim));
        match self.format {
            KvFormat::F32 => decode_f32(row, out),
            KvFormat::Fp8 => {
                let nope = self.head_dim - self.rope_dim;
                let (codes, rest) = row.split_at(nope);
                let (rope, scales) = rest.split_at(2 * self.rope_dim);
                let (out, rope_out) = out.split_at_mut(nope);
                let blocks = codes.chunks(ENTRY_BLOCK).zip(out.chunks_mut(ENTRY_BLOCK));
                for ((codes, out), &scale) in blocks.zip(scales) {
                    decode_e4m3(s, codes, e8m0_to_f32(scale), out);
                }
                decode_bf16(s, rope, rope_out);
            }
        }
    }

    fn encode_row(&self, x: &[f32], row: &mut [u8]) {
        match self.format {
            KvFormat::F32 => encode_f32(x, row),
            KvFormat::Fp8 => {
                let (nope, rope) = x.split_at(self.head_dim - self.rope_dim);
                let (codes, rest) = row.split_at_mut(nope.len());
                let (rope_out, scales) = rest.split_at_mut(2 * self.rope_dim);
                scales.fill(0);
                let blocks = nope.chunks(ENTRY_BLOCK).zip(codes.chunks_mut(ENTRY_BLOCK));
                for ((block, codes), scale) in blocks.zip(scales) {
                    *scale = block_scale(block, E4M3_MAX, AMAX_FLOOR);
                    // A power of two: the product is exact, as the quotient would be.
                    let inverse = 1.0 / e8m0_to_f32(*scale);
                    for (code, &x) in codes.iter_mut().zip(block) {
                        *code = f32_to_e4m3(x * inverse);
                    }
                }
                for (out, &x) in rope_out.as_chunks_mut::<2>().0.iter_mut().zip(rope) {
                    *out = f32_to_bf16(x).to_le_bytes();
                }
            }
        }
    }
}

/// Writes each row of `x` as a stored entry.
///
/// | argument | shape                | dtype | unit                                        |
/// |----------|----------------------|-------|---------------------------------------------|
/// | `x`      | `[rows, head_dim]`   | f32   | keys after norm and rotation                |
/// | `out`    | `[rows, row_bytes]`  | bytes | as [`EntryCodec`] says                      |
///
/// Rounds as [`EntryCodec`] says. Infinities saturate; NaN makes its whole block of 64 decode to NaN.
///
/// # Panics
/// If the shapes disagree.
pub fn encode_entries(c: &Compute, codec: &EntryCodec, x: MatRef<'_>, out: MatMut<'_, u8>) {
    assert_eq!(x.cols(), codec.head_dim);
    encode_rows(c, x, codec.row_bytes(), out, |x, row| codec.encode_row(x, row));
}

/// Runs `encode` on every row of `x` and its row of `out`.
pub(super) fn encode_rows(
    c: &Compute,
    x: MatRef<'_>,
    row_bytes: usize,
    out: MatMut<'_, u8>,
    encode: impl Fn(&[f32], &mut [u8]) + Sync,
) {
    assert_eq!((out.rows(), out.cols()), (x.rows(), row_bytes));
    let out = DisjointRows::new(out.into_data(), row_bytes);
    c.for_each_range(x.rows(), ROWS_PER_TASK, |rows| {
        for row in rows {
            // SAFETY: every row belongs to exactly one range.
            encode(x.row(row), unsafe { out.part(row, 0..row_bytes) });
        }
    });
}

pub(super) fn encode_f32(x: &[f32], row: &mut [u8]) {
    for (out, x) in row.as_chunks_mut::<4>().0.iter_mut().zip(x) {
        *out = x.to_le_bytes();
    }
}

#[inline(always)]
pub(super) fn decode_f32(row: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(row.as_chunks::<4>().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

#[inline(always)]
fn decode_e4m3<S: Simd>(s: S, codes: &[u8], scale: f32, out: &mut [f32]) {
    let scale = s.splat(scale);
    let (codes, codes_tail) = codes.as_chunks::<LANES>();
    let (out, out_tail) = out.as_chunks_mut::<LANES>();
    for (codes, out) in codes.iter().zip(out) {
        s.store(s.mul(s.load_e4m3(codes), scale), out);
    }
    if !codes_tail.is_empty() {
        let mut lanes = [0; LANES];
        lanes[..codes_tail.len()].copy_from_slice(codes_tail);
        s.store_partial(s.mul(s.load_e4m3(&lanes), scale), out_tail);
    }
}

#[inline(always)]
fn decode_bf16<S: Simd>(s: S, bytes: &[u8], out: &mut [f32]) {
    let (bytes, bytes_tail) = bytes.as_chunks::<{ 2 * LANES }>();
    let (out, out_tail) = out.as_chunks_mut::<LANES>();
    for (bytes, out) in bytes.iter().zip(out) {
        s.store(s.load_bf16(bytes), out);
    }
    if !bytes_tail.is_empty() {
        let mut lanes = [0; 2 * LANES];
        lanes[..bytes_tail.len()].copy_from_slice(bytes_tail);
        s.store_partial(s.load_bf16(&lanes), out_tail);
    }
}
