//! What was computed before, for whoever begins alike: states in memory and on disk, found by their exact tokens.
//!
//! A state belongs to its model, cache format and arithmetic, to the scope of its request, and to every token in it;
//! by law 1 a prompt that goes on from it is answered as if it had been computed from its first token.

mod disk;
mod memory;
mod plan;
mod stats;
#[cfg(test)]
mod toy;
mod trie;

use std::path::PathBuf;
use std::sync::Arc;

use cuvier_types::{SequenceId, TokenId};

use self::disk::Disk;
#[cfg(fuzzing)]
pub use self::disk::fuzz_disk_header;
pub(crate) use self::disk::{Opened, Ping};
pub(crate) use self::memory::Kind;
use self::memory::Memory;
pub(crate) use self::plan::points;
pub use self::stats::CacheStats;
pub(crate) use self::stats::Counters;
use self::trie::Root;
use crate::{CacheError, Model};

/// How much an engine keeps of what it computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// The most bytes of states in memory, those of running sequences apart; 0 keeps none.
    pub memory_bytes: u64,
    /// States that survive the process; `None` keeps none.
    pub disk: Option<DiskCache>,
}

impl Default for CacheConfig {
    /// 1 GiB of memory, no disk.
    fn default() -> Self {
        Self { memory_bytes: 1 << 30, disk: None }
    }
}

/// Where states are kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCache {
    /// A folder for nothing else, made where it is not there. One process at a time can have it. What users wrote can
    /// be read from its files, so it is made readable by its owner only.
    pub dir: PathBuf,
    /// The most bytes that its files may take.
    pub bytes_max: u64,
}

/// Tokens that a state on disk has to have more than one in memory to be read.
const DISK_GAIN_MIN: usize = 64;

/// Tokens behind the state that a prompt begins with, from which on a place where it leaves known texts is kept.
const PARTING_MIN: usize = 16;

/// Both tiers, as the engine's thread uses them.
pub(crate) struct Cache<M: Model> {
    model: u64,
    memory: Memory<M::State>,
    memory_is_on: bool,
    news: u64,
    disk: Option<Disk<M>>,
    counters: Arc<Counters>,
}

/// Where a prompt can begin.
pub(crate) enum Beginning<S> {
    /// Here, or at its first token.
    Now(Option<S>),
    /// A state is being read; [`Cache::restored`] gives it.
    Later,
}

/// Opens the disk tier of a config.
pub(crate) fn open_disk<M: Model>(
    config: &CacheConfig,
    counters: &Arc<Counters>,
) -> Result<Option<Opened>, CacheError> {
    config.disk.as_ref().map(|disk| Disk::<M>::open(disk, counters.clone())).transpose()
}

impl<M: Model> Cache<M> {
    pub(crate) fn new(
        model: &M,
        memory_bytes: u64,
        disk: Option<Opened>,
        ping: Ping,
        counters: Arc<Counters>,
    ) -> Result<Self, CacheError> {
        Ok(Self {
            model: model.identity(),
            memory: Memory::new(memory_bytes, counters.clone()),
            memory_is_on: memory_bytes > 0,
            news: 0,
            disk: disk.map(|opened| Disk::start(opened, ping)).transpose()?,
            counters,
        })
    }

    pub(crate) fn is_off(&self) -> bool {
        !self.memory_is_on && self.disk.is_none()
    }

    /// The state from which a prompt can go on, or the promise of one.
    pub(crate) fn begin(
        &mut self,
        model: &M,
        sequence: SequenceId,
        scope: u64,
        prompt: &[TokenId],
    ) -> Beginning<M::State> {
        let root = self.root(scope);
        if let Some(disk) = &self.disk {
            let here = self.memory.reach(root, prompt);
            if disk.reach(root, prompt) >= here + DISK_GAIN_MIN {
                disk.read(sequence, root, prompt, here, model.new_state());
                return Beginning::Later;
            }
        }
        let state = self.memory.longest(model, root, prompt);
        self.count_hit(state.as_ref(), prompt, false);
        Beginning::Now(state)
    }

