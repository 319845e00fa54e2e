//! Rows that grow at the end, are given up at the front, and are shared by copies: the memory of attention state.

use std::ops::Range;
use std::sync::Arc;

/// Rows per page of [`PagedRows`].
pub const PAGE_ROWS: usize = 32;

/// A list of equally long rows, addressed by an index that never changes: row `i` stays row `i` when rows before
/// it are given up. Cloning shares all pages; a shared page is copied when it is written to.
#[derive(Clone, Debug)]
pub struct PagedRows<T> {
    /// From the page of row `start` on.
    pages: Vec<Arc<Vec<T>>>,
    row_len: usize,
    start: usize,
    end: usize,
}

impl<T: Copy + Default> PagedRows<T> {
    /// No rows yet, each to be of `row_len` elements; the first pushed row gets index `start`.
    pub fn new(row_len: usize, start: usize) -> Self {
        Self { pages: Vec::new(), row_len, start, end: start }
    }

    /// Elements per row.
    pub fn row_len(&self) -> usize {
        self.row_len
    }

    /// The indices of the rows that are held.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Elements of memory that the held pages take.
    pub fn capacity(&self) -> usize {
        self.pages.len() * PAGE_ROWS * self.row_len
    }

    /// The held pages, each as its address and its bytes. Lists that share a page tell the same address, and none
    /// tells it again as long as one of them lives.
    pub fn pages(&self) -> impl Iterator<Item = (usize, usize)> {
        let bytes = PAGE_ROWS * self.row_len * size_of::<T>();
        self.pages.iter().map(move |page| (Arc::as_ptr(page).addr(), bytes))
    }

