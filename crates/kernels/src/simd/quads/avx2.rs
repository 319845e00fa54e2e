//! Quads in two 256-bit registers: rows 0 to 7 and 8 to 15.

#![expect(clippy::needless_range_loop, reason = "loops of constant length, which must unroll into registers")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::{E2M1_CODES, FourBlocks, QuadBytes, Quads};
use crate::simd::{Avx2, LANES, Simd};

/// Intrinsics on values: sound because an `Avx2` exists.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` proves that the CPU has AVX2; memory is read through references to arrays of exactly the
        // bytes that are loaded or stored, or bytes whose number has been checked, and without alignment.
        unsafe { $call }
    };
}

/// `v`, of which the compiler knows nothing. It would reorder chains of sums, and then run out of registers.
#[inline]
#[target_feature(enable = "avx2")]
fn opaque(mut v: __m256i) -> __m256i {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

/// `v`, of which the compiler knows nothing. It would keep the address of every row in a register that it lacks.
#[inline(always)]
fn opaque_address(mut v: usize) -> usize {
    // SAFETY: no instruction.
    unsafe { asm!("/* {0} */", inout(reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

/// Sixteen bytes of two rows.
///
/// # Safety
/// The bytes must exist.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_two(low: *const u8, high: *const u8) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        let low = _mm256_castsi128_si256(_mm_loadu_si128(low.cast()));
        let high = opaque(_mm256_broadcastsi128_si256(_mm_loadu_si128(high.cast())));
        _mm256_blend_epi32::<0xF0>(low, high)
    }
}

/// The first sixteen bytes of eight rows as four quads: four rows from `low` on, four from `high` on.
///
/// # Safety
/// The bytes must exist.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_eight(low: *const u8, high: *const u8, stride: usize, three: usize) -> [__m256i; 4] {
    // SAFETY: the caller's.
    let [a, b, c, d] = unsafe {
        [
            load_two(low, high),
            load_two(low.add(stride), high.add(stride)),
            load_two(low.add(2 * stride), high.add(2 * stride)),
            load_two(low.add(three), high.add(three)),
        ]
    };
    let [ab, cd] = [_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d)];
    let [ab_high, cd_high] = [_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d)];
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// The codes of the low and the high nibbles.
#[inline]
#[target_feature(enable = "avx2")]
fn codes(nibbles: __m256i) -> [__m256i; 2] {
    // SAFETY: sixteen bytes of a table of sixteen.
    let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(E2M1_CODES.as_ptr().cast()) });
    let mask = _mm256_set1_epi8(0x0F);
    [
        _mm256_shuffle_epi8(table, _mm256_and_si256(nibbles, mask)),
        _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(nibbles), mask)),
    ]
}

/// [`Quads::block_scales`] of eight rows. A multiplier stands in both halves of its lane.
#[inline]
#[target_feature(enable = "avx2")]
fn block_scales(bytes: __m256i) -> ([__m256i; 4], __m256) {
    let two = _mm256_max_epu8(bytes, _mm256_srli_epi32::<16>(bytes));
    let largest = _mm256_max_epu8(two, _mm256_srli_epi32::<8>(two));
    let spread =
        _mm256_set_epi32(0x0C0C_0C0C, 0x0808_0808, 0x0404_0404, 0, 0x0C0C_0C0C, 0x0808_0808, 0x0404_0404, 0);
    let below = _mm256_sub_epi8(_mm256_shuffle_epi8(largest, spread), bytes);
    // 13 - d, or 255, by which everything is shifted out.
    let shift = _mm256_sub_epi8(_mm256_set1_epi8(13), _mm256_min_epu8(below, _mm256_set1_epi8(14)));
    let ones = _mm256_set1_epi32(0x0001_0001);
    let byte = _mm256_set1_epi32(0xFF);
    let multipliers = [
        _mm256_sllv_epi32(ones, _mm256_and_si256(shift, byte)),
        _mm256_sllv_epi32(ones, _mm256_and_si256(_mm256_srli_epi32::<8>(shift), byte)),
        _mm256_sllv_epi32(ones, _mm256_and_si256(_mm256_srli_epi32::<16>(shift), byte)),
        _mm256_sllv_epi32(ones, _mm256_srli_epi32::<24>(shift)),
    ];
    let largest = _mm256_and_si256(largest, byte);
    // 0 and 255 stand for 2^-127 and NaN: the uppermost bit of the mantissa is set.
    let next = _mm256_and_si256(_mm256_add_epi32(largest, _mm256_set1_epi32(1)), _mm256_set1_epi32(0xFE));
    let is_special = _mm256_cmpeq_epi32(next, _mm256_setzero_si256());
    let bits = _mm256_or_si256(
        _mm256_slli_epi32::<23>(largest),
        _mm256_and_si256(is_special, _mm256_set1_epi32(1 << 22)),
    );
    let unit = _mm256_castsi256_ps(_mm256_set1_epi32((127 - 14) << 23));
    (multipliers, _mm256_mul_ps(_mm256_castsi256_ps(bits), unit))
}

