//! The frequencies of rotary position embedding, and the angles of positions.

use super::RopeAngles;
use crate::Compute;

/// One frequency per rotated pair, in radians per position.
///
/// | field   | shape            | dtype | unit                |
/// |---------|------------------|-------|---------------------|
/// | `freqs` | `[rope_dim / 2]` | f32   | radians per position |
///
/// Angles reach a million radians, where the last bit of a frequency turns a key visibly; so every f32 rounding of
/// the official table is repeated, in its order.
///
/// Source: DeepSeek-V4 `inference/model.py`, `precompute_freqs_cis`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    freqs: Vec<f32>,
}

impl RopeTable {
    /// `freqs[i] = theta^(-2i / dim)`: layers without compression.
    ///
    /// # Panics
    /// If `dim` is odd.
    pub fn plain(theta: f64, dim: usize) -> Self {
        assert!(dim.is_multiple_of(2), "pairs of {dim} numbers");
        // A quotient, a power and a reciprocal, each rounded to f32.
        let freqs = (0..dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / dim as f32;
                let power = f64::from(theta as f32).powf(f64::from(exponent)) as f32;
                1.0 / power
            })
            .collect();
        Self { freqs }
    }

    /// The plain table with its slow pairs slowed down further (YaRN): pairs that turn at least `beta_fast` times
    /// within `original_max_position_embeddings` keep their frequency, those that turn at most `beta_slow` times are
    /// divided by `factor`, with a linear ramp between. No factor on cosines and sines.
    ///
    /// # Panics
    /// If `dim` is odd.
    pub fn yarn(
        theta: f64,
        dim: usize,
        factor: f64,
        original_max_position_embeddings: usize,
        beta_fast: f64,
        beta_slow: f64,
    ) -> Self {
        // The pair that turns `turns` times, as a real number.
        let pair_turning = |turns: f64| {
            let period = original_max_position_embeddings as f64 / (turns * 2.0 * std::f64::consts::PI);
            dim as f64 * period.ln() / (2.0 * theta.ln())
        };
        let low = pair_turning(beta_fast).floor().max(0.0);
        let mut high = pair_turning(beta_slow).ceil().min(dim as f64 - 1.0);
        if low == high {
            high += 0.001;
        }
        let mut table = Self::plain(theta, dim);
        for (i, freq) in table.freqs.iter_mut().enumerate() {
            let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let kept = 1.0 - ramp;
            *freq = *freq / factor as f32 * (1.0 - kept) + *freq * kept;
        }
        table
    }

    /// The frequencies, in radians per position.
    pub fn freqs(&self) -> &[f32] {
        &self.freqs
    }

    /// How many numbers of a row are rotated: two per frequency.
    pub fn rope_dim(&self) -> usize {
        2 * self.freqs.len()
    }

    /// Cosines and sines of every frequency at `positions`.
    ///
    /// The angle is the f32 product of position and frequency; its cosine and sine are those of that f32 number,
    /// from f64 functions whose range reduction is exact, rounded to f32.
    pub fn angles(&self, c: &Compute, positions: &[u32]) -> RopeAngles {
        let pairs = self.freqs.len();
        let (mut cos, mut sin) = (c.matrix(positions.len(), pairs), c.matrix(positions.len(), pairs));
        for (row, &position) in positions.iter().enumerate() {
            let values = cos.row_mut(row).iter_mut().zip(sin.row_mut(row));
            for ((cos, sin), &freq) in values.zip(&self.freqs) {
                let angle = position as f32 * freq;
                let (s, c) = f64::from(angle).sin_cos();
                (*cos, *sin) = (c as f32, s as f32);
            }
        }
        RopeAngles { cos, sin }
    }
}
