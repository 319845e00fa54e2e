//! The expert store: routed experts from disk, as many of them in memory as it was told.
//!
//! A layer asks for its experts with [`ExpertStore::fetch`] and gets them one by one in ascending order, while a few
//! threads read ahead: first the rest of that layer, then what later layers were said to need, as far as there is room that
//! none of them needs sooner. What stays in memory is the [`Policy`]'s decision; which numbers come out is not: an expert
//! is its bytes in the file, whatever was cached.
//!
//! **Invariants:**
//! * No more than `capacity` experts are in memory, those being read and those being computed with included.
//! * A read that fails, comes short, meets a file that was changed or a scale that is no number is an error of the
//!   fetch that needed it, names the file, and leaves no expert behind: the next fetch reads again.

mod ahead;
mod arena;
mod fetch;
mod guesses;
mod layout;
mod policy;
mod reader;
mod stats;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use cuvier_tensor::Dtype;
use cuvier_types::{ExpertId, ExpertKey, LayerId};

use crate::checkpoint::{Checkpoint, Expert};
use crate::direct::{ALIGN, DirectFile};
use crate::{ModelConfig, WeightsError};

pub use fetch::{Fetch, Lease};
pub use policy::{Admission, Policy};
pub use stats::LayerReads;

use arena::Arena;
use guesses::Guesses;
use layout::Layout;
use reader::{Source, read_loop};

/// Threads that read. Disks of this kind are fastest at one or two large reads at a time; deeper queues only make the
/// first of them wait.
const READERS: usize = 2;

/// Routed experts of a checkpoint, read when they are needed.
pub struct ExpertStore {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

/// What readers and fetches have in common.
struct Shared {
    state: Mutex<State>,
    /// Something was read, failed, or was given back.
    moved: Condvar,
    /// There is something to read, or room for it, or nothing ever again.
    wanted: Condvar,
    source: Source,
    arena: Arena,
}

struct State {
    policy: Policy,
    slots: HashMap<ExpertKey, Slot>,
    /// What is to be read: first what a fetch waits for, which has its room already, then what is not there and will
    /// be needed, in the order in which it will.
    needed: VecDeque<ExpertKey>,
    upcoming: VecDeque<ExpertKey>,
    /// What will be needed in this step, there or not: it makes room for nothing that is needed later.
    expected: HashSet<ExpertKey>,
    guesses: Guesses,
    reads: Vec<LayerReads>,
    is_closing: bool,
}

/// An expert in memory, or on its way.
struct Slot {
    content: Content,
    /// Fetches that will have it or have it.
    pins: usize,
}

enum Content {
    Reading,
    Ready(Arc<Expert>),
    Failed(Arc<WeightsError>),
}

impl ExpertStore {
    /// Bytes of memory that each expert of the checkpoint takes in a store.
    ///
    /// # Errors
    /// If it lacks experts of its layers.
    pub fn expert_bytes(checkpoint: &Checkpoint) -> Result<u64, WeightsError> {
        let mut most = 0;
        for layer in layers(checkpoint) {
            // The experts of a layer lie alike, but for where in a block each piece begins.
            let key = ExpertKey { layer, expert: ExpertId(0) };
            let layout = Layout::new(&checkpoint.expert_places(key)?);
            most = most.max(layout.bytes() + layout.pieces.len() * ALIGN);
        }
        Ok(most as u64)
    }

    /// Bytes that an expert in a store may take beyond its own, where its tensors lie side by side: the rest of its first and
    /// last blocks.
    pub const SLACK_BYTES: u64 = 2 * ALIGN as u64;

    /// The fewest experts that a store can work with: one computed with while others are read.
    pub const CAPACITY_MIN: usize = 4;

