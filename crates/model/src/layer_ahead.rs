//! Layers that do not stay in memory: each is read while the one before it is computed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use cuvier_weights::expert_store::LayerReads;
use cuvier_weights::{Checkpoint, Drafter, Family, inventory};

use crate::load::layer_of;

/// Reads the tensors of one layer at a time, without its routed experts, into the memory of their checkpoint. What cannot be
/// read is left to who asks for it, and hears of it then.
pub(crate) struct LayerAhead {
    checkpoint: Arc<Checkpoint>,
    /// By layer, the MTP block last; none of those that stay in memory.
    names: Vec<Arc<[String]>>,
    /// The layer that is on its way.
    reading: Mutex<Option<(usize, JoinHandle<()>)>>,
    /// What was read so far, by layer.
    reads: Arc<Mutex<Vec<LayerReads>>>,
}

impl LayerAhead {
    /// For the layers from `first` on.
    pub(crate) fn new(checkpoint: Arc<Checkpoint>, first: usize) -> Self {
        let config = checkpoint.config();
        let mut names = vec![Vec::new(); config.num_hidden_layers + 1];
        for spec in inventory(config, checkpoint.drafter() == Drafter::Mtp).iter() {
            if let Some(layer) = layer_of(&spec.name, config)
                && layer >= first
                && spec.family != Family::Expert
            {
                names[layer].push(spec.name);
            }
        }
        let reads = Arc::new(Mutex::new(vec![LayerReads::default(); names.len()]));
        let names = names.into_iter().map(Arc::from).collect();
        Self { names, checkpoint, reading: Mutex::default(), reads }
    }

    /// What was read so far, by layer, the MTP block last.
    pub(crate) fn reads(&self) -> Vec<LayerReads> {
        locked(&self.reads).clone()
    }

    /// A new step: what a step that failed did not take is given up, and the first of these layers is read.
    pub(crate) fn begin_step(&self) {
        self.end();
        self.checkpoint.forget_read_ahead();
        if let Some(first) = self.names.iter().position(|names| !names.is_empty()) {
            self.begin(first);
        }
    }

    /// Begins to read layer `index`, if it does not stay in memory and another one is not on its way. Not the MTP block, which
    /// not every step runs.
    pub(crate) fn begin(&self, index: usize) {
        let mut reading = locked(&self.reading);
        if reading.is_some() || index + 1 >= self.names.len() || self.names[index].is_empty() {
            return;
        }
        let read = self.reader(index);
        // Without a thread whoever needs the layer reads it.
        let reader = Builder::new().name("layers".to_owned()).spawn(read);
        *reading = reader.ok().map(|reader| (index, reader));
    }

    /// Waits for layer `index`, or reads it now, if it was not begun.
    pub(crate) fn bring(&self, index: usize) {
        let begun = Instant::now();
        let own = locked(&self.reading).take_if(|(of, _)| *of == index);
        match own {
            // What a reader that panicked did not read is read by whoever asks for it.
            Some((_, reader)) => drop(reader.join()),
            None => self.reader(index)(),
        }
        locked(&self.reads)[index].other_waiting += begun.elapsed();
    }

    /// What reads layer `index`.
    fn reader(&self, index: usize) -> impl FnOnce() + Send + use<> {
        let (checkpoint, names) = (Arc::clone(&self.checkpoint), Arc::clone(&self.names[index]));
        let reads = Arc::clone(&self.reads);
        move || {
            let begun = Instant::now();
            let bytes = checkpoint.read_ahead(&names);
            let read = &mut locked(&reads)[index];
            read.other_bytes += bytes;
            read.other_reading += begun.elapsed();
        }
    }

    fn end(&self) {
        let reading = locked(&self.reading).take();
        if let Some((_, reader)) = reading {
            drop(reader.join());
        }
    }
}

impl Drop for LayerAhead {
    fn drop(&mut self) {
        self.end();
    }
}

/// A thread that panicked while it held the lock leaves counts that are still whole.
fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
