//! What the bytes of the small number formats mean, and how numbers are rounded to them.
//!
//! Source: the encodings of the DeepSeek-V4 checkpoints (OCP microscaling formats) and of the official
//! quantisation kernels. Everything here is exact or rounds to nearest, ties to even.

/// Numbers that share one UE8M0 scale in FP4 (E2M1) tensors.
pub const FP4_BLOCK: usize = 32;
/// Rows and columns that share one scale in FP8 (E4M3) weights.
pub const FP8_WEIGHT_BLOCK: usize = 128;
/// Numbers that share one UE8M0 scale in stored attention entries.
pub const ENTRY_BLOCK: usize = 64;
/// Largest magnitude of E4M3.
pub const E4M3_MAX: f32 = 448.0;
/// Largest magnitude of E2M1.
pub const E2M1_MAX: f32 = 6.0;
/// The values of the sixteen E2M1 codes; bit 3 is the sign.
pub const E2M1_VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The number that a BF16 pattern stands for. Exact.
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds to BF16, nearest even. NaN stays NaN.
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let round = 0x7FFF + ((bits >> 16) & 1);
    (bits.wrapping_add(round) >> 16) as u16
}

/// The number that an E4M3 byte stands for. Exact; `0x7F` and `0xFF` are NaN.
pub fn e4m3_to_f32(byte: u8) -> f32 {
    if byte & 0x7F == 0x7F {
        return f32::NAN;
    }
    let magnitude = f32::from_bits(u32::from(byte & 0x7F) << 20) * f32::from_bits((127 + 120) << 23);
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Rounds to E4M3, nearest even, saturating at ±448. NaN becomes `0x7F`.
pub fn f32_to_e4m3(value: f32) -> u8 {
    if value.is_nan() {
        return 0x7F;
    }
    let sign = ((value.to_bits() >> 24) & 0x80) as u8;
    let magnitude = value.abs().min(E4M3_MAX);
    // Below the smallest normal number (2^-6) codes are multiples of 2^-9.
    if magnitude < 2f32.powi(-6) {
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    let bits = magnitude.to_bits();
    let rounded = bits + 0x7_FFFF + ((bits >> 20) & 1);
    sign | ((rounded >> 20) - ((127 - 7) << 3)) as u8
}

/// The power of two that a UE8M0 byte stands for; 255 is NaN.
pub fn e8m0_to_f32(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

/// The UE8M0 byte of `2^ceil(log2(amax / max))`, decided on the bits of the f32 product `amax * (1 / max)`:
/// the exponent, plus one if any mantissa bit is set. `amax` must be positive and finite.
///
/// Source: the official kernels' `fast_round_scale`.
pub fn e8m0_ceil_scale(amax: f32, max: f32) -> u8 {
    let bits = (amax * (1.0 / max)).to_bits();
    let exponent = (bits >> 23) & 0xFF;
    (exponent + u32::from(bits & 0x7F_FFFF != 0)).min(254) as u8
}

/// The UE8M0 byte of the scale that a block of `values` is divided by before it is rounded to a format with this
/// largest magnitude: none of them is beyond it then. 127, which is 1, for a block of zeros.
///
/// Values must be finite.
pub fn e8m0_block_scale(values: impl IntoIterator<Item = f32>, max: f32) -> u8 {
    let amax = values.into_iter().fold(0.0_f32, |amax, value| amax.max(value.abs()));
    if amax == 0.0 { 127 } else { e8m0_ceil_scale(amax, max) }
}

/// The number that the low four bits of an E2M1 code stand for.
pub fn e2m1_to_f32(code: u8) -> f32 {
    E2M1_VALUES[usize::from(code & 0xF)]
}

/// Rounds to E2M1, nearest, ties to the even code, saturating at ±6.
pub fn f32_to_e2m1(value: f32) -> u8 {
    let sign = ((value.to_bits() >> 28) & 0x8) as u8;
    let m = value.abs();
    // Midpoints between 0 .5 1 1.5 2 3 4 6; a tie goes to the code whose mantissa bit is 0.
    let code = if m <= 0.25 {
        0
    } else if m < 0.75 {
        1
    } else if m <= 1.25 {
        2
    } else if m < 1.75 {
        3
    } else if m <= 2.5 {
        4
    } else if m < 3.5 {
        5
    } else if m <= 5.0 {
        6
    } else {
        7
    };
    sign | code
}

/// Bytes of one stored attention entry of `head_dim` numbers of which the last `rope_dim` are kept in BF16:
/// E4M3 values, BF16 values, one UE8M0 scale per [`ENTRY_BLOCK`], padded to a multiple of 8. 584 for 512 and 64.
pub fn entry_bytes(head_dim: usize, rope_dim: usize) -> usize {
    let nope = head_dim - rope_dim;
    (nope + 2 * rope_dim + nope.div_ceil(ENTRY_BLOCK)).next_multiple_of(8)
}

/// Bytes of one stored FP4 index key of `dim` numbers: two codes per byte, then one UE8M0 scale per
/// [`FP4_BLOCK`]. 68 for 128.
pub fn index_key_bytes(dim: usize) -> usize {
    dim.div_ceil(2) + dim.div_ceil(FP4_BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_e4m3_byte_survives_a_round_trip() {
        for byte in 0..=255u8 {
            let value = e4m3_to_f32(byte);
            if value.is_nan() {
                assert_eq!(byte & 0x7F, 0x7F);
            } else {
                assert_eq!(f32_to_e4m3(value), byte, "{value}");
            }
        }
        assert_eq!(e4m3_to_f32(0x7E), 448.0);
        assert_eq!(e4m3_to_f32(1), 2f32.powi(-9));
    }

    #[test]
    fn e4m3_rounds_to_the_nearest_of_all_codes_and_ties_to_even() {
        let codes: Vec<f32> = (0..0x7F).map(e4m3_to_f32).collect();
        for step in 0..200_000u32 {
            let value = f32::from_bits(0x3A00_0000 + step * 821);
            let got = usize::from(f32_to_e4m3(value));
            let best = codes.iter().map(|c| (c - value).abs()).fold(f32::MAX, f32::min);
            assert_eq!((codes[got] - value).abs(), best, "{value}");
        }
        for pair in 0..0x7E_u8 {
            let middle = (e4m3_to_f32(pair) + e4m3_to_f32(pair + 1)) / 2.0;
            assert_eq!(f32_to_e4m3(middle) & 1, 0, "{middle} is a tie");
        }
        assert_eq!(f32_to_e4m3(1e9), 0x7E);
        assert_eq!(f32_to_e4m3(-1e9), 0xFE);
    }

    #[test]
    fn e2m1_rounds_to_nearest_and_ties_to_even() {
        for code in 0..16u8 {
            assert_eq!(f32_to_e2m1(e2m1_to_f32(code)), code);
        }
        for code in 0..7u8 {
            let middle = (e2m1_to_f32(code) + e2m1_to_f32(code + 1)) / 2.0;
            assert_eq!(f32_to_e2m1(middle) & 1, 0, "{middle} is a tie");
            assert_eq!(f32_to_e2m1(middle * 0.999), code);
            assert_eq!(f32_to_e2m1(middle * 1.001), code + 1);
        }
        assert_eq!(f32_to_e2m1(1e9), 7);
    }

    #[test]
    fn a_scale_is_the_least_power_of_two_that_is_not_exceeded() {
        assert_eq!(e8m0_to_f32(e8m0_ceil_scale(448.0, E4M3_MAX)), 1.0);
        assert_eq!(e8m0_to_f32(e8m0_ceil_scale(449.0, E4M3_MAX)), 2.0);
        assert_eq!(e8m0_to_f32(e8m0_ceil_scale(6.0, E2M1_MAX)), 1.0);
        assert_eq!(e8m0_to_f32(e8m0_ceil_scale(5.0, E2M1_MAX)), 1.0);
        assert_eq!(e8m0_to_f32(e8m0_ceil_scale(3.0, E2M1_MAX)), 0.5);
        assert_eq!(e8m0_to_f32(0), 2f32.powi(-127));
    }

    #[test]
    fn a_block_scale_leaves_nothing_beyond_the_largest_code_and_of_zeros_is_one() {
        for (values, max) in [([0.1_f32, -7.0], E2M1_MAX), ([1e-30, 0.0], E2M1_MAX), ([449.0, 2.0], E4M3_MAX)]
        {
            let scale = e8m0_to_f32(e8m0_block_scale(values, max));
            let largest = values.iter().fold(0.0_f32, |m, v| m.max(v.abs())) / scale;
            assert!(largest <= max && largest > max / 2.0, "{values:?}: {largest}");
        }
        assert_eq!(e8m0_to_f32(e8m0_block_scale([0.0, -0.0], E2M1_MAX)), 1.0);
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        assert_eq!(f32_to_bf16(1.0), 0x3F80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3F80_8000)), 0x3F80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3F81_8000)), 0x3F82);
        assert!(bf16_to_f32(f32_to_bf16(f32::NAN)).is_nan());
    }

    #[test]
    fn stored_entries_have_the_published_sizes() {
        assert_eq!(entry_bytes(512, 64), 584);
        assert_eq!(index_key_bytes(128), 68);
    }
}
