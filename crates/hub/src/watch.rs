//! What a download tells while it runs, and how it is stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Client, HubError};

/// The longest time between two looks at whether to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Something that a person who waits would like to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The revision is known and pinned.
    Listed {
        /// Its commit.
        commit: String,
        /// Files that a checkpoint needs.
        files: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// A file is read to see whether it is what it should be.
    Checking {
        /// The file.
        file: String,
    },
    /// Bytes that are on the disk already, and those that are to come.
    Planned {
        /// Here.
        here: u64,
        /// To come.
        missing: u64,
    },
    /// This many more bytes have come.
    Came(u64),
    /// This many bytes that had come are void and come again.
    Void {
        /// The file.
        file: String,
        /// Its bytes.
        bytes: u64,
        /// Why.
        reason: &'static str,
    },
    /// A file is whole, its hash is right, it has its name.
    Done {
        /// The file.
        file: String,
        /// Its bytes.
        bytes: u64,
    },
    /// A try failed; there is another after a wait.
    Retry {
        /// What was asked for.
        what: String,
        /// What the try met.
        reason: String,
        /// How long it waits.
        wait: Duration,
    },
}

/// The workers' side: tells, and asks whether to stop.
pub(crate) struct Watch {
    stop: AtomicBool,
    events: Sender<Event>,
}

impl Watch {
    pub(crate) fn tell(&self, event: Event) {
        // Nobody listens any more: the work is being stopped.
        let _ = self.events.send(event);
    }

    /// # Errors
    /// [`HubError::Interrupted`] if the work is to stop.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        if self.stop.load(Ordering::Relaxed) { Err(HubError::Interrupted) } else { Ok(()) }
    }

    /// Sleeps.
    ///
    /// # Errors
    /// [`HubError::Interrupted`] as soon as the work is to stop.
    pub(crate) fn sleep(&self, wait: Duration) -> Result<(), HubError> {
        let start = Instant::now();
        while let Some(left) = wait.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            self.check()?;
            thread::sleep(left.min(LOOK_EVERY));
        }
        self.check()
    }

    /// Stops the other workers.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` beside a loop that gives its events to `observe`, which says whether to go on. When it says no, what waits
/// for the network is woken, and the client is of no more use.
pub(crate) fn watched<T: Send>(
    client: &Client,
    observe: &mut dyn FnMut(Option<Event>) -> bool,
    work: impl FnOnce(&Watch) -> Result<T, HubError> + Send,
) -> Result<T, HubError> {
    let (events, received) = mpsc::channel();
    let watch = Watch { stop: AtomicBool::new(false), events };
    thread::scope(|scope| {
        let stop = &watch.stop;
        let (send_result, result) = mpsc::channel();
        let watch = &watch;
        scope.spawn(move || {
            // The receiver lives until this thread has ended.
            let _ = send_result.send(work(watch));
        });
        loop {
            let event = received.recv_timeout(LOOK_EVERY).ok();
            if event.is_none() {
                match result.try_recv() {
                    Ok(result) => return result,
                    Err(TryRecvError::Empty) => {}
                    // The worker panicked; the scope passes that on.
                    Err(TryRecvError::Disconnected) => return Err(HubError::Interrupted),
                }
            }
            if !observe(event) && !stop.swap(true, Ordering::Relaxed) {
                client.shut_down();
            }
        }
    })
}
