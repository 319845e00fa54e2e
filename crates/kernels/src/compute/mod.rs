//! What operations run on: an instruction set, a pool of threads, and memory between operations.

mod disjoint;
mod pool;
mod reduce;
mod workspace;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use crate::Isa;
use pool::Pool;

pub use disjoint::DisjointRows;
use workspace::Workspace;
pub use workspace::{Lent, Number};

/// Ranges per thread that [`Compute::for_each_range`] makes of work that is large enough: the thread that is late
/// then holds up the others by an eighth of its share at most.
const RANGES_PER_THREAD: usize = 8;

/// An instruction set and the threads that share an operation's work. Two of them may live in one process.
#[derive(Debug)]
pub struct Compute {
    isa: Isa,
    pool: Option<Pool>,
    workspace: Arc<Workspace>,
}

impl Compute {
    /// `threads` threads on `isa`, the caller's own among them.
    ///
    /// # Errors
    /// If the operating system refuses the threads.
    pub fn new(isa: Isa, threads: NonZeroUsize) -> std::io::Result<Self> {
        let pool = if threads.get() == 1 { None } else { Some(Pool::new(threads)?) };
        Ok(Self { isa, pool, workspace: Arc::default() })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How many threads share the work.
    pub fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, Pool::threads)
    }

    /// A matrix for intermediate results, `[rows, cols]`, of whatever numbers an earlier one left there: it is for
    /// operations that write all of it. Its memory comes back here when it is dropped.
    pub fn matrix<T: Number>(&self, rows: usize, cols: usize) -> Lent<T> {
        self.workspace.lend(rows, cols)
    }

    /// Before a step of so many tokens: intermediate results of all steps together then take no more memory than those of
    /// the largest.
    pub fn make_room(&self, tokens: usize) {
        self.workspace.make_room(tokens);
    }

    /// Runs `task(0)` to `task(tasks - 1)`, each once, in any order, on any thread. Returns when all are done.
    /// Results must not depend on who ran what: tasks write disjoint outputs and share no sum.
    ///
    /// Called from inside a task, or while another thread uses this `Compute`, it runs all on the caller's thread.
    /// A panic of a task reaches the caller when the other tasks have run.
    pub fn for_each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        match &self.pool {
            Some(pool) if tasks > 1 => pool.run(tasks, &task),
            _ => (0..tasks).for_each(task),
        }
    }

    /// Splits `0..items` into consecutive ranges of nearly equal length and runs `task` on each, as
    /// [`Compute::for_each`] does. No range is shorter than `min_len` unless there is but one, so that work too small
    /// to share stays on one thread; there are as many for each thread, so that no thread is left alone with a last one.
    pub fn for_each_range(&self, items: usize, min_len: usize, task: impl Fn(Range<usize>) + Sync) {
        let ranges = range_count(items, min_len, self.threads());
        self.for_each(ranges, |i| task(items * i / ranges..items * (i + 1) / ranges));
    }
}

/// How many ranges [`Compute::for_each_range`] makes.
fn range_count(items: usize, min_len: usize, threads: usize) -> usize {
    let most = items / min_len.max(1);
    match most {
        _ if items == 0 => 0,
        0 | 1 => 1,
        _ if threads == 1 => 1,
        _ if most < threads => most,
        _ => (most / threads).min(RANGES_PER_THREAD) * threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_long_enough_and_as_many_for_each_thread() {
        for (items, min_len, threads, ranges) in [
            (0, 1, 2, 0),
            (1, 0, 2, 1),
            (15, 8, 2, 1),
            (16, 8, 2, 2),
            (31, 8, 2, 2),
            (32, 8, 2, 4),
            (1000, 1, 2, 16),
            (1000, 1, 1, 1),
            (3, 1, 64, 3),
            (100, 1, 64, 64),
            (5, 8, 64, 1),
        ] {
            assert_eq!(range_count(items, min_len, threads), ranges, "{items} {min_len} {threads}");
        }
    }

    #[test]
    fn ranges_cover_all_items_once_in_order() {
        use std::sync::Mutex;
        let c = Compute::new(Isa::Scalar, NonZeroUsize::new(3).expect("positive")).expect("threads start");
        for items in [0, 1, 2, 7, 100, 1001] {
            let ranges = Mutex::new(Vec::new());
            c.for_each_range(items, 5, |range| ranges.lock().expect("no task panics").push(range));
            let mut ranges = ranges.into_inner().expect("no task panics");
            ranges.sort_by_key(|range| range.start);
            assert!(ranges.len() < 2 || ranges.iter().all(|range| range.len() >= 5), "{ranges:?}");
            assert_eq!(ranges.into_iter().flatten().collect::<Vec<_>>(), (0..items).collect::<Vec<_>>());
        }
    }
}
