//! Counters of the cache, read without asking the engine's thread.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the prefix cache holds and has done since the engine started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CacheStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The same, as it is counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> CacheStats {
                CacheStats { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Tokens of prompts that were taken from memory.
    memory_hit_tokens,
    /// Tokens of prompts that were read from disk.
    disk_hit_tokens,
    /// Tokens of prompts that had to be computed.
    miss_tokens,
    /// States in memory.
    memory_entries,
    /// Bytes that they take, what they share counted once.
    memory_bytes,
    /// States let go for want of memory.
    memory_evictions,
    /// States on disk.
    disk_entries,
    /// Bytes of all their files.
    disk_bytes,
    /// States removed from disk for want of space.
    disk_evictions,
    /// States that wait to be written to disk.
    disk_waiting,
    /// States written to disk.
    disk_writes,
    /// Bytes written to disk.
    disk_write_bytes,
    /// States read from disk.
    disk_reads,
    /// Bytes read from disk.
    disk_read_bytes,
    /// Files that were not what had been written, and were removed.
    disk_broken,
    /// Files of another version of the format, left alone.
    disk_foreign,
    /// Reads and writes that the system refused.
    disk_errors,
    /// States not written because they alone would outgrow the disk's bound.
    disk_skipped_large,
    /// States not written because too many others were waiting to be.
    disk_skipped_busy,
}

/// One number that grows, or is set.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, n: usize) {
        self.0.fetch_sub(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}
