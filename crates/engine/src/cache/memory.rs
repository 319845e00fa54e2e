//! States in memory: found by their tokens, bounded by the bytes that they really hold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cuvier_types::TokenId;

use super::plan::is_kept_inside;
use super::stats::Counters;
use super::trie::{Match, NodeId, Root, Trie};
use crate::Model;

/// No state is asked to take back more tokens, even if it can.
const ROLLBACK_MAX: usize = 32;

/// Why a state is kept, the weakest reason first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// It lies inside a text; it goes when the text has grown far beyond it.
    Inside,
    /// A prompt or an answer ended here.
    End,
    /// A caller says that others will begin alike. Whoever goes on from behind it keeps it young.
    Mark,
}

/// The memory tier. Over its bound, the least recently used state goes first.
pub(crate) struct Memory<S> {
    bytes_max: u64,
    trie: Trie<StateId, ()>,
    kept: HashMap<StateId, Kept<S>>,
    /// The least recently used first.
    by_age: BTreeMap<u64, StateId>,
    now: u64,
    next: u64,
    pages: Pages,
    counters: Arc<Counters>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct StateId(u64);

struct Kept<S> {
    state: S,
    at: NodeId,
    n_tokens: usize,
    /// Tokens that it can take back.
    n_back_max: usize,
    kind: Kind,
    used: u64,
}

/// Bytes of states: those of shared pages counted once.
#[derive(Default)]
struct Pages {
    /// By address: how many states hold a page.
    holders: HashMap<usize, u32>,
    bytes: u64,
}

impl<S> Memory<S> {
    /// At most so many bytes; 0 keeps nothing.
    pub(crate) fn new(bytes_max: u64, counters: Arc<Counters>) -> Self {
        Self {
            bytes_max,
            trie: Trie::new(ROLLBACK_MAX),
            kept: HashMap::new(),
            by_age: BTreeMap::new(),
            now: 0,
            next: 0,
            pages: Pages::default(),
            counters,
        }
    }

    /// Keeps a state that holds exactly `tokens`, unless one is kept for as good a reason.
    pub(crate) fn keep<M: Model<State = S>>(&mut self, root: Root, tokens: &[TokenId], state: S, kind: Kind) {
        if tokens.is_empty() || whole_bytes::<M>(&state) > self.bytes_max {
            return;
        }
        let same = self
            .trie
            .nearest(root, tokens, tokens.len())
            .into_iter()
            .find(|found| found.len == tokens.len() && found.n_common == tokens.len());
        if let Some(same) = same {
            if self.kept[&same.key].kind >= kind {
                return self.touch(same.key);
            }
            self.forget::<M>(same.key);
        }
        self.thin::<M>(root, tokens);
        let id = StateId(self.next);
        self.next += 1;
        self.pages.add::<M>(&state);
        let at = self.trie.insert(root, tokens, id);
        let (n_tokens, n_back_max) = (tokens.len(), M::rollback_max(&state).min(ROLLBACK_MAX));
        self.kept.insert(id, Kept { state, at, n_tokens, n_back_max, kind, used: 0 });
        self.touch(id);
        while self.bytes() > self.bytes_max {
            let Some((_, &oldest)) = self.by_age.first_key_value() else { break };
            self.forget::<M>(oldest);
            self.counters.memory_evictions.add(1);
        }
        self.count();
    }

    /// How many tokens of the beginning of `prompt` [`Memory::longest`] would give.
    pub(crate) fn reach(&self, root: Root, prompt: &[TokenId]) -> usize {
        self.nearest(root, prompt).next().map_or(0, |found| found.n_common)
    }

    /// How many tokens of the beginning of `prompt` some text here begins with too, whether or not a state has them.
    pub(crate) fn known_tokens(&self, root: Root, prompt: &[TokenId]) -> usize {
        self.trie.known(root, prompt)
    }

    fn nearest(&self, root: Root, prompt: &[TokenId]) -> impl Iterator<Item = Match<StateId>> {
        let found = self.trie.nearest(root, prompt, prompt.len().saturating_sub(1));
        found.into_iter().filter(|found| found.len - found.n_common <= self.kept[&found.key].n_back_max)
    }

