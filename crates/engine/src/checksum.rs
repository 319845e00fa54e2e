//! The checksum of what is saved.

/// Against accident, not against malice. Every step is a bijection of the sum so far and of the word taken in,
/// so that a change within one word always shows.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let words = words.iter().chain(std::iter::once(&last)).map(|&word| u64::from_le_bytes(word));
    words.fold(0x9e37_79b9_7f4a_7c15, |sum, word| {
        (sum ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(32)
    })
}
