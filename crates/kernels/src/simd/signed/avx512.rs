//! Signed quads in one 512-bit register. `vpdpbusd` takes one unsigned operand: the weights plus 128, which the sums
//! begin without.

use std::arch::x86_64::*;

use super::SignedQuads;
use crate::simd::{Avx512, LANES};

/// Intrinsics on values: sound because an `Avx512` exists.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` proves that the CPU has AVX-512 F, BW, DQ, VL and VNNI; memory is read through references
        // to arrays of exactly the bytes that are loaded, and without alignment.
        unsafe { $call }
    };
}

impl SignedQuads for Avx512 {
    type Signed = __m512i;

    #[inline(always)]
    fn load_signed(self, codes: &[[i8; 4]; LANES]) -> Self::Signed {
        intrinsic!(_mm512_xor_si512(
            _mm512_loadu_si512(codes.as_ptr().cast()),
            _mm512_set1_epi8(i8::MIN) // plus 128, modulo 256
        ))
    }
    #[inline(always)]
    fn start_signed(self, total: i32) -> Self::Int {
        intrinsic!(_mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<7>(_mm512_set1_epi32(total))))
    }
    #[inline(always)]
    fn multiply_signed(self, sum: Self::Int, w: Self::Signed, x: [i8; 4]) -> Self::Int {
        intrinsic!(_mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)))))
    }
}
