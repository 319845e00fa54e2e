//! `eval`: what a model can do, in numbers that say how sure they are.
//!
//! Door: [`Asker`] puts questions with known answers to an engine, as a client would ([`arithmetic`], [`needle`],
//! [`tools`], [`abstain`]); [`Reader`] reads documents through the model itself ([`bpb`], [`mtp`], [`balance`],
//! [`gain`]). Each gives a [`Report`], which is a table for people and JSON for programs.
//!
//! **Invariant:** what is asked was held out from training: the half of the samples that training never sees.
//! **Invariant:** a report is a function of the model, its arithmetic and what was asked: answers are greedy, samples
//! follow from the seed, and no clock is read.
//! **Absent on purpose:** samples and verdicts. They are those of `train::data`, so that a task cannot mean one thing
//! where it is learned and another where it is measured.

#![forbid(unsafe_code)]

pub mod abstain;
pub mod arithmetic;
mod ask;
pub mod balance;
pub mod bpb;
mod decode;
mod error;
pub mod gain;
pub mod mtp;
pub mod needle;
mod passages;
mod questions;
mod reader;
mod report;
mod schema;
mod share;
pub mod tools;

pub use ask::{Asker, Heard, Question};
pub use error::EvalError;
pub use passages::{Passage, Passages};
pub use reader::{Reader, Rows};
pub use report::{Cell, Layout, Report, Row};
pub use share::{Estimate, Share};

/// Told how much of the work is done, and how much there is.
pub type Tell<'a> = &'a mut dyn FnMut(usize, usize);
