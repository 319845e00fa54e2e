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
mod cross_entropy;
mod divergence;
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
mod matmul;
mod quantise;
mod rms_norm;
mod roof;
mod rope;
mod router;
mod swiglu;
#[cfg(test)]
mod testing;

pub use attention::{
    AttentionBackwardConfig, AttentionConfig, AttentionGradients, AttentionSegment, Entries, WholeSequence,
    attention, attention_backward,
};
pub use compressor::{
    CompressorShape, compress, compress_backward, compressor_rows, compressor_rows_backward,
};
pub use compute::{Compute, DisjointRows, Lent, Number};
pub use cross_entropy::cross_entropy;
pub use divergence::divergence;
pub use elementwise::{add, replicate, replicate_backward, scale};
pub use embedding::{embed, embed_backward};
pub use entry::{
    EntryCodec, IndexKeyCodec, KvFormat, encode_entries, encode_index_keys, quantise_index_queries,
};
pub use experts::{
    Dispatch, ExpertGradients, ExpertWeights, expert_backward, experts, experts_backward, experts_part,
};
pub use gemm::{decoded, gemm, gemm_grouped};
pub use hadamard::hadamard;
pub use hyper_connection::{
    HC_MULT_MAX, HcConfig, HcGradients, HcHead, HcMix, HyperConnection, hc_collapse, hc_collapse_backward,
    hc_expand, hc_expand_backward, hc_head, hc_head_backward, hc_head_shares, hc_mix, hc_mix_backward,
};
pub use index_select::{IndexGradients, IndexSegment, Selection, index_backward, index_select};
pub use int8::pack;
pub use isa::{Isa, Vectorized};
pub use matmul::{Store, matmul, matmul_transposed, transpose};
pub use quantise::{ACTIVATION_BLOCK, Activations, QuantisedRows, quantise};
pub use rms_norm::{rms_norm_backward, rms_norm_in_place};
pub use roof::{Operations, Roof, measure_roof};
pub use rope::{RopeAngles, RopeTable, Rotation, norm_and_rope, rope};
pub use router::{Routing, balance_backward, route_backward, route_by_hash, route_by_score};
pub use swiglu::{swiglu, swiglu_backward};
