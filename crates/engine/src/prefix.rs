//! States of earlier requests, kept so that a prompt that begins alike is not computed again.

use std::collections::VecDeque;

use cuvier_types::TokenId;

use crate::Model;

/// A bounded number of states with the tokens they hold; the least recently used goes first.
pub(crate) struct PrefixCache<S> {
    kept_max: usize,
    /// Least recently used first.
    kept: VecDeque<Prefix<S>>,
}

struct Prefix<S> {
    /// Exactly the tokens in `state`.
    tokens: Vec<TokenId>,
    state: S,
}

impl<S> PrefixCache<S> {
    /// A cache for so many states; 0 keeps none.
    pub(crate) fn new(kept_max: usize) -> Self {
        Self { kept_max, kept: VecDeque::new() }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.kept_max == 0
    }

    /// Keeps a state that holds exactly `tokens`.
    pub(crate) fn keep(&mut self, tokens: &[TokenId], state: S) {
        if self.is_off() || tokens.is_empty() {
            return;
        }
        self.kept.retain(|prefix| prefix.tokens != tokens);
        self.kept.push_back(Prefix { tokens: tokens.to_vec(), state });
        if self.kept.len() > self.kept_max {
            self.kept.pop_front();
        }
    }

    /// A state that holds as much of the beginning of `prompt` as can be had, but not all of it: the last token
    /// has to be computed for its logits.
    pub(crate) fn longest<M: Model<State = S>>(&mut self, model: &M, prompt: &[TokenId]) -> Option<S> {
        let n_usable = prompt.len().saturating_sub(1);
        let mut candidates: Vec<(usize, usize)> = self
            .kept
            .iter()
            .map(|prefix| n_common(&prefix.tokens, prompt).min(n_usable))
            .enumerate()
            .map(|(index, n_common)| (n_common, index))
            .filter(|&(n_common, _)| n_common > 0)
            .collect();
        candidates.sort_unstable();
        candidates.into_iter().rev().find_map(|(n_common, index)| {
            let prefix = &self.kept[index];
            let mut state = model.fork(&prefix.state);
            let n_back = prefix.tokens.len() - n_common;
            if n_back > 0 && model.rollback(&mut state, n_back).is_err() {
                return None;
            }
            let used = self.kept.remove(index).expect("the index was just used");
            self.kept.push_back(used);
            Some(state)
        })
    }
}

fn n_common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
