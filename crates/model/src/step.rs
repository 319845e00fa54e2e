//! What the parts of a layer must know about the step at hand.

use std::ops::Range;

use cuvier_kernels::{KvFormat, RopeAngles};

/// What a layer must know about the step besides its input.
pub struct Step<'a> {
    /// Token ids, one per row.
    pub tokens: &'a [u32],
    /// Their positions.
    pub positions: &'a [u32],
    /// The rows of each sequence.
    pub segments: &'a [Segment],
    /// Rotations of the rows' positions under this layer's table.
    pub angles: &'a RopeAngles,
    /// How state is stored.
    pub kv: KvFormat,
}

/// The rows of one sequence in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the step's tensors.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub first_position: usize,
}

impl Segment {
    /// The position after the last row.
    pub fn end_position(&self) -> usize {
        self.first_position + self.rows.len()
    }

    /// The positions of the rows.
    pub fn positions(&self) -> impl Iterator<Item = u32> + use<> {
        (self.first_position as u32)..(self.end_position() as u32)
    }
}
