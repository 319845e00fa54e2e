//! `kernels`: the operations of DeepSeek-V4 on batches of rows. One folder per operation: contract, scalar
//! reference, SIMD, tests.
//!
//! Door: the functions re-exported here. Each takes a [`Compute`] (instruction set and threads) first and whole
//! batches after it.
//!
//! **Invariant (exact state):** every number that an operation writes depends on its own row and the weights
//! only: not on the other rows, how many they are, the number of threads or the instruction set. Sums run in one
//! fixed order: sixteen lanes, lane `l` adding the terms `l, l + 16, l + 32, ...` in order with fused
//! multiply-add, then the tree of [`simd::Simd::sum`]. So all instruction sets give the same bits.
//!
//! **Invariant:** `unsafe` stands only beside the intrinsics and the disjoint writes that need it.

#![allow(unsafe_code)]

pub mod simd;

mod compute;
mod embedding;
mod experts;
mod gemm;
mod isa;
mod swiglu;

pub use compute::{Compute, DisjointRows};
pub use embedding::embed;
pub use experts::{ExpertWeights, experts};
pub use gemm::{gemm, gemm_grouped};
pub use isa::Isa;
pub use swiglu::swiglu;
