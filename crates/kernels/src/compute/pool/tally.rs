//! A job's number and a count of its units in one atomic word.

const COUNT_BITS: u32 = 16;

/// The most units a job can have.
pub(super) const UNITS_MAX: usize = (1 << COUNT_BITS) - 1;

/// Beyond the numbers of jobs: nine years of one every microsecond. Later ones run on the caller's thread.
pub(super) const JOBS_MAX: u64 = (1 << (u64::BITS - COUNT_BITS)) - 1;

/// A count that means something for one job only; for any other job the count is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) job: u64,
    pub(super) count: usize,
}

impl Tally {
    pub(super) fn pack(self) -> u64 {
        debug_assert!(self.job <= JOBS_MAX && self.count <= UNITS_MAX, "{self:?}");
        self.job << COUNT_BITS | self.count as u64
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self { job: word >> COUNT_BITS, count: (word & UNITS_MAX as u64) as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_survives_packing() {
        for job in [0, 1, JOBS_MAX] {
            for count in [0, 1, UNITS_MAX] {
                let tally = Tally { job, count };
                assert_eq!(Tally::unpack(tally.pack()), tally);
            }
        }
    }
}
