//! Products of eight-bit activations with FP4 weights, in integers.
//!
//! `out[t, r] = sum over i of w[r, i] * x[t, i]`, where `w` are E2M1 numbers times a UE8M0 scale per 32 columns and
//! `x` are [`QuantisedRows`](crate::QuantisedRows): codes of eight bits times a scale per 128 columns.
//!
//! | argument | shape           | dtype       | unit       |
//! |----------|-----------------|-------------|------------|
//! | `x`      | `[tokens, in]`  | i8 and f32  | activation |
//! | `w`      | `[out, in]`     | FP4         | weight     |
//! | `out`    | `[tokens, out]` | f32         | activation |
//!
//! In a block of 128 columns of a row let `2^e` be the largest of its four scales (or fewer, at the end of a row that
//! is no multiple of 128 long) and `2^(e - d)` the others. Then
//!
//! ```text
//! S   = sum over the four of m * (sum over 32 columns of 2 w * code)      m = 2^(13 - d), or 0 where d > 13
//! acc = fma(f32(S), (2^e / 2 / 2^13) * scale of x, acc)                   block by block in ascending order
//! ```
//!
//! `S` is an exact i32; its f32, the product of both scales and the sum are each rounded once. So an output has the
//! same bits however rows and tokens are cut into tiles. FP4 weights are exact, but for those whose scale is less than
//! 2^-13 of the largest within 128 columns: they count as zeros.
//!
//! Two ways lead there. With one token or two, `S` is computed row by row, along the columns: weights are read once, in
//! the order of memory, which the prefetchers follow and which no set of the first cache level is too small for. With
//! more, the codes of sixteen rows and 128 columns are brought to the form of quads in the first cache level, a
//! [`Panel`], and met by all tokens.
//!
//! # Other rows of FP4 numbers
//!
//! [`Panel::pack`] takes any sixteen rows of 64 bytes that lie equally far apart, such as stored index keys, and
//! [`Panel::multiply_all`] hands the products with some [`Block`]s of activations to a [`Sink`]: see there.

use std::ops::Range;

use cuvier_tensor::formats::FP4_BLOCK;
use cuvier_tensor::{WeightFormat, WeightMatrix};

mod block;
mod panel;
mod product;
mod rows;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use block::{Block, Blocks, BlocksRef};
pub(crate) use panel::{Panel, Sink};
pub(crate) use product::product;

use crate::ACTIVATION_BLOCK;

/// Scales in a block of activations.
const SCALES: usize = ACTIVATION_BLOCK / FP4_BLOCK;
/// Bytes of weights in a block of activations.
const BLOCK_BYTES: usize = ACTIVATION_BLOCK / 2;

/// A matrix of FP4 weights.
#[derive(Clone, Copy)]
pub(crate) struct Fp4Matrix<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> Fp4Matrix<'a> {
    /// The numbers of `w`, if it is FP4.
    pub(crate) fn of(w: &'a WeightMatrix) -> Option<Self> {
        let WeightFormat::Fp4 { weight, scale } = w.format() else { return None };
        Some(Self { codes: weight.bytes(), scales: scale.bytes(), rows: w.rows(), cols: w.cols() })
    }
}
