//! Optimisers: gradients to new weights.
//!
//! Door: [`Optimizer`], which gives every tensor the rule of [`rule_of`]; [`clip`] before it; [`Schedule`] says how
//! far and how much.
//!
//! **Invariant:** one tensor is one task, and nothing is shared between tasks, so the number of threads changes no
//! bit.

mod adamw;
mod muon;
mod newton_schulz;
mod norm;
mod optimizer;
mod rule;
pub mod schedule;
#[cfg(test)]
mod testing;

pub use adamw::AdamWOptions;
pub use muon::MuonOptions;
pub use norm::{clip, global_norm};
pub use optimizer::{Optimizer, OptimizerOptions, OptimizerState, StateError};
pub use rule::{MatrixRule, Rule, rule_of};
pub use schedule::Schedule;
