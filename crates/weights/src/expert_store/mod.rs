//! Routed experts that stay in memory.

mod policy;

pub use policy::{Admission, ExpertKey, Policy};
