//! A pool of threads for jobs of a few microseconds.
//!
//! A job is a number of units. The thread that calls [`Pool::run`] writes the job down, announces it by one store,
//! and works on it like any other thread. It never waits for a thread that has not begun: alone it would finish the
//! job too. It waits only for units that somebody has claimed and not finished.
//!
//! **Claims.** The units of a job are divided into one consecutive share for each taking-part thread (as many
//! threads as units, at most all), so the same thread meets the same rows of a matrix each time and no counter is
//! shared by all. A thread takes a quarter of what is left of its own share, again and again, then of the others'.
//! Which units of a share are claimed stands in one word with the number of the job ([`Tally`]); a word with an
//! older number means that none is. So a new job needs no word reset, and a claim is one compare-and-swap:
//!
//! 1. Two claims of one job never overlap, since they replace values of one word.
//! 2. A claim for job `n` succeeds only while job `n` is unfinished. Were it finished, each of its shares (none is
//!    empty) would stand at `(n, all)` or a later job, and never return to an earlier value.
//! 3. So whoever holds a claim may use the job's task: the caller returns, and the next job is written down, only
//!    after every unit was counted as finished, and only the claimant counts its own.
//!
//! **Completion.** Each thread counts the units that it finished for a job in a word of its own, again with the
//! job's number. The caller adds them up. Nobody shares a counter here either.
//!
//! **Sleep.** A thread without work spins for a while ([`Patience`]), then sets its bit in `asleep`, looks again, and
//! parks. The caller announces first and looks at the bits second, so one of the two sees the other. It wakes one
//! thread; each thread that begins a job wakes two more while some that could take part are asleep.
//! A caller whose last units are with others spins a while, then sleeps until a thread that has finished calls.
//!
//! Cost of a job with all threads awake: one store, one line that all read, one compare-and-swap per claim on a line
//! that is the claimant's own unless it helps others, one line per thread that the caller reads at the end.

mod patience;
mod tally;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use patience::Patience;
use tally::{JOBS_MAX, Tally, UNITS_MAX};

/// How long a caller spins for units that other threads are working on.
const CALLER_SPINS: Duration = Duration::from_micros(100);

/// Threads that wait for jobs. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Pool {
    board: Arc<Board>,
    workers: Vec<JoinHandle<()>>,
    /// Whether a thread is inside [`Pool::run`].
    is_taken: AtomicBool,
}

/// What the threads of a pool share.
#[derive(Debug)]
struct Board {
    /// Number and units of the current or last job; no units but a number: the end.
    announced: Line<AtomicU64>,
    /// A bit for each thread that is going to sleep or asleep.
    asleep: Line<Box<[AtomicU64]>>,
    /// The task of the announced job.
    task: Line<UnsafeCell<Task>>,
    /// What each thread tells the others; the first is whoever calls.
    threads: Box<[Line<Place>]>,
    /// Whether there is a processor for every thread.
    spins: bool,
    /// Whether the caller sleeps or is going to.
    caller_sleeps: AtomicBool,
    caller: (Mutex<()>, Condvar),
    /// What the first task that panicked in the current job left.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Keeps what different threads write on different pairs of cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Line<T>(T);

#[derive(Debug, Default)]
struct Place {
    /// Units of this thread's share that are claimed, by whomever.
    claimed: AtomicU64,
    /// Units that this thread has finished, of whatever share.
    finished: AtomicU64,
    /// The thread itself, once it runs.
    thread: OnceLock<Thread>,
}

/// A borrowed `Fn(usize)` without its type and lifetime.
#[derive(Clone, Copy, Debug)]
struct Task {
    data: *const (),
    call: unsafe fn(*const (), usize),
}

// SAFETY: `task` is the only part that is not `Sync`. It is written by the one thread that holds `is_taken` while no
// claim exists, and read by holders of a claim only (claims 1 to 3 of the module's page); the announcement orders the
// write before the reads, the counts of finished units order the reads before the next write. What it points to is
// `Sync` by the bound of `Pool::run`.
unsafe impl Sync for Board {}
// SAFETY: as above.
unsafe impl Send for Board {}

impl Pool {
    /// `threads` threads, the caller's among them.
    pub(super) fn new(threads: NonZeroUsize) -> std::io::Result<Self> {
        let threads = threads.get();
        let idle = Task { data: std::ptr::null(), call: |_, _| {} };
        let board = Arc::new(Board {
            announced: Line(AtomicU64::new(0)),
            asleep: Line((0..threads.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()),
            task: Line(UnsafeCell::new(idle)),
            threads: (0..threads).map(|_| Line(Place::default())).collect(),
            spins: thread::available_parallelism().is_ok_and(|processors| threads <= processors.get()),
            caller_sleeps: AtomicBool::new(false),
            caller: (Mutex::new(()), Condvar::new()),
            panic: Mutex::new(None),
        });
        let mut pool = Self { board, workers: Vec::new(), is_taken: AtomicBool::new(false) };
        for me in 1..threads {
            let board = Arc::clone(&pool.board);
            let builder = thread::Builder::new().name(format!("cuvier-{me}"));
            pool.workers.push(builder.spawn(move || board.serve(me))?);
        }
        Ok(pool)
    }

    pub(super) fn threads(&self) -> usize {
        self.board.threads.len()
    }

    /// Runs `task(0)` to `task(tasks - 1)`, each once: on all threads, or on the caller's alone when the pool is
    /// busy with another job (of which the caller may be a part).
    pub(super) fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: &F) {
        let group = tasks.div_ceil(UNITS_MAX);
        match group {
            0 => {}
            1 => self.run_units(tasks, task),
            _ => self.run_units(tasks.div_ceil(group), &|unit| {
                (unit * group..tasks.min((unit + 1) * group)).for_each(task);
            }),
        }
    }

