//! The lanes in one 512-bit register.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::{LANES, Simd};
use crate::isa::Vectorized;

/// Proof that this CPU has AVX-512 F, BW, DQ, VL and VNNI. Only [`Avx512::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, if this CPU can give it.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("fma");
        all.then_some(Self(()))
    }

    #[inline]
    pub(crate) fn enter<W: Vectorized>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
        fn inside<W: Vectorized>(simd: Avx512, work: W) -> W::Output {
            work.run(simd)
        }
        // SAFETY: `self` proves that the CPU has these instructions.
        unsafe { inside(self, work) }
    }
}

/// One intrinsic on values: sound because an `Avx512` exists.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` proves that the CPU has AVX-512 F, BW, DQ, VL and VNNI; memory is read through references to
        // arrays of exactly the bytes that are loaded or stored, and without alignment.
        unsafe { $call }
    };
}

impl Simd for Avx512 {
    type V = __m512;
    type Part = __m512;
    const PARTS: usize = 1;
    const ACCUMULATORS: usize = 24;

    #[inline(always)]
    fn apart<W: Vectorized>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
        fn alone<W: Vectorized>(simd: Avx512, work: W) -> W::Output {
            work.run(simd)
        }
        // Called by an address of which the compiler knows nothing: it inlines `alone` otherwise.
        let alone: unsafe fn(Avx512, W) -> W::Output = black_box(alone::<W>);
        intrinsic!(alone(self, work))
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        intrinsic!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn splat_part(self, x: f32) -> Self::Part {
        self.splat(x)
    }
    #[inline(always)]
    fn load_part(self, x: &[f32; LANES], _: usize) -> Self::Part {
        self.load(x)
    }
    #[inline(always)]
    fn store_part(self, v: Self::Part, out: &mut [f32; LANES], _: usize) {
        self.store(v, out);
    }
    #[inline(always)]
    fn fma_part(self, a: Self::Part, b: Self::Part, c: Self::Part) -> Self::Part {
        self.fma(a, b, c)
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        intrinsic!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        intrinsic!(_mm512_storeu_ps(out.as_mut_ptr(), v));
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        intrinsic!(_mm512_sqrt_ps(a))
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        intrinsic!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn exp2_integral(self, n: Self::V) -> Self::V {
        intrinsic!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::V {
        intrinsic!({
            let halves = _mm256_loadu_si256(x.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        })
    }
    #[inline(always)]
    fn load_e4m3_over_256(self, x: &[u8; 16]) -> Self::V {
        intrinsic!({
            // An f16 has one exponent bit more and a bias greater by 8: sign, exponent and mantissa move to its
            // bits 15, 10 to 13 and 7 to 9. Sign-extended, so that the shift leaves copies of the sign above.
            let bytes = _mm256_cvtepi8_epi16(_mm_loadu_si128(x.as_ptr().cast()));
            let halves =
                _mm256_and_si256(_mm256_slli_epi16::<7>(bytes), _mm256_set1_epi16(0xBF80_u16 as i16));
            _mm512_cvtph_ps(halves)
        })
    }
    #[inline(always)]
    fn load_e2m1(self, x: &[u8; 8], table: Self::V) -> Self::V {
        intrinsic!({
            let bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(x.as_ptr().cast()));
            // `q | q << 28` has the low nibble at the bottom of the even dword and the high nibble at the bottom
            // of the odd one; the permutation looks at four bits only.
            let codes = _mm512_or_si512(bytes, _mm512_slli_epi64::<28>(bytes));
            _mm512_permutexvar_ps(codes, table)
        })
    }
    #[inline(always)]
    fn load_e2m1_pair(self, x: &[u8; 16], table: Self::V) -> [Self::V; 2] {
        intrinsic!({
            // Bytes whose low four bits are the nibbles in order; the permutation looks at four bits only.
            let low = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm_srli_epi16::<4>(low);
            let first = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, high));
            let second = _mm512_cvtepu8_epi32(_mm_unpackhi_epi8(low, high));
            [_mm512_permutexvar_ps(first, table), _mm512_permutexvar_ps(second, table)]
        })
    }
    #[inline(always)]
    fn store_i8(self, v: Self::V, out: &mut [i8; LANES]) {
        intrinsic!(_mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v))));
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a prefetch of any address is a hint.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[inline(always)]
    fn prefetch_far(self, at: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        intrinsic!({
            let a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)))
        })
    }
    #[inline(always)]
    fn sum_four(self, v: [Self::V; 4]) -> [f32; 4] {
        intrinsic!({
            super::avx2::sum_four([
                [_mm512_castps512_ps256(v[0]), _mm512_extractf32x8_ps::<1>(v[0])],
                [_mm512_castps512_ps256(v[1]), _mm512_extractf32x8_ps::<1>(v[1])],
                [_mm512_castps512_ps256(v[2]), _mm512_extractf32x8_ps::<1>(v[2])],
                [_mm512_castps512_ps256(v[3]), _mm512_extractf32x8_ps::<1>(v[3])],
            ])
        })
    }
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        intrinsic!(_mm512_reduce_max_ps(v))
    }
}