    /// A store for a checkpoint that was [opened to be streamed](Checkpoint::open_streamed), with at most `capacity` experts in memory.
    ///
    /// # Errors
    /// If the checkpoint was opened otherwise, or there is no such memory, or threads cannot be started.
    ///
    /// # Panics
    /// If `capacity` is less than [`CAPACITY_MIN`](Self::CAPACITY_MIN).
    pub fn new(checkpoint: &Checkpoint, capacity: usize) -> Result<Self, WeightsError> {
        assert!(capacity >= Self::CAPACITY_MIN, "a store of {capacity} experts");
        let source = Source::new(checkpoint)?;
        let arena = Arena::new(capacity.min(source.len()), source.bytes_max())
            .map_err(WeightsError::io("experts", "setting memory apart"))?;
        let n_layers = usize::from(checkpoint.config().mtp_layer().0) + 1;
        let state = State {
            policy: Policy::new(capacity),
            slots: HashMap::new(),
            needed: VecDeque::new(),
            upcoming: VecDeque::new(),
            expected: HashSet::new(),
            guesses: Guesses::new(n_layers, checkpoint.config().n_routed_experts),
            reads: vec![LayerReads::default(); n_layers],
            is_closing: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            moved: Condvar::new(),
            wanted: Condvar::new(),
            source,
            arena,
        });
        let mut store = Self { shared, readers: Vec::new() };
        for _ in 0..READERS {
            let shared = Arc::clone(&store.shared);
            let reader = std::thread::Builder::new()
                .name("experts".to_owned())
                .spawn(move || read_loop(&shared))
                .map_err(WeightsError::io("experts", "starting a reading thread"))?;
            store.readers.push(reader);
        }
        Ok(store)
    }

    /// A step of the model begins: what was used in earlier ones counts less from now on.
    pub fn begin_step(&self) {
        let mut state = self.shared.lock();
        state.policy.begin_step();
        state.expect_nothing();
    }

    /// The experts `wanted` of a layer, ascending, each once.
    ///
    /// Only one fetch of a thread should be alive at a time: it keeps experts in memory until it is dropped.
    pub fn fetch(&self, layer: LayerId, wanted: impl Iterator<Item = u16>) -> Fetch<'_> {
        Fetch::new(&self.shared, layer, keys(layer, wanted).collect())
    }

    /// Begins to read what a later fetch of this step will ask for, while no fetch waits for anything and as far as there
    /// is room. Layers are told of in the order in which they run.
    pub fn foresee(&self, layer: LayerId, wanted: Vec<u16>) {
        let keys: Vec<_> = keys(layer, wanted.into_iter()).collect();
        let mut state = self.shared.lock();
        keys.iter().for_each(|&key| state.policy.touch(key));
        state.expect(layer, &keys);
        drop(state);
        self.shared.wanted.notify_all();
    }

    /// Whether a [guess](Self::guess) about this layer could be of use: not if all its experts are in memory.
    pub fn can_guess(&self, layer: LayerId, n_experts: usize) -> bool {
        let state = self.shared.lock();
        !keys(layer, 0..n_experts as u16).all(|key| state.policy.contains(key))
    }

    /// Begins to read what a later fetch of this step will probably ask for, as [`foresee`](Self::foresee) does, provided
    /// that guesses about this layer have been right lately: a wrong one keeps the disk from what is needed.
    pub fn guess(&self, layer: LayerId, probable: Vec<u16>) {
        let mut state = self.shared.lock();
        if state.guesses.begin(layer, &probable) {
            let keys: Vec<_> = keys(layer, probable.into_iter()).collect();
            state.expect(layer, &keys);
        }
        drop(state);
        self.shared.wanted.notify_all();
    }

    /// What happened so far, by layer; the MTP block is the last one.
    pub fn reads(&self) -> Vec<LayerReads> {
        self.shared.lock().reads.clone()
    }

    /// Bytes of the three matrices of an expert, scales included, as they are stored.
    pub fn stored_bytes(&self) -> usize {
        self.shared.source.stored_bytes()
    }

    /// How the matrices of experts are stored.
    pub fn dtype(&self) -> Option<Dtype> {
        self.shared.source.dtype()
    }

    /// How many experts may be in memory.
    pub fn capacity(&self) -> usize {
        self.shared.lock().policy.capacity()
    }
}

impl Drop for ExpertStore {
    fn drop(&mut self) {
        self.shared.lock().is_closing = true;
        self.shared.wanted.notify_all();
        for reader in self.readers.drain(..) {
            // A reader that panicked has nothing more to say: its fetch has failed.
            let _ = reader.join();
        }
    }
}

impl Shared {
    /// A thread that panicked while it held the lock leaves counts that are still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Experts of a layer.
fn keys(layer: LayerId, experts: impl Iterator<Item = u16>) -> impl Iterator<Item = ExpertKey> {
    experts.map(move |expert| ExpertKey { layer, expert: ExpertId(expert) })
}

/// Layers that have routed experts.
fn layers(checkpoint: &Checkpoint) -> impl Iterator<Item = LayerId> + use<> {
    let config: &ModelConfig = checkpoint.config();
    let mtp = (checkpoint.drafter() == crate::Drafter::Mtp).then(|| config.mtp_layer());
    config.layers().collect::<Vec<_>>().into_iter().chain(mtp)
}
