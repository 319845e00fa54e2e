//! Products of eight-bit activations with eight-bit weights, in integers.
//!
//! `out[t, r] = sum over i of w[r, i] * x[t, i]`, where `w` are codes of eight bits times a unit per row and 128
//! columns, and `x` are [`QuantisedRows`](crate::QuantisedRows): codes of eight bits times a scale per 128 columns.
//!
//! | argument | shape           | dtype       | unit       |
//! |----------|-----------------|-------------|------------|
//! | `x`      | `[tokens, in]`  | i8 and f32  | activation |
//! | `w`      | `[out, in]`     | i8 and f32  | weight     |
//! | `out`    | `[tokens, out]` | f32         | activation |
//!
//! ```text
//! S   = sum over 128 columns of code of w * code of x
//! acc = fma(f32(S), unit * scale, acc)                   block by block in ascending order
//! ```
//!
//! `S` is an exact i32; its f32, the product of unit and scale and the sum are each rounded once. So an output has the
//! same bits however rows and tokens are cut into tiles.
//!
//! No checkpoint has such weights: [`pack`] makes them of FP8, BF16 and F32. FP8 matrices that were not packed at load
//! time are packed strip by strip as products need them, to the same bits.

use std::ops::Range;

mod pack;
mod product;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use pack::pack;
pub(crate) use pack::pack_strips;
pub(crate) use product::{Strips, product};