    /// A state that holds as much of the beginning of `prompt` as can be had, but not all of it: the last token
    /// has to be computed for its logits.
    pub(crate) fn longest<M: Model<State = S>>(
        &mut self,
        model: &M,
        root: Root,
        prompt: &[TokenId],
    ) -> Option<S> {
        let (id, state) = self.nearest(root, prompt).find_map(|found| {
            let mut state = model.fork(&self.kept[&found.key].state);
            let n_back = found.len - found.n_common;
            (n_back == 0 || model.rollback(&mut state, n_back).is_ok()).then_some((found.key, state))
        })?;
        for passed in self.trie.passed(root, &prompt[..M::position(&state)]) {
            if self.kept[&passed].kind == Kind::Mark {
                self.touch(passed);
            }
        }
        self.touch(id);
        Some(state)
    }

    /// Lets go of states inside the text that lie too far from its end by now to be kept so densely.
    fn thin<M: Model<State = S>>(&mut self, root: Root, tokens: &[TokenId]) {
        for id in self.trie.passed(root, tokens) {
            let kept = &self.kept[&id];
            if kept.kind == Kind::Inside && !is_kept_inside(kept.n_tokens, tokens.len()) {
                self.forget::<M>(id);
            }
        }
    }

    fn touch(&mut self, id: StateId) {
        self.now += 1;
        let kept = self.kept.get_mut(&id).expect("only what is kept is touched");
        self.by_age.remove(&kept.used);
        kept.used = self.now;
        self.by_age.insert(self.now, id);
    }

    fn forget<M: Model<State = S>>(&mut self, id: StateId) {
        let kept = self.kept.remove(&id).expect("only what is kept is forgotten");
        self.by_age.remove(&kept.used);
        self.trie.remove(kept.at, id);
        self.pages.remove::<M>(&kept.state);
    }

    /// Bytes of everything here.
    fn bytes(&self) -> u64 {
        self.pages.bytes + self.trie.bytes() as u64
    }

    fn count(&self) {
        self.counters.memory_entries.set(self.kept.len() as u64);
        self.counters.memory_bytes.set(self.bytes());
    }
}

impl Pages {
    fn add<M: Model>(&mut self, state: &M::State) {
        let mut new = 0;
        let own = M::memory(state, &mut |address, bytes| {
            let n = self.holders.entry(address).or_insert(0);
            *n += 1;
            new += if *n == 1 { bytes } else { 0 };
        });
        self.bytes += (new + own) as u64;
    }

