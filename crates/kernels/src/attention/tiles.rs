//! The two products of attention, in tiles of registers.

#![expect(clippy::needless_range_loop, reason = "loops of constant length, which must unroll into registers")]

use crate::isa::Vectorized;
use crate::simd::{LANES, Lanes, Simd};

/// Query rows come in multiples of this: the height of a tile.
pub(super) const HEADS: usize = 4;

/// Steps of a loop at a time: a processor foresees the end of a loop that is short.
const UNROLL: usize = 8;

/// Rows of vectors. Their distance in memory is an odd number of cache lines, so that the same columns of many rows
/// find room in the first cache level.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Vectors per row, zeros behind the last dimension.
    pub(super) vecs: usize,
    /// Vectors from one row to the next.
    pub(super) stride: usize,
}

impl Shape {
    pub(super) fn new(cols: usize) -> Self {
        let vecs = cols.div_ceil(LANES).next_multiple_of(UNROLL);
        Self { vecs, stride: vecs | 1 }
    }

    /// Row `row` of `rows`.
    #[inline(always)]
    fn row(self, rows: &[Lanes], row: usize) -> &[[Lanes; UNROLL]] {
        &rows[row * self.stride..][..self.vecs].as_chunks().0[..self.vecs / UNROLL]
    }
}

/// `scale * (q_h . key_j)` for all rows of `q` and `keys`, to columns of `out` from its first on, whose rows lie
/// `out_stride` apart.
#[inline(always)]
pub(super) fn scores<S: Simd>(
    s: S,
    q: &[Lanes],
    keys: &[Lanes],
    shape: Shape,
    scale: f32,
    out: &mut [f32],
    out_stride: usize,
) {
    if const { S::ACCUMULATORS >= 16 } {
        score_tiles::<S, 4>(s, q, keys, shape, scale, out, out_stride);
    } else if const { S::ACCUMULATORS >= 6 } {
        score_tiles::<S, 3>(s, q, keys, shape, scale, out, out_stride);
    } else {
        score_tiles::<S, 1>(s, q, keys, shape, scale, out, out_stride);
    }
}

/// In tiles of `K` keys. A few heads stay in the first cache level while all keys of the block come from the second.
#[inline(always)]
fn score_tiles<S: Simd, const K: usize>(
    s: S,
    q: &[Lanes],
    keys: &[Lanes],
    shape: Shape,
    scale: f32,
    out: &mut [f32],
    out_stride: usize,
) {
    for (q, out) in q.chunks_exact(HEADS * shape.stride).zip(out.chunks_mut(HEADS * out_stride)) {
        s.apart(ScoreTiles::<K> { q, keys, shape, scale, out, out_stride });
    }
}

/// The scores of [`HEADS`] heads, `K` keys at a time.
struct ScoreTiles<'a, const K: usize> {
    q: &'a [Lanes],
    keys: &'a [Lanes],
    shape: Shape,
    scale: f32,
    out: &'a mut [f32],
    out_stride: usize,
}

impl<const K: usize> Vectorized for ScoreTiles<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { q, keys, shape, scale, out, out_stride } = self;
        let mut rows = [shape.row(q, 0); HEADS];
        for h in 0..HEADS {
            rows[h] = shape.row(q, h);
        }
        let mut lanes = [[Lanes::ZERO; HEADS]; K];
        for (i, keys) in keys.chunks_exact(K * shape.stride).enumerate() {
            for part in 0..S::PARTS {
                multiply(s, rows, keys, shape, part, &mut lanes);
            }
            for (k, [a, b, c, d]) in lanes.iter().enumerate() {
                // Each as `Simd::dot` sums it.
                let dots = s.sum_four([s.load(&a.0), s.load(&b.0), s.load(&c.0), s.load(&d.0)]);
                for (h, dot) in dots.iter().enumerate() {
                    out[h * out_stride + i * K + k] = dot * scale;
                }
            }
        }
    }
}

