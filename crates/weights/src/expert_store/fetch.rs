//! The experts of one layer for one step, in order.

use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use cuvier_types::ExpertKey;

use super::{Content, READERS, Shared, State};
use crate::WeightsError;
use crate::checkpoint::Expert;

/// Experts that are being read ahead of the one that is awaited, so that no reader is ever idle.
const AHEAD: usize = 2 * READERS;

/// Experts on their way to a layer. Dropped, it gives back all that it still holds.
pub struct Fetch<'a> {
    shared: &'a Shared,
    keys: Vec<ExpertKey>,
    /// Of `keys`, whether it is pinned.
    is_pinned: Vec<bool>,
    /// Of `keys`, whether it was given.
    is_given: Vec<bool>,
    takes_any: bool,
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
    pub(super) fn new(shared: &'a Shared, keys: Vec<ExpertKey>) -> Self {
        let none = vec![false; keys.len()];
        let mut fetch = Self {
            shared,
            is_pinned: none.clone(),
            is_given: none,
            keys,
            takes_any: false,
            has_failed: false,
        };
        let mut state = shared.lock();
        if let Some(first) = fetch.keys.first() {
            state.guesses.end(first.layer, fetch.keys.iter().map(|key| key.expert.0));
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
        fetch.request(&mut state);
        drop(state);
        shared.wanted.notify_all();
        fetch
    }

    /// From here on, while the next expert is not there, later ones are given before their turn, each alone.
    #[must_use]
    pub fn in_any_order(mut self) -> Self {
        self.takes_any = true;
        self
    }

    fn wait(&mut self, first: usize) -> Result<Lease<'a>, WeightsError> {
        let begun = Instant::now();
        let mut has_waited = false;
        let mut state = self.shared.lock();
        let range = loop {
            self.request(&mut state);
            self.shared.wanted.notify_all();
            if let Some(Content::Failed(error)) = self.content(&state, first) {
                return Err(WeightsError::Shared(Arc::clone(error)));
            }
            let is_ready = |&index: &usize| matches!(self.content(&state, index), Some(Content::Ready(_)));
            let ready_end =
                (first..self.keys.len()).find(|index| !is_ready(index)).unwrap_or(self.keys.len());
            if ready_end > first {
                break first..ready_end;
            }
            if let Some(early) = (first..self.keys.len()).find(is_ready).filter(|_| self.takes_any) {
                break early..early + 1;
            }
            has_waited = true;
            state = self.shared.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        if has_waited && let Some(reads) = state.reads.get_mut(usize::from(self.keys[first].layer.0)) {
            reads.waiting += begun.elapsed();
        }
        let lease = self.lease(&state, range);
        drop(state);
        Ok(lease)
    }

    /// What there is of an expert that is pinned and not yet given.
    fn content<'s>(&self, state: &'s State, index: usize) -> Option<&'s Content> {
        state.slots.get(&self.keys[index]).filter(|_| self.is_pinned[index]).map(|slot| &slot.content)
    }

    /// Pins or asks for what comes next, as far as there is room. What is pinned is given before anything else is
    /// needed, so fetches that wait for each other's room never wait for ever.
    fn request(&mut self, state: &mut State) {
        let mut on_their_way = 0;
        for index in 0..self.keys.len() {
            if self.is_given[index] {
                continue;
            }
            let key = self.keys[index];
            if !self.is_pinned[index] {
                if !state.slots.contains_key(&key) {
                    if !state.admit(key) {
                        return;
                    }
                    state.needed.push_back(key);
                } else if let Some(at) = state.foreseen.iter().position(|&foreseen| foreseen == key) {
                    state.foreseen.remove(at);
                    state.needed.push_back(key);
                }
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

    /// Those of a range, all of which are ready.
    fn lease(&mut self, state: &State, range: Range<usize>) -> Lease<'a> {
        let ready = |index: usize| match self.content(state, index) {
            Some(Content::Ready(expert)) => Some(Arc::clone(expert)),
            _ => None,
        };
        let experts = range.clone().filter_map(ready).collect();
        self.is_pinned[range.clone()].fill(false);
        self.is_given[range.clone()].fill(true);
        Lease { shared: self.shared, keys: self.keys[range.clone()].to_vec(), experts, range }
    }
}

/// The next of them that are here, at least one, after as much waiting as that takes. An error, if one could not be read, is
/// the last item: those before it were given, and of those behind it none, or some [before their turn](Fetch::in_any_order).
impl<'a> Iterator for Fetch<'a> {
    type Item = Result<Lease<'a>, WeightsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.is_given.iter().position(|is_given| !is_given).filter(|_| !self.has_failed)?;
        let lease = self.wait(first);
        self.has_failed = lease.is_err();
        Some(lease)
    }
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
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
}

impl State {
    fn pin(&mut self, key: ExpertKey) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.pins += 1;
        }
    }
}
