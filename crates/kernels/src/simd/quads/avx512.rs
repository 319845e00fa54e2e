//! Quads in one 512-bit register.

#![expect(clippy::needless_range_loop, reason = "loops of constant length, which must unroll into registers")]

use std::arch::x86_64::*;

use super::{E2M1_CODES, FourBlocks, QuadBytes, Quads};
use crate::simd::{Avx512, LANES, Simd};

/// Intrinsics on values: sound because an `Avx512` exists.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` proves that the CPU has AVX-512 F, BW, DQ, VL and VNNI; memory is read through references
        // to arrays of exactly the bytes that are loaded or stored, or bytes whose number has been checked, and
        // without alignment.
        unsafe { $call }
    };
}

/// The first sixteen bytes of the rows `r`, `r + 4`, `r + 8` and `r + 12`.
///
/// # Safety
/// The bytes must exist.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_four(at: *const u8, stride: usize, r: usize) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let rows = _mm512_castsi128_si512(_mm_loadu_si128(at.add(r * stride).cast()));
        let rows = _mm512_inserti32x4::<1>(rows, _mm_loadu_si128(at.add((r + 4) * stride).cast()));
        let rows = _mm512_inserti32x4::<2>(rows, _mm_loadu_si128(at.add((r + 8) * stride).cast()));
        _mm512_inserti32x4::<3>(rows, _mm_loadu_si128(at.add((r + 12) * stride).cast()))
    }
}

/// Given four vectors, dword `i` of each quarter is the sum of the dwords of that quarter of vector `i`.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter_sums([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// The shifts of four blocks with four scales each, scale by scale: 13 - d, or 255, by which everything is shifted
/// out.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn row_multipliers(bytes: __m128i) -> __m512i {
    let one_on = _mm_setr_epi8(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12);
    let two_on = _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    let by_scale = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let two = _mm_max_epu8(bytes, _mm_shuffle_epi8(bytes, one_on));
    let below = _mm_sub_epi8(_mm_max_epu8(two, _mm_shuffle_epi8(two, two_on)), bytes);
    let shift = _mm_sub_epi8(_mm_set1_epi8(13), _mm_min_epu8(below, _mm_set1_epi8(14)));
    _mm512_cvtepu8_epi32(_mm_shuffle_epi8(shift, by_scale))
}

impl Quads for Avx512 {
    type Quad = __m512i;
    type Sum = __m512i;
    type Int = __m512i;