/// Sums of neighbours two apart, of `a` and `b` in turn: a step of adding up the four dwords of each half.
#[inline]
#[target_feature(enable = "avx2")]
fn halve(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
}

/// Given what [`halve`] made of four vectors, dword `i` of each half is the sum of the dwords of that half of vector
/// `i`, in two times sixteen bits.
#[inline]
#[target_feature(enable = "avx2")]
fn quarter(ab: __m256i, cd: __m256i) -> __m256i {
    _mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
}

/// The multipliers of four blocks with four scales each, scale by scale, in both halves of their dwords.
#[inline]
#[target_feature(enable = "avx2")]
fn row_multipliers(bytes: __m128i) -> [__m256i; 2] {
    let one_on = _mm_setr_epi8(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12);
    let two_on = _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    let by_scale = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let two = _mm_max_epu8(bytes, _mm_shuffle_epi8(bytes, one_on));
    let below = _mm_sub_epi8(_mm_max_epu8(two, _mm_shuffle_epi8(two, two_on)), bytes);
    // 13 - d, or 255, by which everything is shifted out.
    let shift = _mm_sub_epi8(_mm_set1_epi8(13), _mm_min_epu8(below, _mm_set1_epi8(14)));
    let shift = _mm_shuffle_epi8(shift, by_scale);
    let ones = _mm256_set1_epi32(0x0001_0001);
    [
        _mm256_sllv_epi32(ones, _mm256_cvtepu8_epi32(shift)),
        _mm256_sllv_epi32(ones, _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(shift))),
    ]
}

/// The products of two scales of block `block` of a row with those of each token, in pairs of columns: those of the
/// first scale in the low half.
///
/// # Safety
/// `half` is 0 or 1 and `block` less than 4.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn half_block<const T: usize>(
    weights: &[u8; 16 * LANES],
    x: [&FourBlocks; T],
    block: usize,
    half: usize,
) -> [__m256i; T] {
    let mut out = [_mm256_setzero_si256(); T];
    // SAFETY: 32 bytes of 64 each, as the caller promises.
    unsafe {
        let nibbles = _mm256_loadu_si256(weights.as_ptr().add(64 * block + 32 * half).cast());
        let [low, high] = codes(nibbles);
        for t in 0..T {
            let even = _mm256_loadu_si256(x[t].codes[block][0].as_ptr().add(32 * half).cast());
            let odd = _mm256_loadu_si256(x[t].codes[block][1].as_ptr().add(32 * half).cast());
            let (even, odd) = (_mm256_maddubs_epi16(low, even), _mm256_maddubs_epi16(high, odd));
            out[t] = opaque(_mm256_add_epi16(even, odd));
        }
    }
    out
}

impl Quads for Avx2 {
    type Quad = [__m256i; 2];
    /// Sixteen bits for each pair of columns, so two for each row: exact modulo 2^16, and in the end within 12 * 127
    /// * 16.
    type Sum = [__m256i; 2];
    type Int = [__m256i; 2];

