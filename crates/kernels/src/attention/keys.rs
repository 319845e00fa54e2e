//! The list of keys that one token looks at.

use cuvier_tensor::PagedRows;

use super::{AttentionSegment, Entries};

/// The stored keys of one token, in the order in which they are summed.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyList<'a> {
    row: usize,
    window: &'a PagedRows<u8>,
    window_start: usize,
    window_len: usize,
    entries: Option<&'a PagedRows<u8>>,
    chosen: Chosen<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Chosen<'a> {
    First(usize),
    Listed(&'a [u32]),
}

impl<'a> KeyList<'a> {
    /// The list of the token in row `row` of the batch, at `position` of its sequence.
    ///
    /// # Panics
    /// If it has entries to look at but its segment has none.
    pub(super) fn new(
        segment: &AttentionSegment<'a>,
        entries: Entries<'a>,
        row: usize,
        position: usize,
        sliding_window: usize,
    ) -> Self {
        let window_start = (position + 1).saturating_sub(sliding_window);
        let chosen = match entries {
            Entries::None => Chosen::First(0),
            Entries::All { ratio } => Chosen::First((position + 1) / ratio),
            Entries::Selected(selection) => Chosen::Listed(selection.of(row)),
        };
        let list = Self {
            row,
            window: segment.window,
            window_start,
            window_len: position + 1 - window_start,
            entries: segment.entries,
            chosen,
        };
        assert!(list.len() == list.window_len || segment.entries.is_some(), "row {row} looks at entries");
        list
    }

    /// The token's row of the batch.
    pub(super) fn row(&self) -> usize {
        self.row
    }

    /// How many keys.
    pub(super) fn len(&self) -> usize {
        let chosen = match self.chosen {
            Chosen::First(count) => count,
            Chosen::Listed(entries) => entries.len(),
        };
        self.window_len + chosen
    }

    /// The stored bytes of key `i`.
    #[inline(always)]
    pub(super) fn key(&self, i: usize) -> &'a [u8] {
        if i < self.window_len {
            return self.window.row(self.window_start + i);
        }
        let i = i - self.window_len;
        let entry = match self.chosen {
            Chosen::First(_) => i,
            Chosen::Listed(entries) => entries[i] as usize,
        };
        self.entries.expect("checked when the list was made").row(entry)
    }
}
