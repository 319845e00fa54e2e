//! One step after another: forward, loss, backward, optimiser, balance.

mod loss;
mod micro;
pub(crate) mod rounding;
mod run;
mod step;

pub use loss::{Targets, cross_entropy_of, target_logprobs};
pub use run::{Event, METRICS, MODEL, Outcome, TrainError, run};
pub(crate) use run::{load_model, refuse_done};
pub use step::{StepReport, Trainer, TrainerParts};
