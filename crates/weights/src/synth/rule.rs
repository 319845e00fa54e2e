//! The portable rule: every number of every tensor from its name, its place and a seed.
//!
//! Specified in `fixtures/parity/README.md`. Integer arithmetic and correctly rounded f64 only, so every language
//! gets the same bits.

/// The increment of the generator, 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of 64-bit numbers with random access.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    start: u64,
}

impl Stream {
    pub(super) fn new(name: &str, seed: u64) -> Self {
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        Self { start: hash ^ seed.wrapping_mul(GOLDEN) }
    }

    /// Number `i`: SplitMix64.
    pub(super) fn at(self, i: u64) -> u64 {
        let mut z = self.start.wrapping_add(i.wrapping_add(1).wrapping_mul(GOLDEN));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Four 16-bit fields make a bell with mean 0 and variance 1.
pub(super) fn bell(z: u64) -> f64 {
    let sum = (z & 0xFFFF) + ((z >> 16) & 0xFFFF) + ((z >> 32) & 0xFFFF) + (z >> 48);
    (sum as f64 - 131_070.0) / 1_431_655_765.0_f64.sqrt()
}

/// The distribution of one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) mean: f64,
    pub(super) std: f64,
}

impl Spread {
    /// By the suffix of the official name; `cols` is the length of the last axis. The uneven factors let
    /// attention and experts weigh alike in the residual streams while both clamps of the experts bind.
    pub(super) fn of(name: &str, cols: usize) -> Self {
        let root = (cols as f64).sqrt();
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
        let (mean, std) = if ends(&["norm.weight"]) {
            (1.0, 0.1)
        } else if ends(&["embed.weight", "attn_sink"]) {
            (0.0, 1.0)
        } else if ends(&[".ape", "_base"]) {
            (0.0, 0.5)
        } else if ends(&["_scale"]) {
            (0.5, 0.3)
        } else if ends(&["gate.bias"]) {
            (0.0, 0.3)
        } else if ends(&[".w1.weight", ".w3.weight", ".wo_b.weight"]) {
            (0.0, 4.0 / root)
        } else if ends(&[".w2.weight"]) {
            (0.0, 0.1 / root)
        } else {
            (0.0, 1.0 / root)
        };
        Self { mean, std }
    }

    /// The number that `z` stands for.
    pub(super) fn value(self, z: u64) -> f32 {
        (self.mean + self.std * bell(z)) as f32
    }
}

/// Row `row` of an expert table: the start of a shuffled deck of `deck.len()` experts. `deck` is scratch.
pub(super) fn table_row(stream: Stream, row: u64, per_token: usize, deck: &mut [i64]) -> &[i64] {
    for (expert, card) in deck.iter_mut().enumerate() {
        *card = expert as i64;
    }
    let experts = deck.len() as u64;
    for j in 0..per_token as u64 {
        let r = j + stream.at(row * per_token as u64 + j) % (experts - j);
        deck.swap(j as usize, r as usize);
    }
    &deck[..per_token]
}
