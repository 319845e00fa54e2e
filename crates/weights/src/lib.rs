//! `weights`: checkpoint files, from disk to memory and back.
//!
//! Door: [`Checkpoint::open`] maps a released checkpoint as it is and hands out its tensors by their official
//! names; [`ModelConfig`] is its `config.json`; [`inventory()`] says which tensors a config implies;
//! [`accounting`] counts parameters, bytes and operations from a config alone; [`synth`] writes
//! random-weight checkpoints of true format and [`write_checkpoint`] those of given numbers; [`Checkpoint::verify`]
//! looks at every number.
//!
//! **Invariants:**
//! * Every file is untrusted. A broken one gives one error that names file and tensor, before anything large
//!   is allocated; nothing here panics on any input.
//! * Tensors are views of mapped files: opening copies no weight. Where weights do not fit into memory,
//!   [`Checkpoint::open_streamed`] reads what it is asked for past the page cache instead, and routed experts come
//!   from an [`expert_store::ExpertStore`].
//! * A checkpoint that opened has every tensor that its config implies, with the implied shape, and no scale
//!   that is not a number.
//! * `unsafe` is in `mapping.rs` and `expert_store/arena.rs` only.

pub mod accounting;
mod checkpoint;
mod config;
mod decode;
mod direct;
mod disk;
mod encode;
mod error;
pub mod expert_store;
mod export;
mod index;
mod inventory;
mod mapping;
mod names;
mod safetensors;
mod save;
mod stored_rows;
pub mod synth;
#[cfg(test)]
mod test_shapes;
mod unique_map;
mod verify;

/// Memory through which a tensor is copied when it is read from a streamed checkpoint.
pub const COPIED_BYTES: u64 = direct::COPIED_BYTES as u64;

// The bounds of a config keep products of its fields within 64 bits.
const _: () = assert!(usize::BITS >= 64);

pub use checkpoint::{Checkpoint, Drafter, Expert};
pub use config::{
    DsparkConfig, ExpertDtype, LayerKind, ModelConfig, QuantizationConfig, RopeScaling, ScoringFunc,
};
pub use decode::given_back;
pub use disk::measure_disk;
pub use error::WeightsError;
pub use export::{Numbers, write_checkpoint};
pub use index::Index;
pub use inventory::{Family, Inventory, Part, Precision, StoredTensor, TensorSpec, inventory};
pub use safetensors::{Header, HeaderEntry};
pub use save::{read_tensors, write_f32_tensors, write_tensors};
pub use stored_rows::StoredRows;
pub use verify::{FileReport, Finding, VerifyReport};
