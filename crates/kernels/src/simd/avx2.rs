//! The lanes in two 256-bit registers.

use std::arch::asm;
use std::arch::x86_64::*;
use std::hint::black_box;

use super::{LANES, Simd};
use crate::isa::Vectorized;

/// Proof that this CPU has AVX2, FMA and F16C. Only [`Avx2::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The proof, if this CPU can give it.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        all.then_some(Self(()))
    }

    #[inline]
    pub(crate) fn enter<W: Vectorized>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inside<W: Vectorized>(simd: Avx2, work: W) -> W::Output {
            work.run(simd)
        }
        // SAFETY: `self` proves that the CPU has these instructions.
        unsafe { inside(self, work) }
    }
}

/// Intrinsics on values: sound because an `Avx2` exists. Never inside a closure, as for `map`: one that the compiler
/// leaves on its own lacks the instructions, and calls every intrinsic as a function.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` proves that the CPU has AVX2, FMA and F16C; memory is read through references to arrays of
        // exactly the bytes that are loaded or stored, and without alignment.
        unsafe { $call }
    };
}

/// Lane `code & 15` of the sixteen numbers in `low` and `high`, for eight codes.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up(low: __m256, high: __m256, codes: __m256i) -> __m256 {
    let from_low = _mm256_permutevar8x32_ps(low, codes);
    let from_high = _mm256_permutevar8x32_ps(high, codes);
    let is_high = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
    _mm256_blendv_ps(from_low, from_high, is_high)
}

/// [`look_up`] of sixteen codes, one a byte.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up_bytes(table: [__m256; 2], codes: __m128i) -> [__m256; 2] {
    let low = _mm256_cvtepu8_epi32(codes);
    let high = _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(codes));
    [look_up(table[0], table[1], low), look_up(table[0], table[1], high)]
}

/// The low four bytes as eight dwords whose low four bits are their nibbles, low nibble first.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(bytes: __m128i) -> __m256i {
    let wide = _mm256_cvtepu8_epi64(bytes);
    _mm256_or_si256(wide, _mm256_slli_epi64::<28>(wide))
}

/// [`Simd::exp2_integral`] of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn exp2_integral(n: __m256) -> __m256 {
    let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
}

/// The sums of two vectors after the steps `i + 8` and `i + 4`: four lanes of the first, then of the second.
#[inline]
#[target_feature(enable = "avx2")]
fn half_sums(a: [__m256; 2], b: [__m256; 2]) -> __m256 {
    let (a, b) = (_mm256_add_ps(a[0], a[1]), _mm256_add_ps(b[0], b[1]));
    _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
}

/// [`Simd::sum_four`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_four(v: [[__m256; 2]; 4]) -> [f32; 4] {
    let (even, odd) = (half_sums(v[0], v[2]), half_sums(v[1], v[3]));
    // Lanes 0 and 1, then 2 and 3, of each: of vectors 0 and 1 in the low half, 2 and 3 in the high one.
    let low = _mm256_shuffle_ps::<0b01_00_01_00>(even, odd);
    let high = _mm256_shuffle_ps::<0b11_10_11_10>(even, odd);
    let pairs = _mm256_add_ps(low, high);
    let (first, second) = (_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
    let sums = _mm_add_ps(
        _mm_shuffle_ps::<0b10_00_10_00>(first, second),
        _mm_shuffle_ps::<0b11_01_11_01>(first, second),
    );
    let mut out = [0.0; 4];
    // SAFETY: four f32 have room in `out`.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}

/// `a * b + c` in the register of `c`. Left to choose the form of the instruction, the compiler moves sums from one
/// register to another in each round of a loop, until one of them is left in memory.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_product(a: __m256, b: __m256, mut c: __m256) -> __m256 {
    // SAFETY: the instruction exists by the features above, and touches nothing but its registers.
    unsafe {
        asm!(
            "vfmadd231ps {c}, {a}, {b}",
            a = in(ymm_reg) a,
            b = in(ymm_reg) b,
            c = inout(ymm_reg) c,
            options(nomem, nostack, preserves_flags),
        );
    }
    c
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    type Part = __m256;
    const PARTS: usize = 2;
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn apart<W: Vectorized>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn alone<W: Vectorized>(simd: Avx2, work: W) -> W::Output {
            work.run(simd)
        }
        // Called by an address of which the compiler knows nothing: it inlines `alone` otherwise.
        let alone: unsafe fn(Avx2, W) -> W::Output = black_box(alone::<W>);
        intrinsic!(alone(self, work))
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        intrinsic!([_mm256_set1_ps(x); 2])
    }
    #[inline(always)]
    fn splat_part(self, x: f32) -> Self::Part {
        intrinsic!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn load_part(self, x: &[f32; LANES], part: usize) -> Self::Part {
        intrinsic!(_mm256_loadu_ps(x.as_ptr().add(8 * (part % 2))))
    }
    #[inline(always)]
    fn store_part(self, v: Self::Part, out: &mut [f32; LANES], part: usize) {
        intrinsic!(_mm256_storeu_ps(out.as_mut_ptr().add(8 * (part % 2)), v));
    }
    #[inline(always)]
    fn fma_part(self, a: Self::Part, b: Self::Part, c: Self::Part) -> Self::Part {
        intrinsic!(add_product(a, b, c))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        intrinsic!([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        intrinsic!({
            _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
        });
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        intrinsic!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        intrinsic!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        intrinsic!([_mm256_sqrt_ps(a[0]), _mm256_sqrt_ps(a[1])])
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        intrinsic!([_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])])
    }
    #[inline(always)]
    fn exp2_integral(self, n: Self::V) -> Self::V {
        intrinsic!([exp2_integral(n[0]), exp2_integral(n[1])])
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::V {
        intrinsic!({
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(16).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
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
            [
                _mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)),
            ]
        })
    }
    #[inline(always)]
    fn load_e2m1(self, x: &[u8; 8], table: Self::V) -> Self::V {
        intrinsic!({
            let bytes = _mm_loadl_epi64(x.as_ptr().cast());
            let low = nibbles(bytes);
            let high = nibbles(_mm_srli_si128::<4>(bytes));
            [look_up(table[0], table[1], low), look_up(table[0], table[1], high)]
        })
    }
    #[inline(always)]
    fn load_e2m1_pair(self, x: &[u8; 16], table: Self::V) -> [Self::V; 2] {
        intrinsic!({
            // Bytes whose low four bits are the nibbles in order; the look-up looks at four bits only.
            let low = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm_srli_epi16::<4>(low);
            [
                look_up_bytes(table, _mm_unpacklo_epi8(low, high)),
                look_up_bytes(table, _mm_unpackhi_epi8(low, high)),
            ]
        })
    }
    #[inline(always)]
    fn store_i8(self, v: Self::V, out: &mut [i8; LANES]) {
        intrinsic!({
            let (low, high) = (_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            // Packs within halves: lanes 0-3, 8-11, 4-7, 12-15.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_packs_epi16(low, high));
        });
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
            let a = _mm256_add_ps(v[0], v[1]);
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)))
        })
    }
    #[inline(always)]
    fn sum_four(self, v: [Self::V; 4]) -> [f32; 4] {
        intrinsic!(sum_four(v))
    }
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        intrinsic!({
            let a = _mm256_max_ps(v[0], v[1]);
            let b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_max_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)))
        })
    }
}
