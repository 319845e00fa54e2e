//! How often something happened, and how sure that is.

/// The 97.5 % point of the normal distribution: what lies within so many standard errors on either side is 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// How many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Those that did.
    pub count: u64,
    /// All.
    pub of: u64,
}

/// A mean over tokens, with a 95 % interval where there are enough documents for one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean; NaN over nothing.
    pub value: f64,
    /// Lower and upper end.
    pub interval: Option<[f64; 2]>,
}

impl Share {
    /// Counts one more, that did or did not.
    pub fn add(&mut self, did: bool) {
        self.count += u64::from(did);
        self.of += 1;
    }

    /// The counts of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self { count: self.count + other.count, of: self.of + other.of }
    }

    /// Of all, the part that did, 0 to 1; `None` of nothing.
    #[must_use]
    pub fn value(self) -> Option<f64> {
        (self.of > 0).then(|| self.count as f64 / self.of as f64)
    }

    /// The 95 % interval of the share: which shares of endlessly many would give such a count not too seldom. It holds at
    /// few and at extreme counts, where a symmetric one leaves the range from 0 to 1.
    ///
    /// Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    #[must_use]
    pub fn interval(self) -> [f64; 2] {
        let Some(p) = self.value() else { return [0.0, 1.0] };
        let n = self.of as f64;
        let scale = 1.0 + Z * Z / n;
        let centre = (p + Z * Z / (2.0 * n)) / scale;
        let half = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        // The ends are 0 and 1 exactly where none or all did; the sums come close only.
        let low = if self.count == 0 { 0.0 } else { centre - half };
        let high = if self.count == self.of { 1.0 } else { centre + half };
        [low, high]
    }
}

impl FromIterator<bool> for Share {
    fn from_iter<I: IntoIterator<Item = bool>>(did: I) -> Self {
        let mut share = Self::default();
        did.into_iter().for_each(|did| share.add(did));
        share
    }
}

impl Estimate {
    /// The ratio of two sums over documents, such as nats by tokens. Tokens of one document resemble each other, so the
    /// interval comes from how documents differ; it takes two of them.
    #[must_use]
    pub fn ratio(documents: &[(f64, f64)]) -> Self {
        let n = documents.len() as f64;
        let (above, below) = documents.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        let value = above / below;
        if documents.len() < 2 || below == 0.0 {
            return Self { value, interval: None };
        }
        let squares: f64 = documents.iter().map(|(x, y)| (x - value * y).powi(2)).sum();
        let error = (n / (n - 1.0) * squares).sqrt() / below;
        Self { value, interval: Some([value - Z * error, value + Z * error]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilson_s() {
        // As R gives them: prop.test(x, n, correct = FALSE).
        for (count, of, want) in [
            (81, 263, [0.255_3, 0.366_2]),
            (15, 148, [0.062_4, 0.160_5]),
            (1, 29, [0.006_1, 0.171_8]),
            (0, 20, [0.0, 0.161_1]),
        ] {
            let got = Share { count, of }.interval();
            assert!(
                (got[0] - want[0]).abs() < 6e-5 && (got[1] - want[1]).abs() < 6e-5,
                "{count}/{of}: {got:?}"
            );
        }
    }

    #[test]
    fn the_interval_of_all_ends_at_one_and_of_nothing_says_nothing() {
        assert_eq!(Share { count: 7, of: 7 }.interval()[1], 1.0);
        assert_eq!(Share { count: 0, of: 7 }.interval()[0], 0.0);
        assert_eq!((Share::default().interval(), Share::default().value()), ([0.0, 1.0], None));
    }

    proptest::proptest! {
        #[test]
        fn the_interval_holds_its_share_and_narrows_with_more_of_the_same(of in 1u64..2_000, part in 0u64..2_000) {
            let count = part % (of + 1);
            let share = Share { count, of };
            let ([low, high], value) = (share.interval(), share.value().unwrap_or(f64::NAN));
            proptest::prop_assert!(0.0 <= low && low <= value && value <= high && high <= 1.0);
            let [closer_low, closer_high] = Share { count: 4 * count, of: 4 * of }.interval();
            proptest::prop_assert!(closer_high - closer_low < high - low);
        }
    }

    #[test]
    fn a_ratio_weighs_documents_by_their_tokens() {
        let one = Estimate::ratio(&[(6.0, 3.0)]);
        assert_eq!((one.value, one.interval), (2.0, None));
        let estimate = Estimate::ratio(&[(1.0, 1.0), (30.0, 9.0)]);
        assert_eq!(estimate.value, 3.1);
        let [low, high] = estimate.interval.expect("two documents");
        assert!(low < 3.1 && 3.1 < high && ((3.1 - low) - (high - 3.1)).abs() < 1e-12);
        let sure = Estimate::ratio(&[(2.0, 1.0), (4.0, 2.0), (6.0, 3.0)]);
        assert_eq!(sure.interval, Some([2.0, 2.0]));
    }
}
