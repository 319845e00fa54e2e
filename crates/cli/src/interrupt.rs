//! Ctrl-C: the first ends the answer or the work at hand cleanly, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;

/// Counts interrupts since it was last cleared.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicU32>);

impl Interrupt {
    /// Starts to listen.
    ///
    /// # Errors
    /// If the operating system refuses, or it was done before.
    pub fn listen() -> anyhow::Result<Self> {
        let interrupt = Self::default();
        let count = Arc::clone(&interrupt.0);
        ctrlc::set_handler(move || {
            if count.fetch_add(1, Ordering::SeqCst) > 0 {
                std::process::exit(130);
            }
        })
        .context("listening for Ctrl-C")?;
        Ok(interrupt)
    }

    /// Whether Ctrl-C was pressed.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }

    /// Forgets it: what was interrupted has ended.
    pub fn clear(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}
