//! `scheduler`: which tokens are computed next.
//!
//! Continuous batching with chunked prefill. Every step, the sequences that are answering get one token each;
//! what is left of the step's token budget goes to prompts, in order of arrival.
//!
//! Door: [`Scheduler::submit`], [`Scheduler::schedule`], [`Scheduler::commit`], [`Scheduler::cancel`].
//!
//! **Invariant:** no tensor, clock, thread or IO here; a run is a function of its calls.
//! **Invariant:** the chunks of one sequence, in order, are its tokens: none twice, none skipped.
//! **Invariant:** every sequence leaves exactly once, with one last event.
//! **Invariant:** a batch never exceeds [`Limits`]; every sequence in a slot is served again after finitely many steps.
//! **Absent on purpose:** priorities. One queue, oldest first, until a measurement asks for more.

#![forbid(unsafe_code)]

mod scheduler;
mod sequence;

pub use scheduler::{Decision, Departed, Limits, Outcome, Scheduler, SubmitError};
pub use sequence::Submission;
