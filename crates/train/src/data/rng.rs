//! Random numbers that are the same on every machine: SplitMix64, in integers only.

use std::ops::RangeInclusive;

/// A stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A stream of its own for one item of one of several lists, so that an item does not depend on those before it.
    #[must_use]
    pub fn of(seed: u64, list: u64, item: u64) -> Self {
        Self::new(mixed(mixed(mixed(seed) ^ list) ^ item))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.state)
    }

    /// A number below `n`, each as likely to within `n / 2^64`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "no number is below 0");
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// A number of the range.
    ///
    /// # Panics
    /// If the range is empty or holds all of u64.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        assert!(low <= high, "an empty range");
        low + self.below(high - low + 1)
    }

    /// A number of the range, each with a probability in proportion to its inverse: Zipf's law on a range from 1, and
    /// on any range as many draws between 100 and 200 as between 1,000 and 2,000.
    ///
    /// # Panics
    /// If the range is empty or begins with 0.
    pub fn inverse(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        assert!(0 < low && low <= high, "an empty range, or one that holds 0");
        if low == high {
            return low;
        }
        let (first, last) = (u64::from(low.ilog2()), u64::from(high.ilog2()));
        // An octave, then a number in it, kept with the probability `start / number`: together the inverse, exactly.
        loop {
            let start = 1u64 << self.within(first..=last);
            let number = start + self.below(start);
            if (low..=high).contains(&number) && self.below(number) < start {
                return number;
            }
        }
    }

    /// True in so many of a hundred draws.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the items.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// One of the words.
    ///
    /// # Panics
    /// If there is none.
    pub fn word(&mut self, words: &[&'static str]) -> &'static str {
        words[self.index(words.len())]
    }

    /// A place in a list of `len` items.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Puts the items into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

/// A hash of the text that is the same on every machine and in every version: FNV-1a, its bits mixed.
#[must_use]
pub fn hash(text: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mixed(text.bytes().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// The output function of SplitMix64.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014, with the constants of
/// Stafford's variant 13.
pub(super) fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // The first outputs for seed 1234567, as many implementations test themselves.
        let mut rng = Rng::new(1_234_567);
        let got: Vec<u64> = (0..3).map(|_| rng.bits()).collect();
        assert_eq!(got, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn inverse_draws_two_half_as_often_as_one() {
        let mut rng = Rng::new(7);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[rng.inverse(1..=5) as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        // 1 + 1/2 + 1/3 + 1/4 + 1/5 = 137/60.
        for (number, &count) in (1u32..).zip(&counts[1..]) {
            let want = 60_000.0 * 60.0 / 137.0 / f64::from(number);
            assert!((f64::from(count) - want).abs() < 4.0 * want.sqrt(), "{number}: {count}, want {want}");
        }
    }

    #[test]
    fn inverse_stays_within_a_range_that_no_octave_fits() {
        let mut rng = Rng::new(7);
        assert!((0..200).all(|_| (100_000..=131_072).contains(&rng.inverse(100_000..=131_072))));
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::new(3).shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert!(items.into_iter().eq(0..100));
    }

    #[test]
    fn streams_of_neighbouring_items_differ() {
        let first = |list, item| Rng::of(1, list, item).bits();
        assert_ne!(first(0, 1), first(1, 0));
        assert_ne!(first(0, 0), first(0, 1));
    }
}
