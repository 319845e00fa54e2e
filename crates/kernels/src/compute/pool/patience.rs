//! How long a thread that has nothing to do looks for work before it sleeps.

use std::time::{Duration, Instant};

/// The longest wait for a next job: most gaps between two operations of a step are shorter.
const LONGEST: Duration = Duration::from_micros(64);
/// The shortest wait that is worth one.
const SHORTEST: Duration = Duration::from_micros(4);
/// Between two looks at the clock a few hundred nanoseconds pass; when it was this long, the system gave the
/// processor to somebody else, and whoever waits by spinning makes that worse.
const DESCHEDULED: Duration = Duration::from_micros(100);
/// How many times a thread sleeps at once after it was descheduled.
const CALM: u32 = 64;
/// Looks at the condition per look at the clock.
const LOOKS: usize = 16;

/// Spins while that pays: longer after it met work, shorter after it met none, not at all for a while after the
/// thread lost its processor.
#[derive(Debug)]
pub(super) struct Patience {
    spins: bool,
    limit: Duration,
    calm: u32,
}

impl Patience {
    /// `spins`: whether there is a processor for every thread; without one there is no patience at all.
    pub(super) fn new(spins: bool) -> Self {
        Self { spins, limit: LONGEST, calm: 0 }
    }

    /// Waits for `is_over`; whether it came true before patience ended.
    pub(super) fn wait(&mut self, is_over: impl Fn() -> bool) -> bool {
        if !self.spins || self.calm > 0 {
            self.calm = self.calm.saturating_sub(1);
            return is_over();
        }
        let start = Instant::now();
        let mut last = start;
        loop {
            for _ in 0..LOOKS {
                if is_over() {
                    self.limit = (self.limit * 2).min(LONGEST);
                    return true;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if now - last > DESCHEDULED {
                self.calm = CALM;
                return is_over();
            }
            if now - start > self.limit {
                self.limit = (self.limit / 2).max(SHORTEST);
                return is_over();
            }
            last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_halves_without_work_and_returns_with_it() {
        let mut patience = Patience::new(true);
        for _ in 0..CALM * 20 {
            patience.wait(|| false);
            if patience.limit == SHORTEST {
                break;
            }
        }
        assert_eq!(patience.limit, SHORTEST);
        patience.calm = 0;
        assert!(patience.wait(|| true));
        assert_eq!(patience.limit, SHORTEST * 2);
    }

    #[test]
    fn without_a_processor_of_its_own_a_thread_does_not_spin() {
        let looks = std::cell::Cell::new(0);
        assert!(!Patience::new(false).wait(|| {
            looks.set(looks.get() + 1);
            false
        }));
        assert_eq!(looks.get(), 1);
    }
}
