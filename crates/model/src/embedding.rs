//! The embedding: a row for each token of the vocabulary.

use cuvier_kernels::{Lent, embed};
use cuvier_tensor::{MatMut, WeightMatrix};
use cuvier_weights::StoredRows;

use crate::{Ctx, ModelError};

/// Tokens whose rows are in memory together, where they come from disk.
pub(crate) const TOKENS_AT_ONCE: usize = 256;

/// `embed.weight`, `[vocab_size, hidden_size]`.
pub enum Embedding {
    /// In memory.
    Loaded(WeightMatrix),
    /// In its file: a step reads the rows of its tokens.
    Stored(StoredRows),
}

impl Embedding {
    /// The rows of `tokens` in f32, `[tokens, hidden_size]`: the same bits, wherever they come from.
    ///
    /// # Errors
    /// If a row cannot be read.
    ///
    /// # Panics
    /// If a token has no row.
    pub(crate) fn forward(&self, tokens: &[u32], ctx: &Ctx<'_>) -> Result<Lent, ModelError> {
        let mut out = ctx.matrix(tokens.len(), self.cols());
        match self {
            Self::Loaded(table) => embed(ctx.compute, tokens, table, out.view_mut()),
            Self::Stored(stored) => {
                let cols = self.cols();
                let parts = out.data_mut().chunks_mut(TOKENS_AT_ONCE * cols);
                for (tokens, out) in tokens.chunks(TOKENS_AT_ONCE).zip(parts) {
                    let mut rows = tokens.to_vec();
                    rows.sort_unstable();
                    rows.dedup();
                    let table = stored.read(&rows)?;
                    let place = |token| rows.partition_point(|&row| row < token) as u32;
                    let places: Vec<u32> = tokens.iter().map(|&token| place(token)).collect();
                    embed(ctx.compute, &places, &table, MatMut::new(out, cols));
                }
            }
        }
        Ok(out)
    }

    /// Bytes of a row as it is stored.
    pub(crate) fn row_bytes(&self) -> usize {
        match self {
            Self::Loaded(table) => table.bytes() / table.rows(),
            Self::Stored(stored) => stored.row_bytes(),
        }
    }

    /// The whole table.
    ///
    /// # Panics
    /// If it is not in memory, as it is in a model that is trained.
    pub(crate) fn loaded(&self) -> &WeightMatrix {
        match self {
            Self::Loaded(table) => table,
            Self::Stored(_) => panic!("the embedding is not in memory"),
        }
    }

    /// See [`Embedding::loaded`].
    pub(crate) fn loaded_mut(&mut self) -> &mut WeightMatrix {
        match self {
            Self::Loaded(table) => table,
            Self::Stored(_) => panic!("the embedding is not in memory"),
        }
    }

    fn cols(&self) -> usize {
        match self {
            Self::Loaded(table) => table.cols(),
            Self::Stored(stored) => stored.cols(),
        }
    }
}
