//! Lists of selected entries.

/// Per token of a batch, the entries that it looks at, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    entries: Vec<u32>,
    /// Where each token's list ends in `entries`.
    ends: Vec<usize>,
}

impl Selection {
    /// For each token the entries from the first on, as many as `counts` says.
    pub(super) fn first(counts: impl Iterator<Item = usize>) -> Self {
        let mut selection = Self::default();
        for count in counts {
            selection.entries.extend(0..count as u32);
            selection.ends.push(selection.entries.len());
        }
        selection
    }

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
