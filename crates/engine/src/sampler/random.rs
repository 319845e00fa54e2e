//! Random numbers without a state to lose.

/// A number in `[0, 1)`, a function of the seed and the output position alone: batching, a cached prefix or a
/// restart cannot shift the stream.
///
/// Rounds of the SplitMix64 finaliser over the pair, 53 bits of the result.
pub fn uniform(seed: u64, position: u64) -> f64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let key = mix(seed.wrapping_add(ODD));
    let bits = mix(key.wrapping_add(position.wrapping_add(1).wrapping_mul(ODD)));
    (mix(bits ^ key) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A bijection in which every bit of the input moves half of the output's.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
