//! The bytes of one stored tensor, any part of it at a time.

use std::sync::LazyLock;

use cuvier_tensor::Dtype;
use cuvier_tensor::formats::{f32_to_bf16, f32_to_e2m1, f32_to_e4m3};

use super::rule::{Spread, Stream, bell, table_row};
use crate::ModelConfig;

/// Standard deviation of drawn E4M3 codes: their largest, 448, is four of it.
const E4M3_STD: f64 = 112.0;
/// Standard deviation of drawn E2M1 codes: their largest, 6, is three of it.
const E2M1_STD: f64 = 2.0;

/// What the bytes of a tensor follow from.
pub(super) struct Source<'a> {
    pub(super) stream: Stream,
    pub(super) spread: Spread,
    pub(super) dtype: Dtype,
    /// The dtype of the weights that these are the scales of, if they are scales.
    pub(super) scales: Option<Dtype>,
    pub(super) config: &'a ModelConfig,
}

impl Source<'_> {
    /// Bytes that belong together: parts of a tensor begin and end at multiples of this.
    pub(super) fn granule(&self) -> usize {
        match self.dtype {
            Dtype::I64 => 8 * self.config.num_experts_per_tok,
            Dtype::F32 => 4,
            Dtype::BF16 => 2,
            // One draw makes eight E4M3 codes or eight E2M1 codes; a tensor may end within a draw.
            Dtype::F8E4M3 => 8,
            Dtype::I8 => 4,
            Dtype::F8E8M0 => 1,
        }
    }

    /// Fills `out` with the bytes from `start` on, a multiple of the granule.
    pub(super) fn fill(&self, start: usize, out: &mut [u8]) {
        let first = (start / self.granule()) as u64;
        match (self.dtype, self.scales) {
            (Dtype::F32, None) => self.numbers(first, out, |value| value.to_le_bytes()),
            (Dtype::BF16, _) => self.numbers(first, out, |value| f32_to_bf16(value).to_le_bytes()),
            (Dtype::F32, Some(weight)) => self.f32_scales(weight, first, out),
            (Dtype::F8E8M0, weight) => self.e8m0_scales(weight.unwrap_or(Dtype::F8E4M3), first, out),
            (Dtype::F8E4M3, _) => {
                self.codes(first, out, |z| z.to_le_bytes().map(|b| E4M3_CODES[usize::from(b)]));
            }
            (Dtype::I8, _) => self.codes(first, out, |z| {
                // Two E2M1 codes per byte from two bytes of the draw.
                let [a, b, c, d, e, f, g, h] = z.to_le_bytes().map(|b| E2M1_CODES[usize::from(b)]);
                [a | b << 4, c | d << 4, e | f << 4, g | h << 4]
            }),
            (Dtype::I64, _) => self.table(first, out),
        }
    }

    fn numbers<const N: usize>(&self, first: u64, out: &mut [u8], encode: impl Fn(f32) -> [u8; N]) {
        let (numbers, _) = out.as_chunks_mut::<N>();
        for (i, number) in (first..).zip(numbers) {
            *number = encode(self.spread.value(self.stream.at(i)));
        }
    }

    fn codes<const N: usize>(&self, first: u64, out: &mut [u8], draw: impl Fn(u64) -> [u8; N]) {
        let (draws, rest) = out.as_chunks_mut::<N>();
        let n = draws.len() as u64;
        for (i, codes) in (first..).zip(draws) {
            *codes = draw(self.stream.at(i));
        }
        let last = draw(self.stream.at(first + n));
        rest.copy_from_slice(&last[..rest.len()]);
    }

    /// Neighbouring blocks differ by factors of up to four.
    fn e8m0_scales(&self, weight: Dtype, first: u64, out: &mut [u8]) {
        let exponent = (self.spread.std / code_std(weight)).log2().round();
        let middle = (127.0 + exponent).clamp(1.0, 253.0) as u8;
        for (i, scale) in (first..).zip(out) {
            *scale = match self.stream.at(i) >> 62 {
                0 => middle - 1,
                3 => middle + 1,
                _ => middle,
            };
        }
    }

    /// Not powers of two, as those of the Base releases.
    fn f32_scales(&self, weight: Dtype, first: u64, out: &mut [u8]) {
        let middle = self.spread.std / code_std(weight);
        let (scales, _) = out.as_chunks_mut::<4>();
        for (i, scale) in (first..).zip(scales) {
            let unit = (self.stream.at(i) >> 11) as f64 / (1_u64 << 53) as f64;
            *scale = ((middle * (0.5 + 1.5 * unit)) as f32).to_le_bytes();
        }
    }

    fn table(&self, first: u64, out: &mut [u8]) {
        let mut deck = vec![0; self.config.n_routed_experts];
        for (row, bytes) in (first..).zip(out.chunks_mut(self.granule())) {
            let experts = table_row(self.stream, row, self.config.num_experts_per_tok, &mut deck);
            let (ids, _) = bytes.as_chunks_mut::<8>();
            for (id, expert) in ids.iter_mut().zip(experts) {
                *id = expert.to_le_bytes();
            }
        }
    }
}

fn code_std(weight: Dtype) -> f64 {
    if weight == Dtype::I8 { E2M1_STD } else { E4M3_STD }
}

/// E4M3 codes as a normal distribution has them; the ends are saturated, the middle is minus and plus zero.
static E4M3_CODES: LazyLock<[u8; 256]> = LazyLock::new(|| {
    let mut codes = quantiles().map(|x| f32_to_e4m3((x * E4M3_STD) as f32));
    (codes[0], codes[127], codes[128], codes[255]) = (0xFE, 0x80, 0x00, 0x7E);
    codes
});

/// E2M1 codes as a normal distribution has them, saturated ones and both zeros included.
static E2M1_CODES: LazyLock<[u8; 256]> =
    LazyLock::new(|| quantiles().map(|x| f32_to_e2m1((x * E2M1_STD) as f32)));

/// The middles of 256 equally likely ranges of the bell, ascending.
fn quantiles() -> [f64; 256] {
    const PER_RANGE: usize = 64;
    let stream = Stream::new("quantiles", 0);
    let mut draws: Vec<f64> = (0..256 * PER_RANGE as u64).map(|i| bell(stream.at(i))).collect();
    draws.sort_by(f64::total_cmp);
    std::array::from_fn(|range| draws[range * PER_RANGE + PER_RANGE / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_reach_both_ends_both_zeros_and_never_nan() {
        for wanted in [0xFE, 0x80, 0x00, 0x7E] {
            assert!(E4M3_CODES.contains(&wanted), "{wanted:#x}");
        }
        assert!(E4M3_CODES.iter().all(|code| code & 0x7F != 0x7F));
        for wanted in 0..16 {
            assert!(E2M1_CODES.contains(&wanted), "{wanted}");
        }
    }

    #[test]
    fn codes_have_the_spread_that_scales_count_on() {
        let std = |values: Vec<f32>| (values.iter().map(|v| f64::from(v * v)).sum::<f64>() / 256.0).sqrt();
        let e4m3 = std(E4M3_CODES.iter().map(|&c| cuvier_tensor::formats::e4m3_to_f32(c)).collect());
        let e2m1 = std(E2M1_CODES.iter().map(|&c| cuvier_tensor::formats::e2m1_to_f32(c)).collect());
        assert!((e4m3 / E4M3_STD - 1.0).abs() < 0.05, "{e4m3}");
        assert!((e2m1 / E2M1_STD - 1.0).abs() < 0.05, "{e2m1}");
    }
}