    fn run_units<F: Fn(usize) + Sync>(&self, units: usize, task: &F) {
        if self.is_taken.load(Ordering::Relaxed) || self.is_taken.swap(true, Ordering::Acquire) {
            return (0..units).for_each(task);
        }
        let number = Tally::unpack(self.board.announced.0.load(Ordering::Relaxed)).job + 1;
        if number == JOBS_MAX {
            self.is_taken.store(false, Ordering::Release);
            return (0..units).for_each(task);
        }
        let job = Tally { job: number, count: units };
        // SAFETY: no claim exists: the last job is finished, the next not announced, and `is_taken` keeps other
        // callers away.
        unsafe { *self.board.task.0.get() = Task::new(task) };
        self.board.announced.0.store(job.pack(), Ordering::SeqCst);
        self.board.wake(job, 1);
        self.board.work(0, job);
        self.board.wait_for(job);
        let panic = self.board.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.is_taken.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A number that jobs never use, so that it differs from the last one.
        let end = Tally { job: JOBS_MAX, count: 0 };
        self.board.announced.0.store(end.pack(), Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of tasks and has no other.
            let _ = worker.join();
        }
    }
}

impl Task {
    fn new<F: Fn(usize) + Sync>(task: &F) -> Self {
        /// # Safety
        /// `task` must come from a live `&F`.
        unsafe fn call<F: Fn(usize)>(task: *const (), unit: usize) {
            // SAFETY: by the contract above.
            unsafe { (*task.cast::<F>())(unit) };
        }
        Self { data: std::ptr::from_ref(task).cast(), call: call::<F> }
    }
}

impl Board {
    /// The life of thread `me`.
    fn serve(&self, me: usize) {
        self.threads[me].0.thread.get_or_init(thread::current);
        let mut patience = Patience::new(self.spins);
        let mut last = 0;
        loop {
            last = self.next_job(me, last, &mut patience);
            let job = Tally::unpack(last);
            if job.count == 0 {
                return;
            }
            self.wake(job, 2);
            if me < self.shares(job) && self.work(me, job) {
                self.call_caller();
            }
        }
    }

    /// The announcement that follows `last`: the newest, if there were several.
    fn next_job(&self, me: usize, last: u64, patience: &mut Patience) -> u64 {
        let is_new = || self.announced.0.load(Ordering::Acquire) != last;
        if !patience.wait(is_new) {
            let (word, bit) = (&self.asleep.0[me / 64], 1 << (me % 64));
            // Set again after each waking: one meant for the last job took the bit and brought nothing.
            while {
                word.fetch_or(bit, Ordering::SeqCst);
                self.announced.0.load(Ordering::SeqCst) == last
            } {
                thread::park();
            }
            word.fetch_and(!bit, Ordering::SeqCst);
        }
        self.announced.0.load(Ordering::Acquire)
    }

