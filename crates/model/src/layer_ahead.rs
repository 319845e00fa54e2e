//! Layers that do not stay in memory, read while the one before them is computed.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use cuvier_weights::{Checkpoint, Family, inventory};

use crate::load::layer_of;

/// Reads the tensors of one layer at a time, without its routed experts, into the memory of their checkpoint. What cannot be
/// read is left to who asks for it, and hears of it then.
pub(crate) struct LayerAhead {
    checkpoint: Arc<Checkpoint>,
    /// By layer; none of those that stay in memory, nor of the MTP block, which not every step runs.
    names: Vec<Arc<[String]>>,
    reading: Mutex<Option<JoinHandle<()>>>,
}

impl LayerAhead {
    /// For the layers from `first` on.
    pub(crate) fn new(checkpoint: Arc<Checkpoint>, first: usize) -> Self {
        let config = checkpoint.config();
        let mut names = vec![Vec::new(); config.num_hidden_layers];
        for spec in inventory(config, false).iter() {
            if let Some(layer) = layer_of(&spec.name, config)
                && layer >= first
                && spec.family != Family::Expert
            {
                names[layer].push(spec.name);
            }
        }
        Self { names: names.into_iter().map(Arc::from).collect(), checkpoint, reading: Mutex::default() }
    }

    /// Begins to read layer `index`, if there is one and it does not stay in memory; what was begun before must have ended.
    pub(crate) fn begin(&self, index: usize) {
        let Some(names) = self.names.get(index).filter(|names| !names.is_empty()).cloned() else { return };
        let checkpoint = Arc::clone(&self.checkpoint);
        let reader = Builder::new().name("layers".to_owned()).spawn(move || checkpoint.read_ahead(&names));
        // Without a thread whoever needs the layer reads it.
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = reader.ok();
    }

    /// Waits for what was begun.
    pub(crate) fn end(&self) {
        let reader = self.reading.lock().unwrap_or_else(PoisonError::into_inner).take();
        // What a reader that panicked did not read is read by whoever needs it.
        let _ = reader.map(JoinHandle::join);
    }

    /// A new step: what a step that failed did not take is given up, and the first of these layers is read.
    pub(crate) fn begin_step(&self) {
        self.end();
        self.checkpoint.forget_read_ahead();
        if let Some(first) = self.names.iter().position(|names| !names.is_empty()) {
            self.begin(first);
        }
    }
}

impl Drop for LayerAhead {
    fn drop(&mut self) {
        self.end();
    }
}