    #[inline(always)]
    fn load_quad(self, bytes: &QuadBytes) -> Self::Quad {
        intrinsic!([
            _mm256_loadu_si256(bytes.as_ptr().cast()),
            _mm256_loadu_si256(bytes.as_ptr().add(32).cast())
        ])
    }
    #[inline(always)]
    fn store_quad(self, quad: Self::Quad, out: &mut QuadBytes) {
        intrinsic!({
            _mm256_storeu_si256(out.as_mut_ptr().cast(), quad[0]);
            _mm256_storeu_si256(out.as_mut_ptr().add(32).cast(), quad[1]);
        });
    }
    #[inline(always)]
    fn load_quads(self, bytes: &[u8], stride: usize) -> [Self::Quad; 4] {
        assert!(bytes.len() >= (LANES - 1) * stride + 16, "sixteen rows");
        intrinsic!({
            let (four, three) = (opaque_address(4 * stride), opaque_address(3 * stride));
            let rows = bytes.as_ptr();
            let low = load_eight(rows, rows.add(four), stride, three);
            let rows = rows.add(2 * four);
            let high = load_eight(rows, rows.add(four), stride, three);
            [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
        })
    }
    #[inline(always)]
    fn e2m1_codes(self, nibbles: Self::Quad) -> [Self::Quad; 2] {
        intrinsic!({
            let (low, high) = (codes(nibbles[0]), codes(nibbles[1]));
            [[low[0], high[0]], [low[1], high[1]]]
        })
    }
    #[inline(always)]
    fn bias(self, x: &[[i8; 4]; 8], offset: i32) -> i32 {
        intrinsic!({
            let x = _mm256_loadu_si256(x.as_ptr().cast());
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(offset as i8), x);
            let sum = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
            let sum = _mm_add_epi16(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
            let sum = _mm_add_epi16(sum, _mm_shuffle_epi32::<0b10_11_00_01>(sum));
            _mm_cvtsi128_si32(_mm_sub_epi16(_mm_setzero_si128(), sum))
        })
    }
    #[inline(always)]
    fn start(self, bias: i32) -> Self::Sum {
        intrinsic!([_mm256_set1_epi32(bias); 2])
    }
    #[inline(always)]
    fn multiply(self, sum: Self::Sum, w: Self::Quad, x: [i8; 4]) -> Self::Sum {
        intrinsic!({
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)));
            [
                opaque(_mm256_add_epi16(sum[0], _mm256_maddubs_epi16(w[0], x))),
                opaque(_mm256_add_epi16(sum[1], _mm256_maddubs_epi16(w[1], x))),
            ]
        })
    }
    #[inline(always)]
    fn add_scaled(self, total: Self::Int, sum: Self::Sum, multiplier: Self::Int) -> Self::Int {
        intrinsic!([
            _mm256_add_epi32(total[0], _mm256_madd_epi16(sum[0], multiplier[0])),
            _mm256_add_epi32(total[1], _mm256_madd_epi16(sum[1], multiplier[1])),
        ])
    }
    #[inline(always)]
    fn four_sums<const T: usize>(
        self,
        codes: &[u8; 16 * LANES],
        scales: &[u8; LANES],
        x: [&FourBlocks; T],
    ) -> [[i32; 4]; T] {
        intrinsic!({
            // Lane `4 i + j` of half `h` is scale `2 h + i` of block `j`.
            let mut sums = [[_mm256_setzero_si256(); 2]; T];
            for half in 0..2 {
                let a = half_block(codes, x, 0, half);
                let b = half_block(codes, x, 1, half);
                let mut ab = a;
                for t in 0..T {
                    ab[t] = halve(a[t], b[t]);
                }
                let c = half_block(codes, x, 2, half);
                let d = half_block(codes, x, 3, half);
                for t in 0..T {
                    sums[t][half] = quarter(ab[t], halve(c[t], d[t]));
                }
            }
            let multipliers = row_multipliers(_mm_loadu_si128(scales.as_ptr().cast()));
            let mut out = [[0; 4]; T];
            for t in 0..T {
                let bias = x[t].bias.as_ptr();
                let low = _mm256_add_epi16(sums[t][0], _mm256_loadu_si256(bias.cast()));
                let high = _mm256_add_epi16(sums[t][1], _mm256_loadu_si256(bias.add(2).cast()));
                let low = _mm256_madd_epi16(low, multipliers[0]);
                let sum = _mm256_add_epi32(low, _mm256_madd_epi16(high, multipliers[1]));
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
        intrinsic!([_mm256_setzero_si256(); 2])
    }
    #[inline(always)]
    fn load_int(self, x: &[i32; LANES]) -> Self::Int {
        intrinsic!([_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast())])
    }
    #[inline(always)]
    fn store_int(self, v: Self::Int, out: &mut [i32; LANES]) {
        intrinsic!({
            _mm256_storeu_si256(out.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), v[1]);
        });
    }
    #[inline(always)]
    fn int_to_f32(self, v: Self::Int) -> <Self as Simd>::V {
        intrinsic!([_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])])
    }
    #[inline(always)]
    fn block_scales(self, bytes: Self::Quad) -> ([Self::Int; 4], <Self as Simd>::V) {
        intrinsic!({
            let (low, low_unit) = block_scales(bytes[0]);
            let (high, high_unit) = block_scales(bytes[1]);
            let multipliers = [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]];
            (multipliers, [low_unit, high_unit])
        })
    }
}
