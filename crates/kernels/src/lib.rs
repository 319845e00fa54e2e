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

mod attention;
mod compressor;
mod compute;
mod elementwise;
mod embedding;
mod entry;
mod experts;
#[cfg(test)]
mod far_tests;
mod fp4;
mod gemm;
mod hadamard;
mod hyper_connection;
mod index_select;
mod int8;
mod isa;
mod quantise;
mod rms_norm;
mod roof;
mod rope;
mod router;
mod swiglu;
#[cfg(test)]
mod testing;

pub use attention::{AttentionConfig, AttentionSegment, Entries, attention};
pub use compressor::{CompressorShape, compress, compressor_rows};
pub use compute::{Compute, DisjointRows, Lent, Number};
pub use elementwise::{add, replicate, scale};
pub use embedding::embed;
pub use entry::{
    EntryCodec, IndexKeyCodec, KvFormat, encode_entries, encode_index_keys, quantise_index_queries,
};
pub use experts::{ExpertWeights, experts};
pub use gemm::{gemm, gemm_grouped};
pub use hadamard::hadamard;
pub use hyper_connection::{
    HC_MULT_MAX, HcConfig, HcHead, HcMix, HyperConnection, hc_collapse, hc_expand, hc_head, hc_mix,
};
pub use index_select::{IndexSegment, Selection, index_select};
pub use int8::pack;
pub use isa::{Isa, Vectorized};
pub use quantise::{ACTIVATION_BLOCK, Activations, QuantisedRows, quantise};
pub use rms_norm::rms_norm_in_place;
pub use roof::{Operations, Roof, measure_roof};
pub use rope::{RopeAngles, RopeTable, Rotation, norm_and_rope, rope};
pub use router::{Routing, route_by_hash, route_by_score};
pub use swiglu::swiglu;