    /// Bytes of the table of pages, which no copy shares.
    pub fn table_bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Arc<Vec<T>>>()
    }

    /// Row `index`.
    ///
    /// # Panics
    /// If it is not held.
    #[inline]
    pub fn row(&self, index: usize) -> &[T] {
        assert!(self.start <= index && index < self.end, "row {index} of {:?}", self.range());
        let page = &self.pages[self.place(index)];
        &page[index % PAGE_ROWS * self.row_len..][..self.row_len]
    }

    /// Where the page of a row stands that is held or about to be.
    #[inline]
    fn place(&self, index: usize) -> usize {
        index / PAGE_ROWS - self.start / PAGE_ROWS
    }

    /// The held rows from `index` on that lie side by side in memory, at most up to `end`.
    ///
    /// # Panics
    /// If `index` is not held or `end` is beyond the held rows.
    #[inline]
    pub fn run(&self, index: usize, end: usize) -> &[T] {
        assert!(
            self.start <= index && index < end && end <= self.end,
            "rows {index}..{end} of {:?}",
            self.range()
        );
        let end = end.min((index / PAGE_ROWS + 1) * PAGE_ROWS);
        let page = &self.pages[self.place(index)];
        &page[index % PAGE_ROWS * self.row_len..][..(end - index) * self.row_len]
    }

    /// Appends whole rows.
    ///
    /// # Panics
    /// If `rows` is not a whole number of rows.
    pub fn extend(&mut self, rows: &[T]) {
        assert!(rows.len().is_multiple_of(self.row_len), "{} / {}", rows.len(), self.row_len);
        for row in rows.chunks_exact(self.row_len) {
            let (page, offset) = (self.place(self.end), self.end % PAGE_ROWS * self.row_len);
            if page == self.pages.len() {
                self.pages.push(Arc::new(vec![T::default(); PAGE_ROWS * self.row_len]));
            }
            Arc::make_mut(&mut self.pages[page])[offset..offset + self.row_len].copy_from_slice(row);
            self.end += 1;
        }
    }

    /// Forgets the rows from `end` on.
    ///
    /// # Panics
    /// If `end` is not among the held indices or their end.
    pub fn truncate(&mut self, end: usize) {
        assert!(self.start <= end && end <= self.end, "truncate to {end} of {:?}", self.range());
        self.end = end;
        self.pages.truncate(end.div_ceil(PAGE_ROWS) - self.start / PAGE_ROWS);
    }

    /// Gives up the rows before `start`, whole pages of memory at a time.
    pub fn release_before(&mut self, start: usize) {
        let start = start.min(self.end);
        if start > self.start {
            // A list that ends at a page's end has no page there.
            let given_up = self.place(start).min(self.pages.len());
            self.pages.drain(..given_up);
            self.start = start;
        }
    }

    /// The held rows from `start` on, copied out in order.
    pub fn copy_from(&self, start: usize) -> Vec<T> {
        (start..self.end).flat_map(|index| self.row(index)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_index_when_the_front_is_released_and_the_end_truncated() {
        let mut rows = PagedRows::<u32>::new(3, 0);
        for i in 0..200u32 {
            rows.extend(&[i, i + 1, i + 2]);
        }
        rows.release_before(70);
        rows.truncate(130);
        assert_eq!(rows.range(), 70..130);
        assert!(rows.range().all(|i| rows.row(i)[2] == i as u32 + 2));
        assert_eq!(rows.run(100, 130).len(), 28 * 3);
        rows.extend(&[7, 8, 9]);
        assert_eq!(rows.row(130), [7, 8, 9]);
    }

    #[test]
    fn rows_behind_two_to_the_32_elements_are_the_ones_that_were_pushed() {
        let start = (1 << 21) + 7;
        let mut rows = PagedRows::<u16>::new(2048, start);
        for i in 0..100 {
            rows.extend(&[i; 2048]);
        }
        rows.release_before(start + 40);
        assert_eq!(rows.range(), start + 40..start + 100);
        assert!(rows.range().all(|index| rows.row(index)[2047] == (index - start) as u16));
        assert_eq!(rows.run(start + 50, start + 100)[0], 50);
        rows.truncate(start + 90);
        assert_eq!(rows.copy_from(start + 88), [[88; 2048], [89; 2048]].concat());
        assert_eq!(rows.capacity(), 3 * PAGE_ROWS * 2048);
    }

    #[test]
    fn a_clone_does_not_see_what_is_written_later() {
        let mut rows = PagedRows::<u8>::new(1, 5);
        rows.extend(&[1, 2, 3]);
        let copy = rows.clone();
        rows.truncate(6);
        rows.extend(&[9, 9]);
        assert_eq!(copy.copy_from(5), [1, 2, 3]);
        assert_eq!(rows.copy_from(5), [1, 9, 9]);
    }

    #[test]
    fn shared_pages_tell_the_same_address_until_one_side_writes() {
        let mut rows = PagedRows::<u16>::new(2, 40);
        rows.extend(&[1; 2 * 60]);
        let mut copy = rows.clone();
        let shared = |a: &PagedRows<u16>, b: &PagedRows<u16>| {
            a.pages().filter(|page| b.pages().any(|other| other == *page)).count()
        };
        assert_eq!((rows.pages().count(), shared(&rows, &copy)), (3, 3));
        assert!(rows.pages().all(|(_, bytes)| bytes == 32 * 2 * 2));
        copy.extend(&[2, 2]);
        assert_eq!(shared(&rows, &copy), 2);
        copy.release_before(100);
        assert_eq!((copy.pages().count(), copy.row(100)), (1, [2, 2].as_slice()));
        assert!(rows.table_bytes() >= 3 * 8);
    }

    #[test]
    fn lists_that_end_where_a_page_ends_are_truncated_released_and_grown() {
        let mut rows = PagedRows::<u32>::new(1, 0);
        rows.extend(&(0..64).collect::<Vec<_>>());
        rows.release_before(64);
        assert_eq!((rows.range(), rows.pages().count()), (64..64, 0));
        rows.extend(&[64, 65]);
        rows.truncate(64);
        rows.extend(&[7]);
        assert_eq!((rows.row(64), rows.capacity()), ([7].as_slice(), 32));
    }
}
