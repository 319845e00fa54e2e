//! One step after another: forward, loss, backward, optimiser, balance.

mod loss;
mod micro;
mod step;

pub use loss::{Targets, cross_entropy_of};
pub use step::{StepReport, Trainer, TrainerParts};
