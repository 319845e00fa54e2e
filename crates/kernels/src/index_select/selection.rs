//! Lists of selected entries.

/// Per token of a batch, the entries that it looks at, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    entries: Vec<u32>,
    /// Where each token's list ends in `entries`.
    ends: Vec<usize>,
}

impl Selection {
    /// How many tokens have a list.
    pub fn tokens(&self) -> usize {
        self.ends.len()
    }

    /// The entries of the token in row `token` of the batch.
    ///
    /// # Panics
    /// If it has no list.
    pub fn of(&self, token: usize) -> &[u32] {
        let start = if token == 0 { 0 } else { self.ends[token - 1] };
        &self.entries[start..self.ends[token]]
    }

    /// Adds the next token's list.
    ///
    /// # Panics
    /// If `entries` do not ascend.
    pub fn push(&mut self, entries: &[u32]) {
        assert!(entries.is_sorted_by(|a, b| a < b), "entries ascend");
        self.entries.extend_from_slice(entries);
        self.ends.push(self.entries.len());
    }
}
