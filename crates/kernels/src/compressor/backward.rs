//! The gradient of compressed entries.

use cuvier_tensor::{MatMut, MatRef};

use super::{CompressorShape, NUMBERS_PER_TASK_MIN};
use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

#[cfg(test)]
mod tests;

/// Gradient of [`compress`](crate::compress()) for the rows of one whole sequence: with the weights `w` of the softmax
/// and the entry `e = sum of w K`, in every channel
///
/// ```text
/// dK = w * de        dS = w * de * (K - e)
/// ```
///
/// | argument | shape                    | dtype | unit |
/// |----------|--------------------------|-------|------|
/// | `rows`   | `[tokens, 2 * features]` | f32   | K and S of the sequence's tokens from position 0 on |
/// | `dout`   | `[blocks, dim]`          | f32   | gradient of the entries of its whole blocks |
/// | `drows`  | `[tokens, 2 * features]` | f32   | gradient of `rows`, written: zero where no entry pools them |
///
/// Source: derivative of DeepSeek-V4 `inference/model.py`, `Compressor.forward`.
///
/// # Panics
/// If the shapes disagree.
pub fn compress_backward(
    c: &Compute,
    rows: MatRef<'_>,
    shape: CompressorShape,
    dout: MatRef<'_>,
    drows: MatMut<'_>,
) {
    let (tokens, row_len) = (rows.rows(), shape.row_len());
    assert!(tokens == 0 || rows.cols() == row_len, "rows hold K and S");
    assert_eq!(dout.rows(), tokens / shape.ratio, "an entry per whole block");
    assert!(drows.rows() == tokens && (tokens == 0 || drows.cols() == row_len), "a gradient per row");
    let drows = drows.into_data();
    drows.fill(0.0);
    let drows = DisjointRows::new(drows, row_len);
    let pooled = shape.ratio * shape.dim * if shape.overlap { 2 } else { 1 };
    c.for_each_range(dout.rows(), NUMBERS_PER_TASK_MIN / pooled.max(1), |blocks| {
        for block in blocks {
            let own = block * shape.ratio..(block + 1) * shape.ratio;
            let slots: Vec<(usize, usize)> = if shape.overlap {
                let previous = own.start.saturating_sub(shape.ratio)..own.start;
                previous.map(|t| (t, 0)).chain(own.map(|t| (t, 1))).collect()
            } else {
                own.map(|t| (t, 0)).collect()
            };
            c.isa().dispatch(Entry { rows, shape, slots: &slots, dout: dout.row(block), drows: &drows });
        }
    });
}

/// One entry: the tokens that it pools, each with the half of its features that it gives.
struct Entry<'a> {
    rows: MatRef<'a>,
    shape: CompressorShape,
    slots: &'a [(usize, usize)],
    dout: &'a [f32],
    drows: &'a DisjointRows<'a, f32>,
}

impl Vectorized for Entry<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, shape, slots, dout, drows } = self;
        let features = shape.features();
        for (chunk, dout) in dout.chunks(LANES).enumerate() {
            let columns = |half: usize| {
                let start = half * shape.dim + chunk * LANES;
                start..start + dout.len()
            };
            let k = |&(t, half): &(usize, usize)| s.load_partial(&rows.row(t)[columns(half)], 0.0);
            let logit =
                |&(t, half): &(usize, usize)| s.load_partial(&rows.row(t)[features..][columns(half)], 0.0);
            let mut max = s.splat(f32::NEG_INFINITY);
            for slot in slots {
                max = s.max(logit(slot), max);
            }
            let (mut sum, mut entry) = (s.splat(0.0), s.splat(0.0));
            for slot in slots {
                let weight = s.exp(s.sub(logit(slot), max));
                sum = s.add(sum, weight);
                entry = s.fma(weight, k(slot), entry);
            }
            let entry = s.div(entry, sum);
            let dout = s.div(s.load_partial(dout, 0.0), sum);
            for slot in slots {
                let dk = s.mul(s.exp(s.sub(logit(slot), max)), dout);
                let ds = s.mul(dk, s.sub(k(slot), entry));
                let (t, columns) = (slot.0, columns(slot.1));
                let of_s = features + columns.start..features + columns.end;
                // SAFETY: a half of a token's features is pooled by one entry only, and each entry is one task.
                let (out_k, out_s) = unsafe { (drows.part(t, columns), drows.part(t, of_s)) };
                s.store_partial(dk, out_k);
                s.store_partial(ds, out_s);
            }
        }
    }
}

/// Gradient of [`compressor_rows`](crate::compressor_rows()) for the biases: adds the gradient of each token's S to
/// that of its place.
///
/// | argument    | shape                    | dtype | unit |
/// |-------------|--------------------------|-------|------|
/// | `drows`     | `[tokens, 2 * features]` | f32   | gradient of the rows |
/// | `positions` | `[tokens]`               | u32   | absolute position of each token |
/// | `dape`      | `[ratio, features]`      | f32   | added to |
///
/// # Panics
/// If the shapes disagree.
pub fn compressor_rows_backward(
    c: &Compute,
    drows: MatRef<'_>,
    ratio: usize,
    positions: &[u32],
    dape: &mut [f32],
) {
    let features = drows.cols() / 2;
    assert_eq!(dape.len(), ratio * features, "a bias for {ratio} places of {features} features");
    assert_eq!(positions.len(), drows.rows(), "a position per token");
    c.add_over_rows(drows.rows(), dape, |rows, sums| {
        for row in rows {
            let place = positions[row] as usize % ratio;
            let sums = &mut sums[place * features..][..features];
            sums.iter_mut().zip(&drows.row(row)[features..]).for_each(|(sum, d)| *sum += d);
        }
    });
}
