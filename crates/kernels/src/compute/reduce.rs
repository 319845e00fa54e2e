//! Sums over the rows of a batch.

use std::ops::Range;

use super::Compute;
use crate::DisjointRows;

/// Rows whose sum is taken together. The order of a sum is fixed by this alone, not by the number of threads.
const BLOCK_ROWS: usize = 64;

impl Compute {
    /// Adds to `out` what `block` writes for each block of rows, in order: `block` gets the rows and zeros as long
    /// as `out`, which it adds its rows to.
    pub(crate) fn add_over_rows(
        &self,
        rows: usize,
        out: &mut [f32],
        block: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let blocks = rows.div_ceil(BLOCK_ROWS);
        let mut partial = self.matrix(blocks, out.len());
        if out.is_empty() {
            return;
        }
        let parts = DisjointRows::new(partial.data_mut(), out.len());
        self.for_each(blocks, |index| {
            // SAFETY: each block has a row of its own.
            let part = unsafe { parts.rows(index..index + 1) };
            part.fill(0.0);
            block(index * BLOCK_ROWS..rows.min((index + 1) * BLOCK_ROWS), part);
        });
        for part in partial.view().iter() {
            out.iter_mut().zip(part).for_each(|(out, part)| *out += part);
        }
    }
}
