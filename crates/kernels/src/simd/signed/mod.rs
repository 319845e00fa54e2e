//! Products of signed codes of eight bits: sixteen rows, four columns of each at a time, against one row. All sums are
//! exact, so that every instruction set gives the same.

use super::{LANES, Quads};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

/// Operations on quads of signed codes. No code is -128.
pub trait SignedQuads: Quads {
    /// Four codes of each of sixteen rows.
    type Signed: Copy;

    /// Codes from memory, row by row.
    fn load_signed(self, codes: &[[i8; 4]; LANES]) -> Self::Signed;
    /// Sums that are zero once the products with all columns of a row have been added; `total` is the sum of that row's
    /// codes.
    fn start_signed(self, total: i32) -> Self::Int;
    /// Adds the products of four columns.
    fn multiply_signed(self, sum: Self::Int, w: Self::Signed, x: [i8; 4]) -> Self::Int;
}
