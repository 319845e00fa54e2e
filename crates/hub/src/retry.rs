//! Whether to ask again, and how long to wait first: pure.

use std::time::Duration;

/// How patient a client is.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Tries in a row that may fail without a byte between them.
    pub tries_max: u32,
    /// The wait after the first; it doubles with each.
    pub wait_first: Duration,
    /// The longest wait of our own.
    pub wait_max: Duration,
    /// The longest wait that a server may ask for; one that asks for more is given up.
    pub wait_asked_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries_max: 7,
            wait_first: Duration::from_millis(500),
            wait_max: Duration::from_secs(30),
            wait_asked_max: Duration::from_secs(600),
        }
    }
}

/// The tries for one range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retries {
    policy: RetryPolicy,
    failures: u32,
}

impl Retries {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, failures: 0 }
    }

    /// A byte came: patience is whole again.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Tries that failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// A try failed. How long to wait before the next, at least `asked` by the server; `None`: give up. `jitter` between 0
    /// and 1 spreads clients that failed together over the second half of the wait.
    pub(crate) fn failed(&mut self, asked: Option<Duration>, jitter: f64) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let asked = asked.unwrap_or_default();
        if self.failures >= self.policy.tries_max || asked > self.policy.wait_asked_max {
            return None;
        }
        let doubled = self.policy.wait_first.saturating_mul(1 << (self.failures - 1).min(20));
        let own = doubled.min(self.policy.wait_max).mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        Some(own.max(asked))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn policy() -> RetryPolicy {
        let seconds = Duration::from_secs;
        RetryPolicy {
            tries_max: 6,
            wait_first: seconds(1),
            wait_max: seconds(5),
            wait_asked_max: seconds(60),
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_then_it_is_given_up() {
        let mut retries = Retries::new(policy());
        let waits: Vec<_> = (0..6).map(|_| retries.failed(None, 1.0).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(2), Some(4), Some(5), Some(5), None]);
    }

    #[test]
    fn a_byte_restores_patience() {
        let mut retries = Retries::new(policy());
        for _ in 0..100 {
            assert_eq!(retries.failed(None, 0.0), Some(Duration::from_millis(500)));
            retries.progressed();
        }
    }

    #[test]
    fn a_server_s_wish_is_honoured_within_reason() {
        let mut retries = Retries::new(policy());
        assert_eq!(retries.failed(Some(Duration::from_secs(50)), 0.3), Some(Duration::from_secs(50)));
        assert_eq!(retries.failed(Some(Duration::MAX), 0.3), None);
    }

    #[test]
    fn no_number_of_failures_overflows() {
        let mut retries = Retries::new(RetryPolicy { tries_max: u32::MAX, ..policy() });
        assert!((0..100).all(|_| retries.failed(None, 0.5).unwrap() <= Duration::from_secs(5)));
    }
}
