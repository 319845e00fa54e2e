//! Group relative policy optimisation: several answers to each question are drawn from the engine as a client would,
//! judged by a verifier, and made more or less likely by how much better they are than their group.

mod policy;
pub(crate) mod rollout;
mod run;

pub use policy::{Policy, TokenTerm, advantages, is_off_policy};
pub use rollout::{Drawing, Question, Rollout, draw};
pub use run::{GRPO_METRICS, GrpoEvent, GrpoMetrics, read_grpo_metrics, run};
pub(crate) use run::{Learning, spans};
