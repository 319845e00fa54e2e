//! `model`: DeepSeek-V4 as in the paper, one file per named part.
//!
//! Door: [`Transformer::load`] takes a checkpoint, [`Transformer::forward`] takes one step: a [`Batch`] of chunks
//! and the [`SequenceState`] of each, and gives logits. [`Mtp::forward`] drafts the token after the next.
//!
//! **Invariant (exact state):** the logits of a position depend on its tokens and the weights only; a state is
//! the same bytes however it was reached.
//!
//! **Invariant:** no arithmetic here: every number comes out of an operation of `kernels`, and nothing branches
//! on an activation.
//!
//! Fields that hold a tensor carry its checkpoint name.

mod attention;
mod compressor;
mod ctx;
mod embedding;
mod error;
pub mod exact_state;
mod gradients;
mod hyper_connection;
mod indexer;
mod kept;
mod layer;
mod layer_ahead;
mod load;
mod measure;
mod moe;
mod mtp;
mod parameters;
pub mod plan;
mod save;
mod state;
mod step;
mod training;
mod transformer;

pub use ctx::{Ctx, PROBE_NAMES, Probe};
pub use cuvier_kernels::{Compute, Isa, KvFormat, Lent, Operations, Roof, measure_roof};
pub use cuvier_tensor::Matrix;
pub use cuvier_types::{Batch, Chunk, LogitRows, TokenId};
pub use cuvier_weights::expert_store::LayerReads;
pub use error::ModelError;
pub use indexer::IndexerLoss;
pub use load::Streaming;
pub use moe::BalanceLoss;
pub use mtp::Mtp;
pub use parameters::Parameters;
pub use save::SEGMENT_TOKENS;
pub use state::{ROLLBACK_MAX, SequenceState};
pub use training::{LogitGradients, Losses, Objective, TrainingPass};
pub use transformer::{StepOutput, Transformer};
