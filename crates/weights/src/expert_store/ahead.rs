//! Reading before anyone asks.

use cuvier_types::{ExpertKey, LayerId};

use super::{Admission, Content, Slot, State};

/// What must not make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spared {
    /// What is being used or read.
    InUse,
    /// That, and what will be needed in this step.
    Expected,
}

impl State {
    /// Nothing is known of what will be needed.
    pub(super) fn expect_nothing(&mut self) {
        self.upcoming.clear();
        self.expected.clear();
    }

    /// Of this layer exactly `keys` will be needed, after all that is expected already.
    pub(super) fn expect(&mut self, layer: LayerId, keys: &[ExpertKey]) {
        self.expect_none_of(layer);
        self.expected.extend(keys);
        let slots = &self.slots;
        self.upcoming.extend(keys.iter().filter(|key| !slots.contains_key(key)));
    }

    /// Of this layer exactly `keys` will be needed, before all that is expected already.
    pub(super) fn expect_first(&mut self, layer: LayerId, keys: &[ExpertKey]) {
        self.expect_none_of(layer);
        self.expected.extend(keys);
        for key in keys.iter().rev().filter(|key| !self.slots.contains_key(key)) {
            self.upcoming.push_front(*key);
        }
    }

    /// Nothing more of this layer will be needed.
    pub(super) fn expect_none_of(&mut self, layer: LayerId) {
        self.upcoming.retain(|key| key.layer != layer);
        self.expected.retain(|key| key.layer != layer);
    }

    /// This expert is no longer expected: it is being used.
    pub(super) fn is_met(&mut self, key: ExpertKey) {
        self.expected.remove(&key);
        if let Some(at) = self.upcoming.iter().position(|&upcoming| upcoming == key) {
            self.upcoming.remove(at);
        }
    }

    /// What a reader reads next: what a fetch waits for; else the first that will be needed, if there is room that
    /// nothing expected is in.
    pub(super) fn next_read(&mut self) -> Option<ExpertKey> {
        if let Some(key) = self.needed.pop_front() {
            return Some(key);
        }
        while let Some(&key) = self.upcoming.front() {
            let is_there = self.slots.contains_key(&key);
            if !is_there && !self.admit(key, Spared::Expected) {
                return None;
            }
            self.upcoming.pop_front();
            if !is_there {
                return Some(key);
            }
        }
        None
    }

    /// Makes room for an expert that is not there and marks it as being read. Not if nothing may make room for it.
    pub(super) fn admit(&mut self, key: ExpertKey, spared: Spared) -> bool {
        let (slots, expected) = (&self.slots, &self.expected);
        let stays = |key: ExpertKey| {
            let is_in_use = |slot: &Slot| slot.pins > 0 || matches!(slot.content, Content::Reading);
            slots.get(&key).is_some_and(is_in_use) || (spared == Spared::Expected && expected.contains(&key))
        };
        match self.policy.admit(key, stays) {
            Admission::Full => return false,
            Admission::Free => {}
            Admission::Evict(other) => drop(self.slots.remove(&other)),
        }
        self.slots.insert(key, Slot { content: Content::Reading, pins: 0 });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet, VecDeque};
    use std::sync::Arc;

    use cuvier_tensor::WeightMatrix;
    use cuvier_types::ExpertId;

    use super::*;
    use crate::checkpoint::Expert;
    use crate::expert_store::guesses::Guesses;
    use crate::expert_store::policy::Policy;

    fn key(layer: u16, expert: u16) -> ExpertKey {
        ExpertKey { layer: LayerId(layer), expert: ExpertId(expert) }
    }

    fn keys(layer: u16, experts: std::ops::Range<u16>) -> Vec<ExpertKey> {
        experts.map(|expert| key(layer, expert)).collect()
    }

    fn state(capacity: usize) -> State {
        State {
            policy: Policy::new(capacity),
            slots: HashMap::new(),
            needed: VecDeque::new(),
            upcoming: VecDeque::new(),
            expected: HashSet::new(),
            guesses: Guesses::new(4, 8),
            reads: Vec::new(),
            is_closing: false,
        }
    }

    /// As a reader does that is at once done.
    fn read(state: &mut State) -> Option<ExpertKey> {
        let read = state.next_read()?;
        let [w1, w3, w2] = std::array::from_fn(|_| WeightMatrix::from_f32(&[1.0], 1, 1));
        let slot = state.slots.get_mut(&read).expect("it has its room");
        slot.content = Content::Ready(Arc::new(Expert { w1, w3, w2 }));
        Some(read)
    }

    #[test]
    fn what_is_expected_is_read_in_the_order_of_need_and_once() {
        let mut state = state(8);
        state.expect(LayerId(1), &keys(1, 0..2));
        state.expect(LayerId(2), &keys(2, 0..1));
        state.expect_first(LayerId(0), &keys(0, 3..5));
        let order: Vec<_> = std::iter::from_fn(|| read(&mut state)).collect();
        assert_eq!(order, [key(0, 3), key(0, 4), key(1, 0), key(1, 1), key(2, 0)]);
        state.expect(LayerId(1), &keys(1, 0..3));
        assert_eq!(read(&mut state), Some(key(1, 2)), "the others are there");
        assert_eq!(read(&mut state), None);
    }

    #[test]
    fn what_is_read_ahead_takes_no_room_of_what_is_needed_before_it() {
        let mut state = state(3);
        state.expect_first(LayerId(0), &keys(0, 0..3));
        state.expect(LayerId(1), &keys(1, 0..3));
        let order: Vec<_> = std::iter::from_fn(|| read(&mut state)).collect();
        assert_eq!(order, keys(0, 0..3), "there is no room for more");
        state.is_met(key(0, 1));
        assert_eq!(read(&mut state), Some(key(1, 0)), "one was used");
        assert!(!state.slots.contains_key(&key(0, 1)));
        assert_eq!(read(&mut state), None);
    }

    #[test]
    fn what_a_fetch_waits_for_finds_room_whatever_is_expected() {
        let mut state = state(2);
        state.expect(LayerId(1), &keys(1, 0..2));
        assert_eq!([read(&mut state), read(&mut state)], [Some(key(1, 0)), Some(key(1, 1))]);
        assert!(!state.admit(key(0, 0), Spared::Expected));
        assert!(state.admit(key(0, 0), Spared::InUse));
        assert!(state.admit(key(0, 1), Spared::InUse));
        assert!(!state.admit(key(0, 2), Spared::InUse), "both are being read");
    }

    #[test]
    fn a_layer_is_expected_to_need_what_was_said_of_it_last() {
        let mut state = state(8);
        state.expect(LayerId(1), &keys(1, 0..4));
        state.expect(LayerId(1), &keys(1, 6..7));
        assert_eq!((read(&mut state), read(&mut state)), (Some(key(1, 6)), None));
        state.expect(LayerId(2), &keys(2, 0..2));
        state.expect_nothing();
        assert_eq!(read(&mut state), None);
        assert!(state.expected.is_empty());
    }
}
