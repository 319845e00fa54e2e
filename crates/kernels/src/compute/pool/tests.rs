use std::sync::atomic::AtomicUsize;

use super::*;

fn pool(threads: usize) -> Pool {
    Pool::new(NonZeroUsize::new(threads).expect("positive")).expect("threads start")
}

/// Runs `tasks` tasks and panics unless each ran once.
fn each_runs_once(pool: &Pool, tasks: usize) {
    let runs: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    pool.run(tasks, &|i| {
        runs[i].fetch_add(1, Ordering::Relaxed);
    });
    for (i, runs) in runs.iter().enumerate() {
        assert_eq!(runs.load(Ordering::Relaxed), 1, "task {i} of {tasks}");
    }
}

/// A small generator, so that every run of a test meets the same sizes.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn every_task_runs_once() {
    for threads in [2, 3, 8, 65, 130] {
        let pool = pool(threads);
        for tasks in [0, 1, 2, 3, threads - 1, threads, threads + 1, 1000, UNITS_MAX, UNITS_MAX + 1, 150_000]
        {
            each_runs_once(&pool, tasks);
        }
    }
}

#[test]
fn what_tasks_wrote_is_seen_by_the_caller() {
    let pool = pool(2);
    let mut numbers = vec![0usize; 64];
    for round in 0..20_000 {
        let rows = crate::DisjointRows::new(&mut numbers, 1);
        // SAFETY: each task asks for a row of its own.
        pool.run(64, &|i| unsafe { rows.part(i, 0..1) }[0] += i + round);
    }
    let rounds = 20_000 * 19_999 / 2;
    assert!(numbers.iter().enumerate().all(|(i, &n)| n == 20_000 * i + rounds), "{numbers:?}");
}

#[test]
fn a_caller_needs_no_thread_that_has_not_begun() {
    let mut pool = pool(4);
    let end = Tally { job: JOBS_MAX, count: 0 }.pack();
    let before = pool.board.announced.0.swap(end, Ordering::SeqCst);
    pool.workers.drain(..).for_each(|worker| {
        worker.thread().unpark();
        worker.join().expect("a worker does not panic");
    });
    pool.board.announced.0.store(before, Ordering::SeqCst);
    for tasks in [1, 2, 4, 1000] {
        each_runs_once(&pool, tasks);
    }
}

#[test]
fn jobs_of_any_size_after_any_gap_run_completely() {
    let pools = [pool(2), pool(5)];
    let mut state = 1;
    for _ in 0..3000 {
        let pool = &pools[random(&mut state) % 2];
        each_runs_once(pool, random(&mut state) % [3, 40, 700][random(&mut state) % 3]);
        match random(&mut state) % 16 {
            0 => thread::sleep(Duration::from_micros(300)),
            1 => thread::yield_now(),
            _ => {}
        }
    }
}

#[test]
fn slow_tasks_are_waited_for() {
    let pool = pool(4);
    let mut state = 7;
    for _ in 0..100 {
        let done = AtomicUsize::new(0);
        let slow = random(&mut state) % 9;
        pool.run(9, &|i| {
            if i % 9 == slow {
                thread::sleep(Duration::from_micros(500));
            }
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 9);
    }
}

#[test]
fn a_job_inside_a_task_runs() {
    let (outer, other) = (pool(3), pool(2));
    let done = AtomicUsize::new(0);
    outer.run(50, &|_| {
        outer.run(7, &|_| {
            other.run(3, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
        });
    });
    assert_eq!(done.load(Ordering::Relaxed), 50 * 7 * 3);
}

#[test]
fn several_callers_share_a_pool() {
    let pool = pool(3);
    thread::scope(|scope| {
        for caller in 0..4 {
            let pool = &pool;
            scope.spawn(move || (0..500).for_each(|i| each_runs_once(pool, 1 + (i * 7 + caller) % 60)));
        }
    });
}

#[test]
fn a_panic_reaches_the_caller_after_the_other_tasks_have_run() {
    let pool = pool(3);
    for first in [0, 13, 39] {
        let done = AtomicUsize::new(0);
        let run = || {
            pool.run(40, &|i| {
                assert!(i < first || i % 2 == 0, "task {i} fails");
                done.fetch_add(1, Ordering::Relaxed);
            });
        };
        let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("tasks panicked");
        let message = panic.downcast_ref::<String>().expect("a formatted message");
        assert!(message.starts_with("task "), "{message}");
        assert_eq!(done.load(Ordering::Relaxed), (0..40).filter(|i| *i < first || i % 2 == 0).count());
        each_runs_once(&pool, 100);
    }
}

#[test]
fn dropping_a_pool_ends_its_threads() {
    for threads in [2, 9] {
        let pool = pool(threads);
        each_runs_once(&pool, 20);
        let board = Arc::clone(&pool.board);
        drop(pool);
        assert_eq!(Arc::strong_count(&board), 1);
    }
    // Before the threads have looked for a job at all.
    drop(pool(9));
}
