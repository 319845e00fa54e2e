//! Samples made here, one file a task.
//!
//! Every generator is a function of a stream of random numbers, its options and the half it draws for; every file
//! also has the verifier of its task.

pub mod abstain;
pub mod arithmetic;
pub mod facts;
pub mod grammar;
pub mod identity;
pub mod recall;
pub mod tools;

#[cfg(test)]
mod tests;

use super::error::OptionError;
use super::sample::Think;

/// What most tasks do by default: answer at once.
fn answer_at_once() -> Vec<Think> {
    vec![Think::Off]
}

/// Refuses a list of which one item is drawn, if it has none.
fn not_empty<T: std::fmt::Debug>(option: &'static str, items: &[T]) -> Result<(), OptionError> {
    OptionError::unless(!items.is_empty(), option, "a list of at least one", &items)
}

/// Refuses a count out of its bounds.
fn within(
    option: &'static str,
    bounds: std::ops::RangeInclusive<usize>,
    want: &'static str,
    got: usize,
) -> Result<(), OptionError> {
    OptionError::unless(bounds.contains(&got), option, want, &got)
}
