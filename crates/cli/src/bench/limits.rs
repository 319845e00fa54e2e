//! What this machine gives while a bench runs.

use cuvier_model::{Compute, Operations, Roof, measure_roof};
use cuvier_weights::{Checkpoint, WeightsError, measure_disk};

/// What a run needs of the machine.
pub(super) enum Work {
    /// Operations of all its tokens.
    Operations(Operations),
    /// Bytes that each token reads from memory, and from disk.
    Bytes { memory: f64, disk: f64 },
}

/// Measured rates of the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    pub roof: Roof,
    /// Of direct reads of experts. `None`: all weights are in memory, or the files are too small to tell.
    pub disk_bytes_per_s: Option<f64>,
}

impl Limits {
    /// Measures them; `streamed`: the checkpoint, if some of it comes from disk.
    pub(super) fn measure(compute: &Compute, streamed: Option<&Checkpoint>) -> Result<Self, WeightsError> {
        let roof = measure_roof(compute);
        let disk = streamed.map(|checkpoint| measure_disk(checkpoint.paths())).transpose()?;
        Ok(Self { roof, disk_bytes_per_s: disk.flatten() })
    }

    /// Halfway between what was measured before and after: machines that are shared give more at one time than at another.
    pub(super) fn between(before: &Self, after: &Self) -> Self {
        let (a, b) = (&before.roof, &after.roof);
        let roof = Roof {
            memory_bytes_per_s: a.memory_bytes_per_s.midpoint(b.memory_bytes_per_s),
            flops_per_s: a.flops_per_s.midpoint(b.flops_per_s),
            int8_ops_per_s: a.int8_ops_per_s.midpoint(b.int8_ops_per_s),
            fp4_ops_per_s: a.fp4_ops_per_s.midpoint(b.fp4_ops_per_s),
        };
        let disks = before.disk_bytes_per_s.zip(after.disk_bytes_per_s);
        Self { roof, disk_bytes_per_s: disks.map(|(before, after)| before.midpoint(after)) }
    }

    /// The share of the memory roof that is used when decoding; in prefill the time that the operations take at their roofs,
    /// over the time that they took.
    pub(super) fn roof_share(&self, work: &Work, tokens: usize, tokens_per_s: f64) -> f64 {
        match work {
            Work::Operations(operations) => self.roof.seconds(operations) / tokens as f64 * tokens_per_s,
            Work::Bytes { memory, .. } => memory / self.roof.memory_bytes_per_s * tokens_per_s,
        }
    }

    /// The time that a token takes at least, what is read from disk hidden behind what is read from memory or the other way
    /// round, over the time that it took. `None` for a prefill, which is bound by arithmetic as well, and where there is no
    /// disk.
    pub(super) fn bound_share(&self, work: &Work, tokens_per_s: f64) -> Option<f64> {
        let Work::Bytes { memory, disk } = work else { return None };
        let seconds = (disk / self.disk_bytes_per_s?).max(memory / self.roof.memory_bytes_per_s);
        Some(seconds * tokens_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(memory: f64, disk: Option<f64>) -> Limits {
        let roof =
            Roof { memory_bytes_per_s: memory, flops_per_s: 8.0, int8_ops_per_s: 4.0, fp4_ops_per_s: 2.0 };
        Limits { roof, disk_bytes_per_s: disk }
    }

    #[test]
    fn shares_are_of_what_is_slower() {
        let limits = Limits::between(&limits(10.0, Some(1.0)), &limits(30.0, Some(3.0)));
        assert_eq!(limits, self::limits(20.0, Some(2.0)));
        let work = Work::Bytes { memory: 20.0, disk: 1.0 };
        assert_eq!((limits.roof_share(&work, 1, 0.5), limits.bound_share(&work, 0.5)), (0.5, Some(0.5)));
        let work = Work::Bytes { memory: 20.0, disk: 4.0 };
        assert_eq!((limits.roof_share(&work, 1, 0.25), limits.bound_share(&work, 0.25)), (0.25, Some(0.5)));
        let work = Work::Operations(Operations { f32: 8.0, int8: 4.0, fp4: 4.0 });
        assert_eq!((limits.roof_share(&work, 2, 0.25), limits.bound_share(&work, 0.25)), (0.5, None));
    }

    #[test]
    fn there_is_no_bound_where_nothing_comes_from_disk() {
        let limits = limits(10.0, None);
        assert_eq!(limits.bound_share(&Work::Bytes { memory: 20.0, disk: 0.0 }, 0.5), None);
    }
}
