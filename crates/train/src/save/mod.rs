//! What training leaves on the disk: checkpoints to go on from, and checkpoints to use.
//!
//! Door: [`Saved::write`] and [`Loaded::read`] for the first, [`write_official`] and [`read_official`] for the second.
//!
//! **Invariant:** a folder that has its final name is whole and on the disk.

mod error;
mod folder;
mod official;
mod tensors;
mod training;

pub use error::SaveError;
pub use official::{read_official, write_official};
pub use training::{Loaded, Progress, Saved, config_hash, latest};
