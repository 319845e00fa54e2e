//! On-policy distillation: a student answers, and at every token of its answers it is pulled towards what the teacher of
//! the question's domain says of the whole vocabulary. Several specialists become one model.

mod run;

pub use run::{DISTILL_METRICS, DistillEvent, DistillMetrics, DomainMetrics, run};
