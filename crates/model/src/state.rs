//! What the model remembers of one sequence: bounded windows, compressed pasts, and nothing else.
//!
//! Source: DeepSeek-V4 report on the cache layout; the sizes are those of `cuvier inspect`.

use cuvier_kernels::KvFormat;
use cuvier_tensor::PagedRows;

use crate::ModelError;
use crate::attention::{CompressedState, LayerState};
use crate::indexer::IndexState;

/// Tokens that [`SequenceState::rollback`] can take back without computing anew: what speculation needs, with
/// room to spare. Windows and pending rows are kept this much longer than attention needs them.
pub const ROLLBACK_MAX: usize = 32;

/// The state of one sequence. Cloning it forks the sequence: pages are shared until one side writes to them.
#[derive(Clone, Debug)]
pub struct SequenceState {
    pub(crate) layers: Vec<LayerState>,
    /// The MTP block's own window.
    pub(crate) mtp: Option<LayerState>,
    pub(crate) position: usize,
    /// The earliest position that it was asked to be able to end at, for as long as the rows for it are there.
    pub(crate) held_from: usize,
    pub(crate) geometry: Geometry,
}

/// What a state's shape follows from; equal for all states of one model and cache format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) fingerprint: u64,
    pub(crate) kv: KvFormat,
    pub(crate) sliding_window: usize,
    pub(crate) layers: Vec<LayerGeometry>,
    pub(crate) mtp: Option<LayerGeometry>,
}

/// Row lengths of one layer's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerGeometry {
    pub(crate) entry_bytes: usize,
    pub(crate) compressed: Option<CompressedGeometry>,
}

/// Row lengths of one layer's compressed past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompressedGeometry {
    pub(crate) ratio: usize,
    pub(crate) overlap: bool,
    pub(crate) pending_len: usize,
    /// Pending numbers and key bytes of the indexer.
    pub(crate) index: Option<(usize, usize)>,
}

impl SequenceState {
    pub(crate) fn new(geometry: Geometry) -> Self {
        let layers = geometry.layers.iter().map(LayerState::new).collect();
        let mtp = geometry.mtp.as_ref().map(LayerState::new);
        Self { layers, mtp, position: 0, held_from: usize::MAX, geometry }
    }

    /// Tokens in the state; the position of the next one.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes of memory that the state's pages take, shared ones included.
    pub fn bytes(&self) -> usize {
        self.layers.iter().chain(&self.mtp).map(LayerState::bytes).sum()
    }

    /// Keeps, through the next step, what it takes to end at `position` or later: a chunk's rows are there when it
    /// ends, so that it can be taken back to any place within it. From the step after that on,
    /// [`ROLLBACK_MAX`] counts again.
    pub fn hold_from(&mut self, position: usize) {
        self.held_from = position;
    }

    /// The state that this one was at `position`, without what only a rollback would need. `None` if the rows for it
    /// are gone.
    pub fn at(&self, position: usize) -> Option<Self> {
        let mut state = self.clone();
        state.rollback(self.position.checked_sub(position)?).ok()?;
        state.held_from = usize::MAX;
        state.release_before(position);
        Some(state)
    }

    /// Gives up what is held for longer rollbacks than [`ROLLBACK_MAX`].
    pub fn settle(&mut self) {
        self.held_from = usize::MAX;
        self.release_before(self.position.saturating_sub(ROLLBACK_MAX));
    }

    /// Tells the address and the bytes of every page of memory that forks may share, and returns the bytes that are
    /// this state's alone.
    pub fn memory(&self, page: &mut dyn FnMut(usize, usize)) -> usize {
        let mut own = size_of::<Self>();
        for layer in self.layers.iter().chain(&self.mtp) {
            own += size_of::<LayerState>() + layer.memory(page);
        }
        own
    }

    /// How many of the last tokens can be taken back by [`SequenceState::rollback`].
    pub fn rollback_max(&self) -> usize {
        let oldest = self.held_from.min(self.position.saturating_sub(ROLLBACK_MAX));
        (0..=self.position - oldest)
            .rev()
            .find(|&tokens| self.can_end_at(self.position - tokens))
            .unwrap_or(0)
    }

    /// Takes back the last `tokens` tokens: what follows is bit for bit as if they had never been.
    ///
    /// # Errors
    /// If more than [`SequenceState::rollback_max`] tokens are asked for; the state is unchanged then.
    pub fn rollback(&mut self, tokens: usize) -> Result<(), ModelError> {
        let max = self.rollback_max();
        if tokens > max {
            return Err(ModelError::RollbackTooFar { tokens, max });
        }
        self.position -= tokens;
        let end = self.position;
        for (layer, geometry) in self.layers.iter_mut().zip(&self.geometry.layers) {
            layer.truncate(end, geometry);
        }
        if let Some(mtp) = &mut self.mtp {
            mtp.window.truncate(mtp.window.range().end.min(end));
        }
        Ok(())
    }

