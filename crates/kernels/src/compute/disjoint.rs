//! Outputs that several tasks write at once.

use std::marker::PhantomData;
use std::ops::Range;

/// A matrix whose parts several tasks write at once, each part by exactly one task.
#[derive(Clone, Copy, Debug)]
pub struct DisjointRows<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the type only hands out memory through `part`, whose caller promises disjoint parts.
unsafe impl<T: Send> Send for DisjointRows<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointRows<'_, T> {}

impl<'a, T> DisjointRows<'a, T> {
    /// Borrows `data` as rows of `cols` elements for the time of one operation.
    ///
    /// # Panics
    /// If `data` is not a whole number of rows.
    pub fn new(data: &'a mut [T], cols: usize) -> Self {
        assert!(data.is_empty() || (cols > 0 && data.len().is_multiple_of(cols)), "{} / {cols}", data.len());
        let rows = data.len().checked_div(cols).unwrap_or(0);
        Self { data: data.as_mut_ptr(), rows, cols, borrow: PhantomData }
    }

    /// Elements `cols` of row `row`.
    ///
    /// # Safety
    /// Between two calls that return the same element, the first borrow must have ended: tasks that run at the
    /// same time ask for different elements.
    ///
    /// # Panics
    /// If they do not exist.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, row: usize, cols: Range<usize>) -> &'a mut [T] {
        assert!(
            row < self.rows && cols.start <= cols.end && cols.end <= self.cols,
            "row {row}, columns {cols:?}"
        );
        // SAFETY: the range lies inside the borrowed slice by the assertion; the caller keeps parts disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.cols + cols.start), cols.len()) }
    }

    /// The whole rows `rows`.
    ///
    /// # Safety
    /// As for [`DisjointRows::part`].
    ///
    /// # Panics
    /// If they do not exist.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn rows(&self, rows: Range<usize>) -> &'a mut [T] {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?}");
        // SAFETY: the rows lie inside the borrowed slice by the assertion; the caller keeps parts disjoint.
        unsafe {
            std::slice::from_raw_parts_mut(self.data.add(rows.start * self.cols), rows.len() * self.cols)
        }
    }
}
