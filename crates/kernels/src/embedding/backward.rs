//! The gradient of the embedding table.

use cuvier_tensor::{MatMut, MatRef};

#[cfg(test)]
mod tests;

/// Gradient of [`embed`](crate::embed()) for its table: adds each token's gradient to the row of its id, token by
/// token.
///
/// | argument | shape              | dtype | unit |
/// |----------|--------------------|-------|------|
/// | `ids`    | `[tokens]`         | u32   | table row |
/// | `dout`   | `[tokens, hidden]` | f32   | gradient of the looked-up rows |
/// | `dtable` | `[vocab, hidden]`  | f32   | added to |
///
/// # Panics
/// If the shapes disagree or an id is not a row of the table.
pub fn embed_backward(ids: &[u32], dout: MatRef<'_>, mut dtable: MatMut<'_>) {
    assert!(
        dout.rows() == ids.len() && (ids.is_empty() || dout.cols() == dtable.cols()),
        "a gradient per id"
    );
    for (&id, dout) in ids.iter().zip(dout.iter()) {
        dtable.row_mut(id as usize).iter_mut().zip(dout).for_each(|(sum, d)| *sum += d);
    }
}
