//! What is trained on, and what is kept for the test.

use super::rng::{Rng, hash};

/// The two halves of every task, which never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Seen in training.
    Train,
    /// Never seen in training: one in ten.
    HeldOut,
}

/// How often a draw may fall into the other half. One that misses a tenth so often does so by its options.
const DRAWS_MAX: usize = 2_000;

impl Split {
    /// Whether what a question is about belongs to this half. That is decided by a hash of it and nothing else, so
    /// the halves are the same whatever the seed, the order and the other options.
    #[must_use]
    pub fn has(self, subject: &str) -> bool {
        let is_held_out = hash(subject).is_multiple_of(10);
        is_held_out == (self == Self::HeldOut)
    }

    /// Draws until what is drawn belongs to this half; nothing if that does not come about.
    pub(super) fn draw<T>(
        self,
        rng: &mut Rng,
        mut draw: impl FnMut(&mut Rng) -> T,
        subject: impl Fn(&T) -> String,
    ) -> Option<T> {
        (0..DRAWS_MAX).map(|_| draw(rng)).find(|drawn| self.has(&subject(drawn)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_ten_is_held_out_and_nothing_is_in_both() {
        let subjects: Vec<String> = (0..10_000).map(|i| format!("subject {i}")).collect();
        let held_out = subjects.iter().filter(|subject| Split::HeldOut.has(subject)).count();
        assert!((900..1100).contains(&held_out), "{held_out}");
        assert!(subjects.iter().all(|subject| Split::HeldOut.has(subject) != Split::Train.has(subject)));
    }
}