    /// Wakes `most` threads that sleep and have a share of `job`.
    fn wake(&self, job: Tally, most: usize) {
        let shares = self.shares(job);
        let mut woken = 0;
        for (word, first) in self.asleep.0.iter().zip((0..shares).step_by(64)) {
            let with_share = u64::MAX >> 64usize.saturating_sub(shares - first);
            loop {
                let sleeping = word.load(Ordering::SeqCst) & with_share;
                if sleeping == 0 || woken == most {
                    break;
                }
                let index = sleeping.trailing_zeros();
                if word.fetch_and(!(1 << index), Ordering::SeqCst) & 1 << index != 0 {
                    let thread = self.threads[first + index as usize].0.thread.get();
                    thread.expect("a thread is named before it sleeps").unpark();
                    woken += 1;
                }
            }
        }
    }

    /// How many threads take part in `job`, each with a share of its units.
    fn shares(&self, job: Tally) -> usize {
        job.count.min(self.threads.len())
    }

    /// Runs units of `job` as thread `me` until all are claimed; whether there was one.
    fn work(&self, me: usize, job: Tally) -> bool {
        let shares = self.shares(job);
        let mut finished = 0;
        for share in (me..shares).chain(0..me) {
            while let Some(units) = self.claim(share, job) {
                finished += units.len();
                self.run(units);
                self.threads[me].0.finished.store(Tally { count: finished, ..job }.pack(), Ordering::Release);
            }
        }
        finished > 0
    }

    /// Takes a quarter of what is left of a share.
    fn claim(&self, share: usize, job: Tally) -> Option<Range<usize>> {
        let shares = self.shares(job);
        let (start, end) = (job.count * share / shares, job.count * (share + 1) / shares);
        let word = &self.threads[share].0.claimed;
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let tally = Tally::unpack(seen);
            let claimed = match tally.job.cmp(&job.job) {
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => tally.count,
                std::cmp::Ordering::Greater => return None,
            };
            let from = start + claimed;
            let count = (end - from).div_ceil(4);
            if count == 0 {
                return None;
            }
            let next = Tally { count: claimed + count, ..job }.pack();
            match word.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(from..from + count),
                Err(now) => seen = now,
            }
        }
    }

    /// Runs claimed units, the rest of them too when one panics.
    fn run(&self, mut units: Range<usize>) {
        // SAFETY: the caller holds a claim, so the task is not written now, and what it borrows lives until the
        // claimed units are counted as finished.
        let task = unsafe { *self.task.0.get() };
        while !units.is_empty() {
            let run = || {
                units.by_ref().for_each(|unit| {
                    // SAFETY: as above.
                    unsafe { (task.call)(task.data, unit) };
                });
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
        }
    }

    /// Returns when all units of `job` are finished.
    fn wait_for(&self, job: Tally) {
        let places = &self.threads[..self.shares(job)];
        let is_finished = || {
            let finished = places.iter().map(|place| Tally::unpack(place.0.finished.load(Ordering::Acquire)));
            finished.filter(|tally| tally.job == job.job).map(|tally| tally.count).sum::<usize>() == job.count
        };
        if is_finished() {
            return;
        }
        let start = Instant::now();
        while self.spins && start.elapsed() < CALLER_SPINS {
            for _ in 0..16 {
                if is_finished() {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut guard = self.caller.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.caller_sleeps.store(true, Ordering::Relaxed);
        // Together with the fence in `call_caller`: either that thread's count is seen here, or it sees the flag.
        fence(Ordering::SeqCst);
        while !is_finished() {
            guard = self.caller.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, Ordering::Relaxed);
    }

    /// Wakes the caller if it sleeps. Threads call it after their last unit of a job.
    fn call_caller(&self) {
        fence(Ordering::SeqCst);
        if self.caller_sleeps.load(Ordering::Relaxed) {
            drop(self.caller.0.lock().unwrap_or_else(PoisonError::into_inner));
            self.caller.1.notify_one();
        }
    }
}
