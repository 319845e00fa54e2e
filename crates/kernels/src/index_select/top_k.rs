//! The best entries seen so far.

/// The `k` best (score, entry) pairs of those offered, in a total order: the larger score, then the lower entry.
/// So the outcome does not depend on the order or the pieces in which pairs arrive.
pub(super) struct TopK {
    k: usize,
    /// Packed pairs, larger is better; more than `k` of them until they are next sifted.
    pairs: Vec<u64>,
    /// No pair up to this one can still be among the best.
    floor: u64,
    /// Its score; -infinity as long as any pair can.
    floor_score: f32,
}

impl TopK {
    pub(super) fn new(k: usize) -> Self {
        Self { k, pairs: Vec::with_capacity(2 * k), floor: 0, floor_score: f32::NEG_INFINITY }
    }

    /// Offers `scores` of consecutive entries.
    #[inline(always)]
    pub(super) fn offer(&mut self, first_entry: usize, scores: &[f32]) {
        // Most scores of a long list are too small. NaN counts as -infinity, which no floor above it lets in.
        let may_enter = scores.iter().fold(false, |any, &score| any | (score >= self.floor_score));
        if !may_enter && self.floor_score > f32::NEG_INFINITY {
            return;
        }
        for (entry, &score) in (first_entry as u32..).zip(scores) {
            self.offer_pair(pack(score, entry));
        }
    }

    /// Offers all that `other` kept.
    pub(super) fn absorb(&mut self, other: &Self) {
        for &pair in &other.pairs {
            self.offer_pair(pair);
        }
    }

    /// The entries of the best pairs, ascending.
    pub(super) fn entries(mut self) -> Vec<u32> {
        self.sift();
        let mut entries: Vec<u32> = self.pairs.iter().map(|&pair| !(pair as u32)).collect();
        entries.sort_unstable();
        entries
    }

    #[inline(always)]
    fn offer_pair(&mut self, pair: u64) {
        if pair > self.floor {
            self.pairs.push(pair);
            if self.pairs.len() >= 2 * self.k {
                self.sift();
            }
        }
    }

    /// Drops all but the `k` best.
    #[inline(never)]
    fn sift(&mut self) {
        if self.pairs.len() > self.k {
            let (_, &mut worst_kept, _) = self.pairs.select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
            self.pairs.truncate(self.k);
            self.floor = worst_kept;
            self.floor_score = score(worst_kept);
        }
    }
}

/// Score and entry as one number that orders as they do.
#[inline(always)]
fn pack(score: f32, entry: u32) -> u64 {
    let score = if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 };
    let bits = score.to_bits();
    // Positive numbers order as their bits, negative ones the other way round and below.
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ordered) << 32 | u64::from(!entry)
}

/// The score of a packed pair.
fn score(pair: u64) -> f32 {
    let ordered = (pair >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}
