//! The two products of attention, in tiles that fit the registers.

use std::ops::Range;

use crate::simd::{LANES, Simd};

/// Query rows come in multiples of this.
pub(super) const HEADS_MAX: usize = 4;
/// Vectors per row come in multiples of this.
pub(super) const VECS_MAX: usize = 4;

/// Sixteen numbers of one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Lanes(pub(super) [f32; LANES]);

impl Lanes {
    pub(super) const ZERO: Self = Self([0.0; LANES]);

    /// The numbers of consecutive vectors.
    #[inline(always)]
    pub(super) fn flat(lanes: &[Self]) -> &[f32] {
        // SAFETY: a `Lanes` is sixteen f32 and nothing else: its size equals its alignment.
        unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), lanes.len() * LANES) }
    }

    /// The numbers of consecutive vectors.
    #[inline(always)]
    pub(super) fn flat_mut(lanes: &mut [Self]) -> &mut [f32] {
        // SAFETY: as in `flat`.
        unsafe { std::slice::from_raw_parts_mut(lanes.as_mut_ptr().cast(), lanes.len() * LANES) }
    }
}

/// `scale * (q_h . key_j)` for all rows of `q` and `keys`, to the columns `columns` of `out`'s rows.
#[inline(always)]
pub(super) fn scores<S: Simd>(
    s: S,
    q: &[Lanes],
    keys: &[Lanes],
    vecs: usize,
    scale: f32,
    out: &mut [f32],
    columns: Range<usize>,
) {
    let out_cols = out.len() / (q.len() / vecs);
    if S::ACCUMULATORS >= 16 {
        score_tiles::<S, 4, 4>(s, q, keys, vecs, scale, &mut out[columns.start..], out_cols);
    } else {
        score_tiles::<S, 2, 2>(s, q, keys, vecs, scale, &mut out[columns.start..], out_cols);
    }
}

#[inline(always)]
fn score_tiles<S: Simd, const H: usize, const K: usize>(
    s: S,
    q: &[Lanes],
    keys: &[Lanes],
    vecs: usize,
    scale: f32,
    out: &mut [f32],
    out_cols: usize,
) {
    // A few keys stay in the first cache level while all heads pass.
    for (tile, keys) in keys.chunks_exact(K * vecs).enumerate() {
        for (group, q) in q.chunks_exact(H * vecs).enumerate() {
            let dots = dot_tile::<S, H, K>(s, q, keys, vecs);
            for (h, dots) in dots.iter().enumerate() {
                for (out, dot) in out[(group * H + h) * out_cols + tile * K..].iter_mut().zip(dots) {
                    *out = dot * scale;
                }
            }
        }
    }
}

/// The dot products of `H` queries and `K` keys, each as [`Simd::dot`] sums it.
#[inline(always)]
fn dot_tile<S: Simd, const H: usize, const K: usize>(
    s: S,
    q: &[Lanes],
    keys: &[Lanes],
    vecs: usize,
) -> [[f32; K]; H] {
    let q: [&[Lanes]; H] = std::array::from_fn(|h| &q[h * vecs..][..vecs]);
    let keys: [&[Lanes]; K] = std::array::from_fn(|k| &keys[k * vecs..][..vecs]);
    let mut sums = [[s.splat(0.0); K]; H];
    for v in 0..vecs {
        let mut key = [s.splat(0.0); K];
        for k in 0..K {
            key[k] = s.load(&keys[k][v].0);
        }
        for h in 0..H {
            let q = s.load(&q[h][v].0);
            for k in 0..K {
                sums[h][k] = s.fma(q, key[k], sums[h][k]);
            }
        }
    }
    let mut dots = [[0.0; K]; H];
    for h in 0..H {
        for k in 0..K {
            dots[h][k] = s.sum(sums[h][k]);
        }
    }
    dots
}

/// Adds `p_hj * key_j` to the rows of `sums`, key after key; `p_hj` is column `first_column + j` of row `h` of `p`.
#[inline(always)]
pub(super) fn sums<S: Simd>(
    s: S,
    p: &[f32],
    first_column: usize,
    keys: &[Lanes],
    sums: &mut [Lanes],
    vecs: usize,
) {
    let p_cols = p.len() / (sums.len() / vecs);
    if S::ACCUMULATORS >= 16 {
        sum_tiles::<S, 4, 4>(s, &p[first_column..], p_cols, keys, sums, vecs);
    } else {
        sum_tiles::<S, 2, 2>(s, &p[first_column..], p_cols, keys, sums, vecs);
    }
}

#[inline(always)]
fn sum_tiles<S: Simd, const H: usize, const V: usize>(
    s: S,
    p: &[f32],
    p_cols: usize,
    keys: &[Lanes],
    sums: &mut [Lanes],
    vecs: usize,
) {
    let len = keys.len() / vecs;
    for first in (0..vecs).step_by(V) {
        for (group, sums) in sums.chunks_exact_mut(H * vecs).enumerate() {
            let p: [&[f32]; H] = std::array::from_fn(|h| &p[(group * H + h) * p_cols..][..len]);
            let mut tile = [[s.splat(0.0); V]; H];
            for h in 0..H {
                for v in 0..V {
                    tile[h][v] = s.load(&sums[h * vecs + first + v].0);
                }
            }
            for (j, key) in keys.chunks_exact(vecs).enumerate() {
                let mut values = [s.splat(0.0); V];
                for v in 0..V {
                    values[v] = s.load(&key[first + v].0);
                }
                for h in 0..H {
                    let p = s.splat(p[h][j]);
                    for v in 0..V {
                        tile[h][v] = s.fma(p, values[v], tile[h][v]);
                    }
                }
            }
            for h in 0..H {
                for v in 0..V {
                    s.store(tile[h][v], &mut sums[h * vecs + first + v].0);
                }
            }
        }
    }
}