    fn remove<M: Model>(&mut self, state: &M::State) {
        let mut gone = 0;
        let own = M::memory(state, &mut |address, bytes| {
            let n = self.holders.get_mut(&address).expect("a held page was counted");
            *n -= 1;
            if *n == 0 {
                self.holders.remove(&address);
                gone += bytes;
            }
        });
        self.bytes -= (gone + own) as u64;
    }
}

fn whole_bytes<M: Model>(state: &M::State) -> u64 {
    let mut pages = 0;
    let own = M::memory(state, &mut |_, bytes| pages += bytes);
    (pages + own) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::cache::toy::{OWN_BYTES, PAGE_BYTES, Toy, ToyState};
    use crate::cache::trie::n_common;

    const HERE: Root = Root { model: 1, scope: 2 };

    fn text() -> impl Strategy<Value = Vec<TokenId>> {
        prop::collection::vec((0u32..2, 60usize..200), 1..6).prop_map(|runs| {
            runs.into_iter().flat_map(|(token, n)| std::iter::repeat_n(TokenId(token), n)).collect()
        })
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Inside), Just(Kind::End), Just(Kind::Mark)]
    }

    /// By looking at every state.
    fn recount(memory: &Memory<ToyState>) -> u64 {
        let mut pages = HashMap::new();
        memory.kept.values().for_each(|kept| {
            Toy::memory(&kept.state, &mut |address, bytes| _ = pages.insert(address, bytes));
        });
        (pages.values().sum::<usize>() + OWN_BYTES * memory.kept.len()) as u64
    }

    proptest! {
        #[test]
        fn bytes_are_those_held_bounds_are_kept_and_what_is_found_is_the_longest(
            steps in prop::collection::vec((text(), kind(), any::<bool>()), 1..40),
            bytes_max in 0u64..40_000,
        ) {
            let counters = Arc::new(Counters::default());
            let mut memory = Memory::new(bytes_max, counters.clone());
            for (tokens, kind, asks) in steps {
                let n_max = tokens.len() - 1;
                let usable = |kept: &Kept<ToyState>| {
                    let n = n_common(&kept.state.tokens(), &tokens).min(n_max);
                    if kept.n_tokens - n <= kept.n_back_max { n } else { 0 }
                };
                let want = memory.kept.values().map(usable).max().unwrap_or(0);
                let found = memory.longest(&Toy, HERE, &tokens);
                prop_assert_eq!(found.as_ref().map_or(0, Toy::position), want);
                prop_assert!(found.as_ref().is_none_or(|state| tokens.starts_with(&state.tokens())));
                if !asks {
                    let state = found.map_or_else(|| ToyState::new(&tokens), |state| state.grown_to(&tokens));
                    let slim = Toy::at(&state, tokens.len()).unwrap();
                    memory.keep::<Toy>(HERE, &tokens, if kind == Kind::Inside { slim } else { state }, kind);
                }
                prop_assert_eq!(memory.pages.bytes, recount(&memory));
                prop_assert!(memory.bytes() <= bytes_max || memory.kept.is_empty());
                prop_assert_eq!(memory.by_age.len(), memory.kept.len());
                let other = Root { scope: 3, ..HERE };
                prop_assert!(memory.longest(&Toy, other, &tokens).is_none());
            }
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_marks_that_were_passed_stay_young() {
        let texts: Vec<Vec<TokenId>> =
            (0..4).map(|n| (1000 * n..1000 * n + 100).map(TokenId).collect()).collect();
        let mut memory = Memory::new(4 * 2_400, Arc::new(Counters::default()));
        let keep = |memory: &mut Memory<ToyState>, tokens: &[TokenId], kind| {
            memory.keep::<Toy>(HERE, tokens, ToyState::new(tokens), kind);
        };
        keep(&mut memory, &texts[0][..50], Kind::Mark);
        keep(&mut memory, &texts[1], Kind::End);
        keep(&mut memory, &texts[0], Kind::End);
        assert!(memory.longest(&Toy, HERE, &[&texts[0][..], &[TokenId(9)]].concat()).is_some());
        keep(&mut memory, &texts[2], Kind::End);
        let mut n = 0;
        while memory.reach(HERE, &[&texts[1][..], &[TokenId(9)]].concat()) > 0 {
            n += 1;
            let filler: Vec<TokenId> = (5000 + 100 * n..5100 + 100 * n).map(TokenId).collect();
            keep(&mut memory, &filler, Kind::End);
        }
        assert_eq!(memory.reach(HERE, &texts[0][..60]), 50, "the mark was passed later");
        assert_eq!(memory.reach(HERE, &[&texts[2][..], &[TokenId(9)]].concat()), 100);
    }

    #[test]
    fn states_inside_a_text_grow_sparser_as_it_grows() {
        let tokens: Vec<TokenId> = (0..20_000).map(TokenId).collect();
        let mut memory = Memory::new(u64::MAX, Arc::new(Counters::default()));
        let mut state = ToyState::new(&[]);
        for end in (128..=20_000).step_by(128) {
            state = state.grown_to(&tokens[..end]);
            memory.keep::<Toy>(HERE, &tokens[..end], Toy::at(&state, end).unwrap(), Kind::Inside);
        }
        assert!(memory.kept.len() < 80, "{}", memory.kept.len());
        assert_eq!(memory.pages.bytes as usize, (19_968 / 128) * PAGE_BYTES + memory.kept.len() * OWN_BYTES);
        for cut in [500, 5_000, 12_000, 19_000] {
            let reach = memory.reach(HERE, &tokens[..cut]);
            assert!(cut - reach <= 129.max((20_000 - reach) / 16), "{reach} of {cut}");
        }
    }

    #[test]
    fn a_state_larger_than_the_bound_sends_nothing_away() {
        let tokens: Vec<TokenId> = (0..20_000).map(TokenId).collect();
        let mut memory = Memory::new(10_000, Arc::new(Counters::default()));
        memory.keep::<Toy>(HERE, &tokens[..100], ToyState::new(&tokens[..100]), Kind::End);
        memory.keep::<Toy>(HERE, &tokens, ToyState::new(&tokens), Kind::End);
        assert_eq!((memory.kept.len(), memory.reach(HERE, &tokens)), (1, 100));
    }
}
