//! Replays of a trace with a bounded memory: how many experts must be read.
//!
//! The experts that a layer uses in a step are needed together, so none of them makes room for another. Each is
//! read when it is needed and not resident. Where a set alone exceeds the memory, the rest of it is read and not
//! kept.

use std::collections::BTreeSet;

use cuvier_types::ExpertKey;
use cuvier_weights::expert_store::Policy;

use crate::trace::{Process, Trace, key};

/// The experts that `Policy` reads.
pub fn policy_reads(trace: &Trace, capacity: usize) -> usize {
    let mut policy = Policy::new(capacity);
    let mut reads = 0;
    for step in &trace.steps {
        policy.begin_step();
        for (layer, experts) in step.iter().enumerate() {
            let is_needed = |other: ExpertKey| {
                usize::from(other.layer.0) == layer && experts.binary_search(&other.expert.0).is_ok()
            };
            experts.iter().for_each(|&expert| policy.touch(key(layer, expert)));
            for expert in experts.iter().map(|&expert| key(layer, expert)) {
                if !policy.contains(expert) {
                    reads += 1;
                    policy.admit(expert, is_needed);
                }
            }
        }
    }
    reads
}

/// A textbook rule: the resident expert of the lowest rank leaves first.
pub trait Rule {
    /// The rank of `expert` from now on; `now` is the number of the set that uses it.
    fn used(&mut self, expert: usize, now: usize) -> u64;
    /// `expert` is no longer resident.
    fn evicted(&mut self, _expert: usize) {}
    /// Experts that have another rank from set `now` on, whether it uses them or not.
    fn changed(&mut self, _now: usize) -> Vec<(usize, u64)> {
        Vec::new()
    }
}

/// The experts that `rule` reads. Every set is ascending.
pub fn reads(sets: &[Vec<usize>], capacity: usize, rule: &mut dyn Rule) -> usize {
    let mut ranks: Vec<Option<u64>> = vec![None; n_experts(sets)];
    let mut resident: BTreeSet<(u64, usize)> = BTreeSet::new();
    let mut reads = 0;
    for (now, set) in sets.iter().enumerate() {
        for (expert, rank) in rule.changed(now) {
            if let Some(before) = &mut ranks[expert] {
                resident.remove(&(*before, expert));
                resident.insert((rank, expert));
                *before = rank;
            }
        }
        for &expert in set {
            match ranks[expert] {
                Some(rank) => {
                    resident.remove(&(rank, expert));
                }
                None => reads += 1,
            }
            let rank = rule.used(expert, now);
            ranks[expert] = Some(rank);
            resident.insert((rank, expert));
        }
        while resident.len() > capacity {
            let free = resident.iter().find(|(_, expert)| set.binary_search(expert).is_err());
            let Some(&victim) = free.or_else(|| resident.first()) else { break };
            resident.remove(&victim);
            ranks[victim.1] = None;
            rule.evicted(victim.1);
        }
    }
    reads
}

fn n_experts(sets: &[Vec<usize>]) -> usize {
    sets.iter().flatten().max().map_or(0, |largest| largest + 1)
}

/// The one that was used longest ago leaves.
pub struct Lru;

impl Rule for Lru {
    fn used(&mut self, _expert: usize, now: usize) -> u64 {
        now as u64
    }
}

/// The one that was used least leaves; among equals the one that was used longest ago.
pub struct Lfu {
    counts: Vec<u64>,
    forgets: bool,
}

impl Lfu {
    /// Counts all uses since the beginning.
    pub fn perfect(sets: &[Vec<usize>]) -> Self {
        Self { counts: vec![0; n_experts(sets)], forgets: false }
    }

    /// Counts uses since the expert was read last.
    pub fn in_cache(sets: &[Vec<usize>]) -> Self {
        Self { forgets: true, ..Self::perfect(sets) }
    }
}

impl Rule for Lfu {
    fn used(&mut self, expert: usize, now: usize) -> u64 {
        self.counts[expert] += 1;
        (self.counts[expert] << 32) | now as u64
    }

