//! The innermost loops: a few rows of weights against a few tokens, sums in registers.

use super::rows::{CHUNK, Row, Rows};
use crate::simd::{LANES, Lanes, Simd};

/// The sums of `R` rows and `T` tokens, lanes not yet added up.
pub(super) type Sums<V, const R: usize, const T: usize> = [[V; T]; R];

/// The sums of stored rows and tokens, chunk by chunk in ascending order, the last vector padded with zeros.
/// All of `x` are as long as a row.
#[inline(always)]
pub(super) fn stored_tile<'a, S: Simd, W: Rows<'a>, const R: usize, const T: usize>(
    s: S,
    rows: &[Row<'a, W::Chunk, W::Scales>; R],
    x: &[&[f32]; T],
) -> Sums<S::V, R, T> {
    let mut sums = [[s.splat(0.0); T]; R];
    let whole = x[0].len() / CHUNK;
    let mut chunks: [&[W::Chunk]; R] = [&[]; R];
    for r in 0..R {
        chunks[r] = &rows[r].chunks[..whole];
    }
    let mut x_chunks: [&[[f32; CHUNK]]; T] = [&[]; T];
    for t in 0..T {
        x_chunks[t] = &x[t].as_chunks().0[..whole];
    }
    // The same columns of the rows that come next: rows are about as long as the pages at whose ends the hardware
    // stops to read ahead by itself.
    let ahead = R * whole * size_of::<W::Chunk>();
    let mut start = 0;
    while start < whole {
        let end = (start + W::BLOCK_CHUNKS).min(whole);
        let blocks = blocks::<S, W, R>(s, rows, start / W::BLOCK_CHUNKS);
        for i in start..end {
            for r in 0..R {
                s.prefetch_far((&raw const chunks[r][i]).cast::<u8>().wrapping_add(ahead));
                let w = W::decode(s, &chunks[r][i], blocks[r]);
                for t in 0..T {
                    let (x, _) = x_chunks[t][i].as_chunks();
                    sums[r][t] = s.fma(w[0], s.load(&x[0]), sums[r][t]);
                    sums[r][t] = s.fma(w[1], s.load(&x[1]), sums[r][t]);
                }
            }
        }
        start = end;
    }
    let rest = x[0].len() - whole * CHUNK;
    if rest > 0 {
        let blocks = blocks::<S, W, R>(s, rows, whole / W::BLOCK_CHUNKS);
        for r in 0..R {
            let tail = rows[r].tail.as_ref().expect("a row is as long as its inputs");
            let w = W::decode(s, tail, blocks[r]);
            for t in 0..T {
                let x = &x[t][whole * CHUNK..];
                sums[r][t] = s.fma(w[0], s.load_partial(&x[..rest.min(LANES)], 0.0), sums[r][t]);
                if rest > LANES {
                    sums[r][t] = s.fma(w[1], s.load_partial(&x[LANES..], 0.0), sums[r][t]);
                }
            }
        }
    }
    sums
}

#[inline(always)]
fn blocks<'a, S: Simd, W: Rows<'a>, const R: usize>(
    s: S,
    rows: &[Row<'a, W::Chunk, W::Scales>; R],
    block: usize,
) -> [W::Block<S>; R] {
    let mut blocks = [W::block(s, rows[0].scales, block); R];
    for r in 1..R {
        blocks[r] = W::block(s, rows[r].scales, block);
    }
    blocks
}

/// Adds to `sums` the products of decoded rows and tokens, both `[vectors, ...]`.
#[inline(always)]
pub(super) fn decoded_tile<S: Simd, const R: usize, const T: usize>(
    s: S,
    w: &[[Lanes; R]],
    x: &[[Lanes; T]],
    mut sums: Sums<S::V, R, T>,
) -> Sums<S::V, R, T> {
    for (w_lines, x_lines) in w.iter().zip(x) {
        let mut w = [s.splat(0.0); R];
        for r in 0..R {
            w[r] = s.load(&w_lines[r].0);
        }
        for t in 0..T {
            let x = s.load(&x_lines[t].0);
            for r in 0..R {
                sums[r][t] = s.fma(w[r], x, sums[r][t]);
            }
        }
    }
    sums
}
