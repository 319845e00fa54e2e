//! What operations run on: an instruction set and a pool of threads.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Range;

use rayon::prelude::*;

use crate::Isa;

/// An instruction set and the threads that share an operation's work. Two of them may live in one process.
#[derive(Debug)]
pub struct Compute {
    isa: Isa,
    pool: Option<rayon::ThreadPool>,
}

impl Compute {
    /// `threads` threads on `isa`; one thread means the caller's own.
    ///
    /// # Errors
    /// If the operating system refuses the threads.
    pub fn new(isa: Isa, threads: NonZeroUsize) -> std::io::Result<Self> {
        let pool = match threads.get() {
            1 => None,
            n => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(n)
                    .thread_name(|i| format!("cuvier-{i}"))
                    .build()
                    .map_err(std::io::Error::other)?,
            ),
        };
        Ok(Self { isa, pool })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How many threads share the work.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, rayon::ThreadPool::current_num_threads)
    }

    /// Runs `task(0)` to `task(tasks - 1)`, each once, in any order, on any thread. Returns when all are done.
    /// Results must not depend on who ran what: tasks write disjoint outputs and share no sum.
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        match &self.pool {
            Some(pool) if tasks > 1 => {
                pool.install(|| (0..tasks).into_par_iter().with_max_len(1).for_each(&task));
            }
            _ => (0..tasks).for_each(task),
        }
    }

    /// Splits `0..items` into consecutive ranges and runs `task` on each: a few ranges per thread, none shorter
    /// than `min_len` items except the last, so that work too small to share stays on one thread.
    pub fn for_each_range(&self, items: usize, min_len: usize, task: impl Fn(Range<usize>) + Sync) {
        let wanted = if self.threads() == 1 { 1 } else { self.threads() * 4 };
        let len = items.div_ceil(wanted).max(min_len).max(1);
        self.for_each(items.div_ceil(len), |i| task(i * len..((i + 1) * len).min(items)));
    }
}

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
