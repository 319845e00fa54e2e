//! The experts of one layer for one step, in order.

use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use cuvier_types::{ExpertKey, LayerId};

use super::ahead::Spared;
use super::{Content, READERS, Shared, State};
use crate::WeightsError;
use crate::checkpoint::Expert;

/// Experts that have their room ahead of the one that is awaited, so that no reader is ever idle, whoever else asks for room.
const AHEAD: usize = 2 * READERS;

/// Experts on their way to a layer. Dropped, it gives back all that it still holds.
pub struct Fetch<'a> {
    shared: &'a Shared,
    layer: LayerId,
    keys: Vec<ExpertKey>,
    /// Of `keys`, whether it is pinned. All before `given` are given back.
    is_pinned: Vec<bool>,
    given: usize,
    has_failed: bool,
}

/// Some of them, here. They stay in memory until this is dropped.
pub struct Lease<'a> {
    shared: &'a Shared,
    keys: Vec<ExpertKey>,
    experts: Vec<Arc<Expert>>,
    range: Range<usize>,
}

impl<'a> Fetch<'a> {
    /// `keys`: experts of `layer`, ascending.
    pub(super) fn new(shared: &'a Shared, layer: LayerId, keys: Vec<ExpertKey>) -> Self {
        let mut fetch =
            Self { shared, layer, is_pinned: vec![false; keys.len()], keys, given: 0, has_failed: false };
        let mut state = shared.lock();
        let (guessed, guessed_right) = state.guesses.end(layer, fetch.keys.iter().map(|key| key.expert.0));
        if let Some(reads) = state.reads.get_mut(usize::from(layer.0)) {
            reads.guessed += guessed;
            reads.guessed_right += guessed_right;
        }
        for &key in &fetch.keys {
            state.policy.touch(key);
            let is_hit =
                matches!(state.slots.get(&key), Some(slot) if matches!(slot.content, Content::Ready(_)));
            if let Some(reads) = state.reads.get_mut(usize::from(key.layer.0)) {
                reads.hits += u64::from(is_hit);
                reads.misses += u64::from(!is_hit);
            }
        }
        state.expect_first(layer, &fetch.keys);
        fetch.request(&mut state);
        drop(state);
        shared.wanted.notify_all();
        fetch
    }

    fn wait(&mut self) -> Result<Lease<'a>, WeightsError> {
        let begun = Instant::now();
        let mut has_waited = false;
        let mut state = self.shared.lock();
        loop {
            self.request(&mut state);
            self.shared.wanted.notify_all();
            let first = self.keys[self.given];
            match state.slots.get(&first).filter(|_| self.is_pinned[self.given]).map(|slot| &slot.content) {
                Some(Content::Ready(_)) => break,
                Some(Content::Failed(error)) => return Err(WeightsError::Shared(Arc::clone(error))),
                Some(Content::Reading) | None => {}
            }
            has_waited = true;
            state = self.shared.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if has_waited && let Some(reads) = state.reads.get_mut(usize::from(self.layer.0)) {
            reads.waiting += begun.elapsed();
        }
        let lease = self.lease(&state);
        drop(state);
        Ok(lease)
    }

    /// Pins or asks for what comes next, as far as there is room. What is pinned is given before anything else is
    /// needed, so fetches that wait for each other's room never wait for ever.
    fn request(&mut self, state: &mut State) {
        let mut on_their_way = 0;
        for index in self.given..self.keys.len() {
            let key = self.keys[index];
            if !self.is_pinned[index] {
                if !state.slots.contains_key(&key) {
                    if !state.admit(key, Spared::Expected) && !state.admit(key, Spared::InUse) {
                        return;
                    }
                    state.needed.push_back(key);
                }
                state.is_met(key);
                state.pin(key);
                self.is_pinned[index] = true;
            }
            on_their_way += usize::from(matches!(
                state.slots.get(&key),
                Some(slot) if matches!(slot.content, Content::Reading)
            ));
            if on_their_way >= AHEAD {
                return;
            }
        }
    }

    /// All that are ready, from the next on.
    fn lease(&mut self, state: &State) -> Lease<'a> {
        let start = self.given;
        let mut experts = Vec::new();
        while let Some(&key) = self.keys.get(self.given)
            && self.is_pinned[self.given]
            && let Some(Content::Ready(expert)) = state.slots.get(&key).map(|slot| &slot.content)
        {
            experts.push(Arc::clone(expert));
            self.is_pinned[self.given] = false;
            self.given += 1;
        }
        let range = start..self.given;
        Lease { shared: self.shared, keys: self.keys[range.clone()].to_vec(), experts, range }
    }
}

/// The next of them that are here, at least one, after as much waiting as that takes. An error, if one could not be read, is
/// the last item: those before it were given, the others are not.
impl<'a> Iterator for Fetch<'a> {
    type Item = Result<Lease<'a>, WeightsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.given == self.keys.len() || self.has_failed {
            return None;
        }
        let lease = self.wait();
        self.has_failed = lease.is_err();
        Some(lease)
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        if self.given < self.keys.len() {
            self.shared.lock().expect_none_of(self.layer);
        }
        let pinned = self.keys.iter().zip(&self.is_pinned).filter(|&(_, &is_pinned)| is_pinned);
        unpin(self.shared, pinned.map(|(&key, _)| key));
    }
}

impl Lease<'_> {
    /// Which of the experts asked for these are.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The experts themselves.
    pub fn experts(&self) -> impl Iterator<Item = &Expert> {
        self.experts.iter().map(|expert| &**expert)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // The memory must be free when the store believes that it is.
        self.experts.clear();
        unpin(self.shared, self.keys.iter().copied());
    }
}

fn unpin(shared: &Shared, keys: impl Iterator<Item = ExpertKey>) {
    let mut state = shared.lock();
    for key in keys {
        if let Some(slot) = state.slots.get_mut(&key) {
            slot.pins -= 1;
            // Who comes later reads again.
            if slot.pins == 0 && matches!(slot.content, Content::Failed(_)) {
                state.slots.remove(&key);
                state.policy.remove(key);
            }
        }
    }
    drop(state);
    shared.moved.notify_all();
    shared.wanted.notify_all();
}

impl State {
    fn pin(&mut self, key: ExpertKey) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.pins += 1;
        }
    }
}
