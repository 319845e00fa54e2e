//! The streams of every token times the few long rows of `fn`.

use cuvier_tensor::{MatRef, Matrix};

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

/// Rows of `fn` that are multiplied side by side.
const ROWS: usize = 4;

/// Tokens that one task takes with the same rows of `fn`, so that those are read once for all of them.
const TOKENS: usize = 8;

/// Fewer products than this are not worth a second thread.
const PRODUCTS_PER_TASK_MIN: usize = 1 << 17;

/// `[tokens, rows + 1]`: the dot products of each token's streams with each row of `weight`, and last its square
/// sum, each in the order of [`Simd::dot`].
pub(super) fn project(c: &Compute, streams: MatRef<'_>, weight: &Matrix) -> Matrix {
    let (tokens, rows, len) = (streams.rows(), weight.rows(), streams.cols());
    let mut out = Matrix::zeros(tokens, rows + 1);
    let parts = DisjointRows::new(out.data_mut(), rows + 1);
    // One token alone still has several tiles of rows to share among threads; the last tile is the square sum.
    let row_tiles = rows.div_ceil(ROWS) + 1;
    let items = tokens.div_ceil(TOKENS) * row_tiles;
    let products = ROWS * TOKENS.min(tokens) * len;
    c.for_each_range(items, PRODUCTS_PER_TASK_MIN.div_ceil(products.max(1)), |items| {
        for item in items {
            let first = item / row_tiles * TOKENS;
            let tokens = first..(first + TOKENS).min(tokens);
            let first = item % row_tiles * ROWS;
            let weights = if item % row_tiles + 1 == row_tiles {
                None
            } else {
                Some(&weight.data()[first * len..(first + ROWS).min(rows) * len])
            };
            let columns = match weights {
                Some(_) => first..(first + ROWS).min(rows),
                None => rows..rows + 1,
            };
            for token in tokens {
                // SAFETY: each pair of token and tile of columns is in exactly one item.
                let out = unsafe { parts.part(token, columns.clone()) };
                c.isa().dispatch(Dots { v: streams.row(token), weights, out });
            }
        }
    });
    out
}

/// One token's dot products with some rows, or with itself.
struct Dots<'a> {
    v: &'a [f32],
    weights: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Vectorized for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Some(weights) = self.weights else {
            self.out[0] = s.dot(self.v, self.v);
            return;
        };
        let mut rows = weights.chunks_exact(self.v.len());
        match self.out.as_mut_array::<ROWS>() {
            Some(out) => {
                *out = dots(s, self.v, std::array::from_fn(|_| rows.next().expect("a row per output")));
            }
            None => self.out.iter_mut().zip(rows).for_each(|(out, row)| *out = s.dot(self.v, row)),
        }
    }
}

/// Each number as [`Simd::dot`] gives it; side by side, so that one sum need not wait for its last addition.
#[inline(always)]
fn dots<S: Simd>(s: S, v: &[f32], rows: [&[f32]; ROWS]) -> [f32; ROWS] {
    let (v, v_tail) = v.as_chunks::<LANES>();
    let chunks = rows.map(|row| &row.as_chunks::<LANES>().0[..v.len()]);
    let mut sums = [s.splat(0.0); ROWS];
    for (i, v) in v.iter().enumerate() {
        let v = s.load(v);
        for (sum, row) in sums.iter_mut().zip(chunks) {
            *sum = s.fma(v, s.load(&row[i]), *sum);
        }
    }
    if !v_tail.is_empty() {
        let tail = s.load_partial(v_tail, 0.0);
        for (sum, row) in sums.iter_mut().zip(rows) {
            *sum = s.fma(tail, s.load_partial(&row[v.len() * LANES..], 0.0), *sum);
        }
    }
    sums.map(|sum| s.sum(sum))
}