    /// Gives up what no future token and no rollback needs.
    ///
    /// What was held through the step before goes, what is held through this one stays; hence `began_at`, where the
    /// step began.
    pub(crate) fn release(&mut self, began_at: usize) {
        if self.held_from < began_at {
            self.held_from = usize::MAX;
        }
        self.release_before(self.held_from.min(self.position.saturating_sub(ROLLBACK_MAX)));
    }

    /// The same for one layer, as soon as it has taken in the tokens from `began_at` up to `end`: the rows of a large step
    /// then wait in one layer at a time, not in all of them.
    pub(crate) fn release_layer(&mut self, index: usize, began_at: usize, end: usize) {
        let held_from = if self.held_from < began_at { usize::MAX } else { self.held_from };
        let oldest = held_from.min(end.saturating_sub(ROLLBACK_MAX));
        let window = self.geometry.sliding_window - 1;
        self.layers[index].release_before(&self.geometry.layers[index], oldest, window);
    }

    /// Gives up what only states that end before `oldest` need.
    fn release_before(&mut self, oldest: usize) {
        let n_back = self.position - oldest;
        let window = self.geometry.sliding_window - 1;
        for (layer, geometry) in self.layers.iter_mut().zip(&self.geometry.layers) {
            layer.release_before(geometry, oldest, window);
        }
        if let Some(mtp) = &mut self.mtp {
            let oldest = mtp.window.range().end.saturating_sub(n_back + window);
            mtp.window.release_before(oldest);
        }
    }

    pub(crate) fn can_end_at(&self, end: usize) -> bool {
        let window_start = end.saturating_sub(self.geometry.sliding_window - 1);
        self.layers.iter().zip(&self.geometry.layers).all(|(layer, geometry)| {
            let pending = layer.compressed.as_ref().zip(geometry.compressed.as_ref());
            layer.window.range().start <= window_start
                && pending.is_none_or(|(state, geometry)| {
                    state.pending.range().start <= geometry.pending_start(end)
                })
        })
    }
}

impl CompressedGeometry {
    /// The first pending row that a state ending at `end` still needs: its incomplete group's first, or the one
    /// of the group before where groups overlap.
    pub(crate) fn pending_start(&self, end: usize) -> usize {
        let group = end / self.ratio * self.ratio;
        group.saturating_sub(if self.overlap { self.ratio } else { 0 })
    }
}

impl LayerState {
    /// Gives up what only states that end before `oldest` need.
    fn release_before(&mut self, geometry: &LayerGeometry, oldest: usize, window: usize) {
        self.window.release_before(oldest.saturating_sub(window));
        if let (Some(state), Some(geometry)) = (&mut self.compressed, &geometry.compressed) {
            let start = geometry.pending_start(oldest);
            state.pending.release_before(start);
            if let Some(index) = &mut state.index {
                index.pending.release_before(start);
            }
        }
    }

    fn new(geometry: &LayerGeometry) -> Self {
        let compressed = geometry.compressed.as_ref().map(|compressed| CompressedState {
            pending: PagedRows::new(compressed.pending_len, 0),
            entries: PagedRows::new(geometry.entry_bytes, 0),
            index: compressed.index.map(|(pending_len, key_bytes)| IndexState {
                pending: PagedRows::new(pending_len, 0),
                keys: PagedRows::new(key_bytes, 0),
            }),
        });
        Self { window: PagedRows::new(geometry.entry_bytes, 0), compressed }
    }

    fn truncate(&mut self, end: usize, geometry: &LayerGeometry) {
        self.window.truncate(end);
        if let (Some(state), Some(geometry)) = (&mut self.compressed, &geometry.compressed) {
            state.pending.truncate(end);
            state.entries.truncate(end / geometry.ratio);
            if let Some(index) = &mut state.index {
                index.pending.truncate(end);
                index.keys.truncate(end / geometry.ratio);
            }
        }
    }

    fn bytes(&self) -> usize {
        let compressed = self.compressed.as_ref().map_or(0, |state| {
            let index = state.index.as_ref().map_or(0, |i| 4 * i.pending.capacity() + i.keys.capacity());
            4 * state.pending.capacity() + state.entries.capacity() + index
        });
        self.window.capacity() + compressed
    }

    fn memory(&self, page: &mut dyn FnMut(usize, usize)) -> usize {
        let mut own = rows_memory(&self.window, page);
        if let Some(state) = &self.compressed {
            own += rows_memory(&state.pending, page) + rows_memory(&state.entries, page);
            if let Some(index) = &state.index {
                own += rows_memory(&index.pending, page) + rows_memory(&index.keys, page);
            }
        }
        own
    }
}

fn rows_memory<T: Copy + Default>(rows: &PagedRows<T>, page: &mut dyn FnMut(usize, usize)) -> usize {
    rows.pages().for_each(|(address, bytes)| page(address, bytes));
    rows.table_bytes()
}
