//! `train`: how a DeepSeek-V4 is trained: data, losses, optimisers, schedules, checkpoints.
//!
//! The network is the one of `model`, forward and backward; what comes out is a checkpoint folder that every
//! other verb accepts.

pub mod anticipation;
pub mod config;
pub mod data;
pub mod distill;
pub mod grpo;
pub mod init;
pub mod metrics;
pub mod optim;
pub mod plot;
pub mod random;
pub mod routers;
pub mod save;
pub mod trainer;
