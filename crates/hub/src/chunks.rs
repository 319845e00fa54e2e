//! A file cut into chunks: what is asked for at once, remembered as done, and found broken.

use std::ops::Range;

/// The cutting of one file. The last chunk may be shorter; an empty file has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// Bytes of the file.
    pub(crate) size: u64,
    /// Bytes of a chunk; not 0.
    pub(crate) chunk_bytes: u64,
}

impl Chunks {
    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.size.div_ceil(self.chunk_bytes)
    }

    /// Where chunk `index` lies in the file; empty beyond its end.
    pub(crate) fn range(&self, index: u64) -> Range<u64> {
        let start = index.saturating_mul(self.chunk_bytes).min(self.size);
        start..start.saturating_add(self.chunk_bytes).min(self.size)
    }

    /// Where chunks `indices` lie together.
    pub(crate) fn span(&self, indices: &Range<u64>) -> Range<u64> {
        self.range(indices.start).start..self.range(indices.end).start
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_tile_the_file(size in 0_u64..500, chunk_bytes in 1_u64..70) {
            let chunks = Chunks { size, chunk_bytes };
            let mut end = 0;
            for index in 0..chunks.count() {
                let range = chunks.range(index);
                prop_assert_eq!(range.start, end);
                prop_assert!(!range.is_empty() && range.end - range.start <= chunk_bytes);
                end = range.end;
            }
            prop_assert_eq!(end, size);
            prop_assert_eq!(chunks.span(&(0..chunks.count())), 0..size);
        }
    }
}
