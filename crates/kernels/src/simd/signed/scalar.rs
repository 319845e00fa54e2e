//! Signed quads as a plain array: the meaning of every operation.

use super::SignedQuads;
use crate::simd::{LANES, Scalar};

impl SignedQuads for Scalar {
    type Signed = [[i8; 4]; LANES];

    #[inline(always)]
    fn load_signed(self, codes: &[[i8; 4]; LANES]) -> Self::Signed {
        *codes
    }
    #[inline(always)]
    fn start_signed(self, _: i32) -> Self::Int {
        [0; LANES]
    }
    #[inline(always)]
    fn multiply_signed(self, mut sum: Self::Int, w: Self::Signed, x: [i8; 4]) -> Self::Int {
        let x = x.map(i32::from);
        for (sum, w) in sum.iter_mut().zip(w) {
            let w = w.map(i32::from);
            *sum += w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
        }
        sum
    }
}
