//! Numbers to the bytes of a stored tensor.

use cuvier_tensor::Dtype;
use cuvier_tensor::formats::{
    E2M1_MAX, E4M3_MAX, FP4_BLOCK, FP8_WEIGHT_BLOCK, e8m0_block_scale, e8m0_to_f32, f32_to_bf16, f32_to_e2m1,
    f32_to_e4m3,
};

/// The bytes of `numbers` in F32.
pub(crate) fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The bytes of `numbers` rounded to BF16.
pub(crate) fn bf16s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|&number| f32_to_bf16(number).to_le_bytes()).collect()
}

/// E2M1 codes, two per byte, and one UE8M0 scale per 32 columns, of a matrix whose rows are whole blocks.
///
/// A scale is the least power of two at which no number of its block is beyond the largest code.
///
/// Source: the official kernels' `fp4_act_quant`.
pub(crate) fn fp4(numbers: &[f32]) -> (Vec<u8>, Vec<u8>) {
    let mut codes = Vec::with_capacity(numbers.len() / 2);
    let mut scales = Vec::with_capacity(numbers.len() / FP4_BLOCK);
    for block in numbers.chunks(FP4_BLOCK) {
        let scale = e8m0_block_scale(block.iter().copied(), E2M1_MAX);
        scales.push(scale);
        let scale = e8m0_to_f32(scale);
        let code = |number: f32| f32_to_e2m1(number / scale);
        codes.extend(block.chunks(2).map(|pair| pair.iter().rev().fold(0, |byte, &n| byte << 4 | code(n))));
    }
    (codes, scales)
}

/// E4M3 codes and one scale per 128x128 block of a matrix with rows of `cols` numbers: the least power of two at which
/// no number of the block is beyond the largest code, as UE8M0; or, as the Base releases have it, the largest magnitude
/// by the largest code, as F32.
///
/// Source: the official kernels' `weight_quant`.
pub(crate) fn fp8(numbers: &[f32], cols: usize, scale_dtype: Dtype) -> (Vec<u8>, Vec<u8>) {
    let mut codes = vec![0; numbers.len()];
    let mut scales = Vec::new();
    let band = FP8_WEIGHT_BLOCK * cols;
    for (numbers, codes) in numbers.chunks(band).zip(codes.chunks_mut(band)) {
        for start in (0..cols).step_by(FP8_WEIGHT_BLOCK) {
            let part = start..cols.min(start + FP8_WEIGHT_BLOCK);
            let block = || numbers.chunks(cols).flat_map(|row| row[part.clone()].iter().copied());
            let scale = if scale_dtype == Dtype::F32 {
                let amax = block().fold(0.0_f32, |amax, number| amax.max(number.abs()));
                let scale = if amax == 0.0 { 1.0 } else { (amax / E4M3_MAX).max(f32::MIN_POSITIVE) };
                scales.extend(scale.to_le_bytes());
                scale
            } else {
                let scale = e8m0_block_scale(block(), E4M3_MAX);
                scales.push(scale);
                e8m0_to_f32(scale)
            };
            for (numbers, codes) in numbers.chunks(cols).zip(codes.chunks_mut(cols)) {
                for (code, number) in codes[part.clone()].iter_mut().zip(&numbers[part.clone()]) {
                    *code = f32_to_e4m3(number / scale);
                }
            }
        }
    }
    (codes, scales)
}

#[cfg(test)]
mod tests {
    use cuvier_tensor::formats::{e2m1_to_f32, e4m3_to_f32};

    use super::*;

    /// Numbers of many sizes.
    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) * 10_f32.powi((i * 7 % 5) as i32 - 2)).collect()
    }

    #[test]
    fn fp4_is_within_half_a_step_and_keeps_what_it_can_hold() {
        let numbers = numbers(6 * 64);
        let (codes, scales) = fp4(&numbers);
        assert_eq!((codes.len(), scales.len()), (numbers.len() / 2, numbers.len() / 32));
        let decoded = |i: usize| {
            let code = codes[i / 2] >> (4 * (i % 2));
            e2m1_to_f32(code) * e8m0_to_f32(scales[i / 32])
        };
        for (i, number) in numbers.iter().enumerate() {
            // The widest gap between codes is 2.
            assert!((decoded(i) - number).abs() <= e8m0_to_f32(scales[i / 32]), "{number} {}", decoded(i));
        }
        // Numbers that FP4 holds may get another scale the second time, but stay what they are.
        let once: Vec<f32> = (0..numbers.len()).map(decoded).collect();
        let (codes, scales) = fp4(&once);
        for (i, number) in once.iter().enumerate() {
            assert_eq!(e2m1_to_f32(codes[i / 2] >> (4 * (i % 2))) * e8m0_to_f32(scales[i / 32]), *number);
        }
        let (_, zero) = fp4(&[0.0; 32]);
        assert_eq!(zero, [127]);
    }

    #[test]
    fn fp8_is_within_a_sixteenth_and_has_one_scale_per_block_ragged_ones_included() {
        let (rows, cols) = (130, 200);
        let numbers = numbers(rows * cols);
        for dtype in [Dtype::F8E8M0, Dtype::F32] {
            let (codes, scales) = fp8(&numbers, cols, dtype);
            assert_eq!((codes.len(), scales.len()), (rows * cols, 4 * dtype.size()));
            let scale = |row: usize, col: usize| {
                let block = row / 128 * 2 + col / 128;
                if dtype == Dtype::F32 {
                    f32::from_le_bytes(scales.as_chunks::<4>().0[block])
                } else {
                    e8m0_to_f32(scales[block])
                }
            };
            for (i, &number) in numbers.iter().enumerate() {
                let scale = scale(i / cols, i % cols);
                let decoded = e4m3_to_f32(codes[i]) * scale;
                let bound = (number.abs() / 16.0).max(scale * 2f32.powi(-10));
                assert!((decoded - number).abs() <= bound, "{i}: {number} {decoded}");
            }
        }
    }
}
