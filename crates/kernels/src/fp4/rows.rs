//! Products of one token or two with sixteen rows of weights, row by row.

#![expect(clippy::needless_range_loop, reason = "loops of constant length, which must unroll into registers")]

use super::SCALES;
use super::panel::Strip;
use super::product::Outputs;
use crate::simd::{FourBlocks, LANES, Simd};

/// Bytes that weights are asked for before they are needed. The prefetchers of the core stop at every page.
const AHEAD: usize = 4096;
/// Bytes of weights of four blocks.
const FOUR_BYTES: usize = 16 * LANES;

/// Four sums of a row, one for each block, as bytes.
pub(super) type FourSums = [[u8; 4]; 4];

/// The products with `T` tokens. `sums` is memory that is free to use.
#[inline(always)]
pub(super) fn product<S: Simd, const T: usize>(
    s: S,
    strip: &Strip<'_>,
    x: [&[FourBlocks]; T],
    sums: &mut Vec<FourSums>,
    out: &mut Outputs<'_>,
) {
    let fours = x[0].len();
    sums.resize(T * LANES * fours, [[0; 4]; 4]);
    for r in 0..LANES {
        row(s, strip, r, x, sums);
    }
    let mut totals = [s.splat(0.0); T];
    for four in 0..fours {
        let scales = strip.scale_quads(s, 4 * four);
        let existing = (strip.scales_stride - four * LANES).div_ceil(SCALES).min(4);
        for t in 0..T {
            let bytes = sums[t * LANES * fours + four..].as_flattened().as_flattened();
            let sums = s.load_quads(bytes, fours * LANES);
            for block in 0..existing {
                let (_, units) = s.block_scales(scales[block]);
                let scale = s.mul(units, s.splat(x[t][four].scales[block]));
                totals[t] = s.fma(s.int_to_f32(s.quad_to_int(sums[block])), scale, totals[t]);
            }
        }
    }
    for t in 0..T {
        out.store(s, t, totals[t]);
    }
}

/// The sums of row `r` of the strip: `sums` are `[T, LANES, fours]`.
#[inline(always)]
fn row<S: Simd, const T: usize>(
    s: S,
    strip: &Strip<'_>,
    r: usize,
    x: [&[FourBlocks]; T],
    sums: &mut [FourSums],
) {
    let fours = x[0].len();
    let (codes, codes_tail) = strip.codes[r * strip.codes_stride..][..strip.codes_stride].as_chunks();
    let (scales, scales_tail) = strip.scales[r * strip.scales_stride..][..strip.scales_stride].as_chunks();
    let whole = codes.len();
    assert!(scales.len() == whole && x.iter().all(|x| x.len() == fours) && sums.len() == T * LANES * fours);
    for four in 0..whole {
        for line in (0..FOUR_BYTES).step_by(64) {
            s.prefetch(codes[four].as_ptr().wrapping_add(AHEAD + line));
        }
        if four.is_multiple_of(4) {
            s.prefetch(scales[four].as_ptr().wrapping_add(AHEAD * LANES / FOUR_BYTES));
        }
        let mut four_x = [&x[0][four]; T];
        for t in 1..T {
            four_x[t] = &x[t][four];
        }
        let found = s.four_sums(&codes[four], &scales[four], four_x);
        for t in 0..T {
            sums[(t * LANES + r) * fours + four] = found[t].map(i32::to_le_bytes);
        }
    }
    if whole < fours {
        let (mut codes, mut scales) = ([0; FOUR_BYTES], [0; LANES]);
        codes[..codes_tail.len()].copy_from_slice(codes_tail);
        scales[..scales_tail.len()].copy_from_slice(scales_tail);
        let found = s.four_sums(&codes, &scales, x.map(|x| &x[whole]));
        for t in 0..T {
            sums[(t * LANES + r) * fours + whole] = found[t].map(i32::to_le_bytes);
        }
    }
}