    fn evicted(&mut self, expert: usize) {
        if self.forgets {
            self.counts[expert] = 0;
        }
    }
}

/// The one that the whole trace uses least often leaves: that is known of the future.
pub struct Popular {
    counts: Vec<u64>,
}

impl Popular {
    /// For exactly these sets.
    pub fn in_hindsight(sets: &[Vec<usize>]) -> Self {
        let mut counts = vec![0; n_experts(sets)];
        sets.iter().flatten().for_each(|&expert| counts[expert] += 1);
        Self { counts }
    }
}

impl Rule for Popular {
    fn used(&mut self, expert: usize, _now: usize) -> u64 {
        self.counts[expert]
    }
}

/// The one leaves that the next token of its layer is the least likely to use, by the very process that the trace was drawn
/// by: current topic, popularity in it, what the last token used. It knows all but the draws. Where draws are independent
/// none that does not see them does better (Aho, Denning and Ullman, "Principles of optimal page replacement", 1971).
pub struct Foresight<'a> {
    trace: &'a Trace,
    process: &'a Process,
    topic: usize,
    /// By expert, whether the last token of its layer used it.
    is_last: Vec<bool>,
}

impl<'a> Foresight<'a> {
    /// `None`: nobody knows how the trace came about.
    pub fn of(trace: &'a Trace) -> Option<Self> {
        let process = trace.process.as_ref()?;
        Some(Self { trace, process, topic: usize::MAX, is_last: vec![false; trace.n_total()] })
    }

    /// In proportion to the chance that the next token uses it.
    fn rank(&self, expert: usize) -> u64 {
        let Process { chances, sticky, per_token, .. } = self.process;
        // Those that stay leave fewer draws to the others.
        let draws = *per_token as f64 * (1.0 - sticky);
        let drawn = 1.0 - (1.0 - chances[self.topic][expert]).powf(draws);
        let chance = if self.is_last[expert] { sticky + (1.0 - sticky) * drawn } else { drawn };
        (chance * (1_u64 << 52) as f64) as u64
    }
}

impl Rule for Foresight<'_> {
    fn used(&mut self, expert: usize, _now: usize) -> u64 {
        self.rank(expert)
    }

    fn changed(&mut self, now: usize) -> Vec<(usize, u64)> {
        let (step, layer) = (now / self.trace.n_layers, now % self.trace.n_layers);
        let of_layer = layer * self.trace.n_experts..(layer + 1) * self.trace.n_experts;
        let was_last = self.is_last[of_layer.clone()].to_vec();
        self.is_last[of_layer.clone()].fill(false);
        for &expert in &self.process.last[step][layer] {
            self.is_last[of_layer.start + usize::from(expert)] = true;
        }
        let is_new = std::mem::replace(&mut self.topic, self.process.topics[step]) != self.topic;
        let ranked = |expert: usize| (expert, self.rank(expert));
        if is_new {
            return (0..self.is_last.len()).map(ranked).collect();
        }
        let start = of_layer.start;
        of_layer.filter(|&expert| self.is_last[expert] != was_last[expert - start]).map(ranked).collect()
    }
}

/// Belady's optimum: the one that is needed again last leaves. It knows the future.
pub struct Belady {
    /// Of each expert, the sets to come that use it; the next is last.
    uses: Vec<Vec<usize>>,
}

impl Belady {
    /// For exactly these sets.
    pub fn new(sets: &[Vec<usize>]) -> Self {
        let mut uses = vec![Vec::new(); n_experts(sets)];
        for (now, set) in sets.iter().enumerate().rev() {
            set.iter().for_each(|&expert| uses[expert].push(now));
        }
        Self { uses }
    }
}

impl Rule for Belady {
    fn used(&mut self, expert: usize, now: usize) -> u64 {
        let uses = &mut self.uses[expert];
        while uses.last().is_some_and(|&next| next <= now) {
            uses.pop();
        }
        uses.last().map_or(0, |&next| u64::MAX - next as u64)
    }
}
