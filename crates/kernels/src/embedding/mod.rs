//! Rows of the embedding table.

use cuvier_tensor::{MatMut, WeightMatrix};

mod backward;

pub use backward::embed_backward;

use crate::gemm::decode;
use crate::{Compute, DisjointRows};

#[cfg(test)]
mod tests;

/// Table look-up: `out[t] = table[ids[t]]`, decoded to f32.
///
/// | argument | shape             | dtype                 | unit       |
/// |----------|-------------------|-----------------------|------------|
/// | `ids`    | `[tokens]`        | u32                   | table row  |
/// | `table`  | `[vocab, hidden]` | F32, BF16, FP8 or FP4 | weight     |
/// | `out`    | `[tokens, hidden]`| f32                   | activation |
///
/// Code times scale: exact for UE8M0 scales and formats without scale, rounded once for F32 scales.
///
/// Source: DeepSeek-V4 `inference/model.py`, `ParallelEmbedding.forward`.
///
/// # Panics
/// If the shapes disagree or an id is not a row of the table.
pub fn embed(c: &Compute, ids: &[u32], table: &WeightMatrix, out: MatMut<'_>) {
    assert_eq!((out.rows(), out.cols()), (ids.len(), table.cols()), "outputs");
    if let Some(id) = ids.iter().find(|&&id| id as usize >= table.rows()) {
        panic!("id {id} of a table of {} rows", table.rows());
    }
    let out = DisjointRows::new(out.into_data(), table.cols());
    // Below some 256 KiB of output, waking a thread takes longer than copying.
    let min_len = (1 << 16) / table.cols().max(1);
    c.for_each_range(ids.len(), min_len, |tokens| {
        for t in tokens {
            // SAFETY: each token lies in one range only.
            let out = unsafe { out.part(t, 0..table.cols()) };
            decode(c.isa(), table, ids[t] as usize, out);
        }
    });
}
