//! What a bench found out about one length or context.

use cuvier_weights::expert_store::LayerReads;

use super::limits::Work;

/// One line of the table.
pub(super) struct Row {
    pub kind: &'static str,
    pub tokens: usize,
    pub context: usize,
    pub slots: usize,
    /// Tokens per second of each repetition, ascending.
    pub speeds: Vec<f64>,
    pub work: Work,
    /// What was read from disk. `None`: all weights are in memory.
    pub reads: Option<Reads>,
}

/// What the timed repetitions of a run read from disk.
pub(super) struct Reads {
    /// All layers together.
    pub all: LayerReads,
    pub by_layer: Vec<LayerReads>,
    pub tokens: usize,
}

impl Reads {
    /// Of experts and of everything else.
    pub(super) fn bytes_per_token(&self) -> f64 {
        (self.all.bytes + self.all.other_bytes) as f64 / self.tokens as f64
    }
}

impl Row {
    /// Median tokens per second.
    pub(super) fn speed(&self) -> f64 {
        self.speeds[self.speeds.len() / 2]
    }
}
