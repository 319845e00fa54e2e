//! One step after another: forward, loss, backward, optimiser, balance.

mod loss;
mod micro;
mod rounding;
mod run;
mod step;

pub use loss::{Targets, cross_entropy_of, target_logprobs};
pub(crate) use run::load_model;
pub use run::{Event, METRICS, MODEL, Outcome, TrainError, run};
pub use step::{StepReport, Trainer, TrainerParts};
