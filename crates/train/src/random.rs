//! Random numbers that depend on a name and a seed only.

/// The increment of the generator, 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of random numbers (SplitMix64).
///
/// Streams of different names have nothing to do with each other, so a tensor more, or one of another shape, changes
/// no other's numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    /// The second number of the last pair.
    spare: Option<f64>,
}

impl Random {
    /// The stream of `name`.
    pub fn new(name: &str, seed: u64) -> Self {
        // FNV-1a of the name; the seed is mixed before it joins, so that neighbours are far apart.
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        Self { state: hash ^ mix(seed.wrapping_add(GOLDEN)), spare: None }
    }

    /// Sixty-four random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Between 0 and 1, 0 included, 1 not.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Mean 0, variance 1, by the transform of Box and Muller.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // Of 1 - u, which is never 0, the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_mean_zero_variance_one_and_tails() {
        let mut random = Random::new("a", 0);
        let n = 100_000;
        let numbers: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let mean = numbers.iter().sum::<f64>() / f64::from(n);
        let variance = numbers.iter().map(|x| x * x).sum::<f64>() / f64::from(n);
        let beyond_two = numbers.iter().filter(|x| x.abs() > 2.0).count() as f64 / f64::from(n);
        assert!(mean.abs() < 0.01, "{mean}");
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
        assert!((beyond_two - 0.0455).abs() < 0.003, "{beyond_two}");
    }

    #[test]
    fn another_name_or_seed_gives_another_stream_and_the_same_the_same() {
        let first = |name: &str, seed: u64| Random::new(name, seed).bits();
        assert_eq!(first("a", 1), first("a", 1));
        let all = [first("a", 0), first("a", 1), first("b", 0), first("b", 1)];
        let different: std::collections::HashSet<u64> = all.into_iter().collect();
        assert_eq!(different.len(), 4);
    }
}