    /// The next answer that a [`Beginning::Later`] waits for.
    pub(crate) fn restored(&mut self) -> Option<(SequenceId, Option<M::State>)> {
        let restored = self.disk.as_ref()?.restored()?;
        Some((restored.sequence, restored.state))
    }

    /// Chooses between what was restored and what memory has by now.
    pub(crate) fn begin_restored(
        &mut self,
        model: &M,
        scope: u64,
        prompt: &[TokenId],
        restored: Option<M::State>,
    ) -> Option<M::State> {
        let root = self.root(scope);
        let n_restored = restored.as_ref().map_or(0, M::position);
        if self.memory.reach(root, prompt) < n_restored
            && let Some(state) = restored
        {
            self.memory.keep::<M>(root, &prompt[..n_restored], model.fork(&state), Kind::End);
            self.count_hit(Some(&state), prompt, true);
            return Some(state);
        }
        let state = self.memory.longest(model, root, prompt);
        self.count_hit(state.as_ref(), prompt, false);
        state
    }

    /// Where a prompt that begins with `n_have` tokens of a state leaves all that is known here, if that is far enough
    /// behind them: where two texts part a third may, so a state is worth keeping there.
    pub(crate) fn parting(&self, scope: u64, prompt: &[TokenId], n_have: usize) -> Option<usize> {
        let root = self.root(scope);
        let on_disk = self.disk.as_ref().map_or(0, |disk| disk.known_tokens(root, prompt));
        let known = self.memory.known_tokens(root, prompt).max(on_disk);
        (known >= n_have + PARTING_MIN && known < prompt.len()).then_some(known)
    }

    /// A number that grows whenever something is kept.
    pub(crate) fn news(&self) -> u64 {
        self.news
    }

    /// A state with more than `n_have` tokens of a prompt that began with those.
    pub(crate) fn begin_late(
        &mut self,
        model: &M,
        scope: u64,
        prompt: &[TokenId],
        n_have: usize,
    ) -> Option<M::State> {
        let root = self.root(scope);
        if self.memory.reach(root, prompt) <= n_have {
            return None;
        }
        let state = self.memory.longest(model, root, prompt)?;
        let n_more = M::position(&state).checked_sub(n_have).filter(|&n_more| n_more > 0)?;
        self.counters.memory_hit_tokens.add(n_more);
        self.counters.miss_tokens.subtract(n_more);
        Some(state)
    }

    /// Keeps the state of exactly `tokens`, which `state` goes at or beyond, if it can still be taken there.
    pub(crate) fn keep(&mut self, model: &M, scope: u64, tokens: &[TokenId], state: &M::State, kind: Kind) {
        let root = self.root(scope);
        if self.memory_is_on {
            let whole = M::position(state) == tokens.len() && kind != Kind::Inside;
            let kept = if whole { Some(model.fork(state)) } else { M::at(state, tokens.len()) };
            if let Some(kept) = kept {
                self.memory.keep::<M>(root, tokens, kept, kind);
                self.news += 1;
            }
        }
    }

    /// Has the state of exactly `tokens` written to disk, on the same terms.
    pub(crate) fn write(&self, scope: u64, tokens: &[TokenId], state: &M::State, is_mark: bool) {
        if let Some(disk) = &self.disk {
            disk.write(self.root(scope), tokens, is_mark, || M::at(state, tokens.len()));
        }
    }

    fn root(&self, scope: u64) -> Root {
        Root { model: self.model, scope }
    }

    fn count_hit(&self, state: Option<&M::State>, prompt: &[TokenId], from_disk: bool) {
        let n_hit = state.map_or(0, M::position);
        let Counters { memory_hit_tokens, disk_hit_tokens, miss_tokens, .. } = &*self.counters;
        if from_disk { disk_hit_tokens } else { memory_hit_tokens }.add(n_hit);
        miss_tokens.add(prompt.len() - n_hit);
    }
}
