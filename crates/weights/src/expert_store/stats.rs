//! What the store did, layer by layer.

use std::time::Duration;

/// What happened to the experts of one layer, and to its other weights, where those do not stay in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerReads {
    /// Experts that a step needed and that were in memory.
    pub hits: u64,
    /// Experts that a step needed and that had to be read, or were being read.
    pub misses: u64,
    /// Experts that the layer was guessed to need before it was known.
    pub guessed: u64,
    /// Of these, those that it did need.
    pub guessed_right: u64,
    /// Experts read.
    pub reads: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Time that reading took.
    pub reading: Duration,
    /// Time that a step waited for it: what was not hidden behind computing.
    pub waiting: Duration,
    /// Bytes read of other weights than routed experts. A store reads none.
    pub other_bytes: u64,
    /// Time that reading them took.
    pub other_reading: Duration,
    /// Time that a step waited for them.
    pub other_waiting: Duration,
}

impl LayerReads {
    /// The sum of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            guessed: self.guessed + other.guessed,
            guessed_right: self.guessed_right + other.guessed_right,
            reads: self.reads + other.reads,
            bytes: self.bytes + other.bytes,
            reading: self.reading + other.reading,
            waiting: self.waiting + other.waiting,
            other_bytes: self.other_bytes + other.other_bytes,
            other_reading: self.other_reading + other.other_reading,
            other_waiting: self.other_waiting + other.other_waiting,
        }
    }

    /// What came after `earlier`, which this was once.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            guessed: self.guessed - earlier.guessed,
            guessed_right: self.guessed_right - earlier.guessed_right,
            reads: self.reads - earlier.reads,
            bytes: self.bytes - earlier.bytes,
            reading: self.reading.saturating_sub(earlier.reading),
            waiting: self.waiting.saturating_sub(earlier.waiting),
            other_bytes: self.other_bytes - earlier.other_bytes,
            other_reading: self.other_reading.saturating_sub(earlier.other_reading),
            other_waiting: self.other_waiting.saturating_sub(earlier.other_waiting),
        }
    }

    /// The share of needed experts that were in memory; 0 if none was needed.
    pub fn hit_share(self) -> f64 {
        let needed = self.hits + self.misses;
        if needed == 0 { 0.0 } else { self.hits as f64 / needed as f64 }
    }
}