/// The products of `K` keys and [`HEADS`] queries in the lanes of register `part`. One register of each vector at a
/// time, so that tiles can be large.
#[inline(always)]
fn multiply<S: Simd, const K: usize>(
    s: S,
    q: [&[[Lanes; UNROLL]]; HEADS],
    keys: &[Lanes],
    shape: Shape,
    part: usize,
    out: &mut [[Lanes; HEADS]; K],
) {
    let mut rows = [shape.row(keys, 0); K];
    for k in 0..K {
        rows[k] = shape.row(keys, k);
    }
    let mut tile = [[s.splat_part(0.0); HEADS]; K];
    for i in 0..shape.vecs / UNROLL {
        for v in 0..UNROLL {
            let mut key = [s.splat_part(0.0); K];
            for k in 0..K {
                key[k] = s.load_part(&rows[k][i][v].0, part);
            }
            for h in 0..HEADS {
                let q = s.load_part(&q[h][i][v].0, part);
                for k in 0..K {
                    tile[k][h] = s.fma_part(q, key[k], tile[k][h]);
                }
            }
        }
    }
    for k in 0..K {
        for h in 0..HEADS {
            s.store_part(tile[k][h], &mut out[k][h].0, part);
        }
    }
}

/// Adds `p_hj * key_j` to the rows of `sums`, key after key; `p_hj` is column `j` of row `h` of `p`, whose rows lie
/// `p_stride` apart.
#[inline(always)]
pub(super) fn sums<S: Simd>(
    s: S,
    p: &[f32],
    p_stride: usize,
    keys: &[Lanes],
    sums: &mut [Lanes],
    shape: Shape,
) {
    let parts = shape.vecs * S::PARTS;
    // Registers to a tile; the last two tiles share what is left.
    let most = if const { S::ACCUMULATORS >= 16 } { 4 } else { 3 };
    let tiles = parts.div_ceil(most);
    let mut first = 0;
    for tile in 0..tiles {
        let count = (parts - first).div_ceil(tiles - tile);
        match count {
            1 => sum_tiles::<S, 1>(s, p, p_stride, keys, sums, shape, first),
            2 => sum_tiles::<S, 2>(s, p, p_stride, keys, sums, shape, first),
            3 => sum_tiles::<S, 3>(s, p, p_stride, keys, sums, shape, first),
            _ => sum_tiles::<S, 4>(s, p, p_stride, keys, sums, shape, first),
        }
        first += count;
    }
}

/// Of the columns of `N` registers from register `first` of a row on.
#[inline(always)]
fn sum_tiles<S: Simd, const N: usize>(
    s: S,
    p: &[f32],
    p_stride: usize,
    keys: &[Lanes],
    sums: &mut [Lanes],
    shape: Shape,
    first: usize,
) {
    for (group, sums) in sums.chunks_exact_mut(HEADS * shape.stride).enumerate() {
        let p = &p[group * HEADS * p_stride..];
        s.apart(SumTile::<N> { p, p_stride, keys, sums, stride: shape.stride, first });
    }
}

/// The sums of [`HEADS`] heads in the columns of `N` registers.
struct SumTile<'a, const N: usize> {
    p: &'a [f32],
    p_stride: usize,
    keys: &'a [Lanes],
    sums: &'a mut [Lanes],
    stride: usize,
    first: usize,
}

impl<const N: usize> Vectorized for SumTile<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { p, p_stride, keys, sums, stride, first } = self;
        let len = keys.len() / stride;
        let mut rows = [&p[..0]; HEADS];
        let mut tile = [[s.splat_part(0.0); N]; HEADS];
        for h in 0..HEADS {
            rows[h] = &p[h * p_stride..][..len];
            for n in 0..N {
                let at = first + n;
                tile[h][n] = s.load_part(&sums[h * stride + at / S::PARTS].0, at % S::PARTS);
            }
        }
        for (j, key) in (0..len).zip(keys.chunks_exact(stride)) {
            let mut values = [s.splat_part(0.0); N];
            for n in 0..N {
                let at = first + n;
                values[n] = s.load_part(&key[at / S::PARTS].0, at % S::PARTS);
            }
            for h in 0..HEADS {
                let p = s.splat_part(rows[h][j]);
                for n in 0..N {
                    tile[h][n] = s.fma_part(p, values[n], tile[h][n]);
                }
            }
        }
        for h in 0..HEADS {
            for n in 0..N {
                let at = first + n;
                s.store_part(tile[h][n], &mut sums[h * stride + at / S::PARTS].0, at % S::PARTS);
            }
        }
    }
}