    #[inline(always)]
    fn load_quad(self, bytes: &QuadBytes) -> Self::Quad {
        intrinsic!(_mm512_loadu_si512(bytes.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_quad(self, quad: Self::Quad, out: &mut QuadBytes) {
        intrinsic!(_mm512_storeu_si512(out.as_mut_ptr().cast(), quad));
    }
    #[inline(always)]
    fn load_quads(self, bytes: &[u8], stride: usize) -> [Self::Quad; 4] {
        assert!(bytes.len() >= (LANES - 1) * stride + 16, "sixteen rows");
        intrinsic!({
            let at = bytes.as_ptr();
            let [a, b] = [load_four(at, stride, 0), load_four(at, stride, 1)];
            let [c, d] = [load_four(at, stride, 2), load_four(at, stride, 3)];
            let [ab, cd] = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
            let [ab_high, cd_high] = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        })
    }
    #[inline(always)]
    fn e2m1_codes(self, nibbles: Self::Quad) -> [Self::Quad; 2] {
        intrinsic!({
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(E2M1_CODES.as_ptr().cast()));
            let mask = _mm512_set1_epi8(0x0F);
            [
                _mm512_shuffle_epi8(table, _mm512_and_si512(nibbles, mask)),
                _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16::<4>(nibbles), mask)),
            ]
        })
    }
    #[inline(always)]
    fn bias(self, x: &[[i8; 4]; 8], offset: i32) -> i32 {
        intrinsic!({
            let x = _mm256_loadu_si256(x.as_ptr().cast());
            let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(offset as i8), x);
            let sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum));
            -_mm_cvtsi128_si32(sum)
        })
    }
    #[inline(always)]
    fn start(self, bias: i32) -> Self::Sum {
        intrinsic!(_mm512_set1_epi32(bias))
    }
    #[inline(always)]
    fn multiply(self, sum: Self::Sum, w: Self::Quad, x: [i8; 4]) -> Self::Sum {
        intrinsic!(_mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)))))
    }
    #[inline(always)]
    fn add_scaled(self, total: Self::Int, sum: Self::Sum, multiplier: Self::Int) -> Self::Int {
        intrinsic!(_mm512_add_epi32(total, _mm512_sllv_epi32(sum, multiplier)))
    }
    #[inline(always)]
    fn four_sums<const T: usize>(
        self,
        codes: &[u8; 16 * LANES],
        scales: &[u8; LANES],
        x: [&FourBlocks; T],
    ) -> [[i32; 4]; T] {
        intrinsic!({
            let mut parts = [[_mm512_setzero_si512(); 4]; T];
            for block in 0..4 {
                let nibbles = _mm512_loadu_si512(codes.as_ptr().add(4 * LANES * block).cast());
                let [low, high] = self.e2m1_codes(nibbles);
                for t in 0..T {
                    let even = _mm512_loadu_si512(x[t].codes[block][0].as_ptr().cast());
                    let odd = _mm512_loadu_si512(x[t].codes[block][1].as_ptr().cast());
                    let part = _mm512_dpbusd_epi32(_mm512_setzero_si512(), low, even);
                    parts[t][block] = _mm512_dpbusd_epi32(part, high, odd);
                }
            }
            let shifts = row_multipliers(_mm_loadu_si128(scales.as_ptr().cast()));
            let mut out = [[0; 4]; T];
            for t in 0..T {
                // Lane `4 i + j` is scale `i` of block `j`.
                let sums =
                    _mm512_add_epi32(quarter_sums(parts[t]), _mm512_loadu_si512(x[t].bias.as_ptr().cast()));
                let sums = _mm512_sllv_epi32(sums, shifts);
                let sum =
                    _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
                let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
                _mm_storeu_si128(out[t].as_mut_ptr().cast(), sum);
            }
            out
        })
    }
    #[inline(always)]
    fn quad_to_int(self, quad: Self::Quad) -> Self::Int {
        quad
    }
    #[inline(always)]
    fn zero_int(self) -> Self::Int {
        intrinsic!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn load_int(self, x: &[i32; LANES]) -> Self::Int {
        intrinsic!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_int(self, v: Self::Int, out: &mut [i32; LANES]) {
        intrinsic!(_mm512_storeu_si512(out.as_mut_ptr().cast(), v));
    }
    #[inline(always)]
    fn int_to_f32(self, v: Self::Int) -> <Self as Simd>::V {
        intrinsic!(_mm512_cvtepi32_ps(v))
    }
    /// Multipliers are the exponents of powers of two, by which sums are shifted: by 255 to 0.
    #[inline(always)]
    fn block_scales(self, bytes: Self::Quad) -> ([Self::Int; 4], <Self as Simd>::V) {
        intrinsic!({
            let two = _mm512_max_epu8(bytes, _mm512_srli_epi32::<16>(bytes));
            let largest = _mm512_max_epu8(two, _mm512_srli_epi32::<8>(two));
            let spread = _mm512_set4_epi32(0x0C0C_0C0C, 0x0808_0808, 0x0404_0404, 0);
            let below = _mm512_sub_epi8(_mm512_shuffle_epi8(largest, spread), bytes);
            let shift = _mm512_sub_epi8(_mm512_set1_epi8(13), _mm512_min_epu8(below, _mm512_set1_epi8(14)));
            let byte = _mm512_set1_epi32(0xFF);
            let multipliers = [
                _mm512_and_si512(shift, byte),
                _mm512_and_si512(_mm512_srli_epi32::<8>(shift), byte),
                _mm512_and_si512(_mm512_srli_epi32::<16>(shift), byte),
                _mm512_srli_epi32::<24>(shift),
            ];
            let largest = _mm512_and_si512(largest, byte);
            // 0 and 255 stand for 2^-127 and NaN: the uppermost bit of the mantissa is set.
            let next = _mm512_add_epi32(largest, _mm512_set1_epi32(1));
            let is_special = _mm512_testn_epi32_mask(next, _mm512_set1_epi32(0xFE));
            let special = _mm512_maskz_set1_epi32(is_special, 1 << 22);
            let bits = _mm512_or_si512(_mm512_slli_epi32::<23>(largest), special);
            let unit = _mm512_castsi512_ps(_mm512_set1_epi32((127 - 14) << 23));
            (multipliers, _mm512_mul_ps(_mm512_castsi512_ps(bits), unit))
        })
    }
}
