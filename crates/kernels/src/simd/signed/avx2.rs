//! Signed quads in two 256-bit registers. `vpmaddubsw` takes one unsigned operand: the magnitudes of the weights; their
//! signs go to the other. A pair of products is at most 2 * 127 * 127, which sixteen bits hold.

use std::arch::x86_64::*;

use super::SignedQuads;
use crate::simd::{Avx2, LANES};

/// Codes and their magnitudes.
#[derive(Clone, Copy)]
pub struct Signed {
    codes: [__m256i; 2],
    magnitudes: [__m256i; 2],
}

/// Intrinsics on values: sound because an `Avx2` exists.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` proves that the CPU has AVX2; memory is read through references to arrays of exactly the
        // bytes that are loaded, and without alignment.
        unsafe { $call }
    };
}

/// Adds the products of four columns of eight rows.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply(sum: __m256i, codes: __m256i, magnitudes: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(x, codes));
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

impl SignedQuads for Avx2 {
    type Signed = Signed;

    #[inline(always)]
    fn load_signed(self, codes: &[[i8; 4]; LANES]) -> Self::Signed {
        intrinsic!({
            let at = codes.as_ptr();
            let codes = [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(8).cast())];
            Signed { codes, magnitudes: [_mm256_abs_epi8(codes[0]), _mm256_abs_epi8(codes[1])] }
        })
    }
    #[inline(always)]
    fn start_signed(self, _: i32) -> Self::Int {
        intrinsic!([_mm256_setzero_si256(); 2])
    }
    #[inline(always)]
    fn multiply_signed(self, sum: Self::Int, w: Self::Signed, x: [i8; 4]) -> Self::Int {
        intrinsic!({
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)));
            [
                multiply(sum[0], w.codes[0], w.magnitudes[0], x),
                multiply(sum[1], w.codes[1], w.magnitudes[1], x),
            ]
        })
    }
}
