//! Products of one token or two with sixteen rows of weights, row by row.

#![expect(clippy::needless_range_loop, reason = "loops of constant length, which must unroll into registers")]

use super::panel::Strip;
use super::product::Outputs;
use super::{BLOCK_BYTES, SCALES};
use crate::simd::{FourBlocks, LANES, Simd};

/// Bytes that weights are asked for before they are needed, into the first cache level and into the second. The prefetchers
/// of the core stop at every page, and so few lines can be on their way to the first level that memory would idle.
const AHEAD: usize = 1024;
const FAR_AHEAD: usize = 8192;
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
    match (strip.codes_stride % FOUR_BYTES).div_ceil(BLOCK_BYTES) {
        0 => {}
        1 | 2 => {
            for r in (0..LANES).step_by(2) {
                two_tails(s, strip, r, x, sums);
            }
        }
        _ => {
            for r in 0..LANES {
                tail(s, strip, r, x, sums);
            }
        }
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

/// The sums of row `r` of the strip, but for its last blocks if they are less than four: `sums` are `[T, LANES, fours]`.
#[inline(always)]
fn row<S: Simd, const T: usize>(
    s: S,
    strip: &Strip<'_>,
    r: usize,
    x: [&[FourBlocks]; T],
    sums: &mut [FourSums],
) {
    let fours = x[0].len();
    let (codes, _) = strip.codes[r * strip.codes_stride..][..strip.codes_stride].as_chunks();
    let (scales, _) = strip.scales[r * strip.scales_stride..][..strip.scales_stride].as_chunks();
    let whole = codes.len();
    assert!(scales.len() == whole && x.iter().all(|x| x.len() == fours) && sums.len() == T * LANES * fours);
    for four in 0..whole {
        ask(s, &codes[four]);
        if four.is_multiple_of(4) {
            s.prefetch(scales[four].as_ptr().wrapping_add(FAR_AHEAD * LANES / FOUR_BYTES));
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
}

/// The sums of the last blocks of row `r`, of which there are less than four.
#[inline(always)]
fn tail<S: Simd, const T: usize>(
    s: S,
    strip: &Strip<'_>,
    r: usize,
    x: [&[FourBlocks]; T],
    sums: &mut [FourSums],
) {
    let fours = x[0].len();
    let (codes, scales) = strip.tail(r);
    let found =
        s.four_sums(&filled_up(codes), &filled_up(scales), x.map(|x| x.last().expect("inputs of the tail")));
    for t in 0..T {
        sums[(t * LANES + r + 1) * fours - 1] = found[t].map(i32::to_le_bytes);
    }
}

/// The sums of the last blocks of rows `r` and `r + 1`, where a row has no more than two: inputs stand there twice, so
/// that both rows are met at once.
#[inline(always)]
fn two_tails<S: Simd, const T: usize>(
    s: S,
    strip: &Strip<'_>,
    r: usize,
    x: [&[FourBlocks]; T],
    sums: &mut [FourSums],
) {
    let fours = x[0].len();
    let [(codes, scales), (next_codes, next_scales)] = [strip.tail(r), strip.tail(r + 1)];
    ask(s, codes);
    ask(s, next_codes);
    let codes: [[u8; FOUR_BYTES / 2]; 2] = [filled_up(codes), filled_up(next_codes)];
    let scales: [[u8; LANES / 2]; 2] = [filled_up(scales), filled_up(next_scales)];
    let found = s.four_sums(
        codes.as_flattened().as_array().expect("two halves"),
        scales.as_flattened().as_array().expect("two halves"),
        x.map(|x| x.last().expect("inputs of the tail")),
    );
    for t in 0..T {
        let [a, b, c, d] = found[t].map(i32::to_le_bytes);
        sums[(t * LANES + r + 1) * fours - 1] = [a, b, [0; 4], [0; 4]];
        sums[(t * LANES + r + 2) * fours - 1] = [c, d, [0; 4], [0; 4]];
    }
}

/// Asks for what comes some way behind `codes`.
#[inline(always)]
fn ask<S: Simd>(s: S, codes: &[u8]) {
    for line in (0..codes.len()).step_by(64) {
        let at = codes.as_ptr().wrapping_add(line);
        s.prefetch(at.wrapping_add(AHEAD));
        s.prefetch_far(at.wrapping_add(FAR_AHEAD));
    }
}

/// `bytes` and zeros behind them. A copy of known length takes no call.
#[inline(always)]
fn filled_up<const N: usize>(bytes: &[u8]) -> [u8; N] {
    match bytes.as_array() {
        Some(all) => *all,
        None => {
            let mut out = [0; N];
            out[..bytes.len()].copy_from_slice(bytes);
            out
        }
    }
}
