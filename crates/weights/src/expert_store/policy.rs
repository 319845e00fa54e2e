//! Which routed experts stay in memory: a pure state machine, no IO, clock, thread or tensor.
//!
//! All routed experts of a model are of one size, so capacity counts experts. The expert leaves that is the least likely
//! to be used next. Its likelihood is a mixture of several memories: how often, of all uses in its layer, it was the one
//! used, over the last step, the last hundred, the last thousand, and all; and in all of those that were about the same
//! (see [`topics`]). Which memory is worth how much is learned as the model runs, from how well each foretold the uses
//! that came: where uses follow a fixed popularity the long memory wins, where topics change a shorter one, where they
//! come back that of the topic, where a token uses what the token before it used the shortest. A prefill that uses every
//! expert once makes all of a layer equal in the short memories and leaves the order of the long ones as it was, so it
//! drives out nothing for long. Layers run in a circle, so an expert of the layer to run next counts twice what it would
//! in the layer that just ran.
//!
//! **Invariants:**
//! * Likelihoods are a function of the steps and uses so far, never of the capacity or of what is resident;
//!   experts that left are remembered. The policy is therefore a stack algorithm: for one history, what is
//!   resident with capacity `c` is resident with `c + 1`, and more memory never reads more.
//! * At most `capacity` experts are resident.

#[cfg(test)]
mod tests;
mod topics;

use cuvier_types::{ExpertId, ExpertKey, LayerId};

use topics::{Foretold, Topics, Turn};

/// How many memories there are.
const N: usize = 5;

/// Steps after which a use counts half, for each memory. The first all but forgets what is older than a step; the last one
/// is of the current topic, and for it no time passes in others.
const HALF_LIVES_STEPS: [f64; N] = [0.25, 64.0, 512.0, 8192.0, 8192.0];
const RECENT: usize = 1;
const LONGEST: usize = 3;
const TOPIC: usize = 4;

/// How much one step changes what the memories are worth.
const LEARNING_RATE: f64 = 0.1;

/// No memory becomes worth less than this, so that it can come back.
const WORTH_MIN: f64 = 1e-3;

/// What became of an expert that was to be resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is resident, in room that was free, or was resident already.
    Free,
    /// It is resident in the place of this one.
    Evict(ExpertKey),
    /// It is not resident: every resident expert is pinned.
    Full,
}

/// Decides which routed experts are resident.
///
/// ```
/// use cuvier_types::{ExpertId, ExpertKey, LayerId};
/// use cuvier_weights::expert_store::{Admission, Policy};
///
/// let key = |expert| ExpertKey { layer: LayerId(0), expert: ExpertId(expert) };
/// let mut policy = Policy::new(2);
/// for step in [[0, 1], [0, 2]] {
///     policy.begin_step();
///     step.map(|expert| policy.touch(key(expert)));
///     for expert in step.map(key) {
///         if !policy.contains(expert) {
///             let admission = policy.admit(expert, |other| step.map(key).contains(&other));
///             assert_ne!(admission, Admission::Full);
///         }
///     }
/// }
/// assert!(policy.contains(key(0)) && !policy.contains(key(1)) && policy.contains(key(2)));
/// ```
#[derive(Debug)]
pub struct Policy {
    capacity: usize,
    n_resident: usize,
    /// Grows to what was named.
    layers: Vec<Layer>,
    /// Steps begun.
    step: u64,
    /// The layer of the last use.
    here: usize,
    /// What is left of a use after one step, for each memory.
    kept: [f64; N],
    /// What each memory is worth; the sum is about 1.
    worth: [f64; N],
    /// How much of this step's uses each memory foretold.
    foretold: [f64; N],
    topics: Topics,
}

#[derive(Clone, Debug, Default)]
struct Layer {
    experts: Vec<Record>,
    /// The step that used it last.
    step: u64,
    /// Of all experts together: their uses in each memory.
    uses: [f64; N],
    /// `uses` before this step's.
    uses_before: [f64; N],
    /// What a use in each memory adds to the likelihood of an expert.
    factors: [f64; N],
    /// Of all experts together: their uses in each topic that was left.
    left: [f64; topics::N],
    /// The resident expert that is the least likely and how likely it is; to be found again once something changed.
    lowest: Option<Option<(f64, u16)>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// Uses in each memory.
    uses: [f64; N],
    /// Uses in each topic, when it was left last.
    left: [f32; topics::N],
    /// The step of the last use; 0 before the first.
    step: u64,
    is_resident: bool,
}

impl Policy {
    /// A policy that keeps at most `capacity` experts; none is resident.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            n_resident: 0,
            layers: Vec::new(),
            step: 0,
            here: 0,
            kept: HALF_LIVES_STEPS.map(|half_life| (-1.0 / half_life).exp2()),
            worth: [1.0 / N as f64; N],
            foretold: [0.0; N],
            topics: Topics::default(),
        }
    }

    /// A new step of the model: time moves on.
    pub fn begin_step(&mut self) {
        self.step += 1;
        let foretold = std::mem::take(&mut self.foretold);
        let sum: f64 = foretold.iter().sum();
        if sum > 0.0 {
            for (worth, foretold) in self.worth.iter_mut().zip(foretold) {
                *worth = (*worth + LEARNING_RATE * (foretold / sum - *worth)).max(WORTH_MIN);
            }
        }
        if let Some(turn) = self.topics.end_step() {
            self.layers.iter_mut().for_each(|layer| layer.turn(turn, self.worth[TOPIC]));
        }
    }

    /// This step uses the expert, resident or not. Counts once per step.
    pub fn touch(&mut self, key: ExpertKey) {
        self.grow(key);
        self.here = usize::from(key.layer.0);
        let layer = &mut self.layers[self.here];
        if layer.step < self.step {
            layer.age(self.step, &self.kept);
        }
        let record = &mut layer.experts[usize::from(key.expert.0)];
        // Before the first step there is no step to count.
        if record.step == self.step {
            return;
        }
        record.step = self.step;
        let likelihoods: [f64; N] =
            std::array::from_fn(|memory| share(record.uses[memory], layer.uses_before[memory]));
        if likelihoods[LONGEST] > 0.0 {
            let mut topics =
                std::array::from_fn(|topic| share(f64::from(record.left[topic]), layer.left[topic]));
            topics[self.topics.current()] = likelihoods[TOPIC];
            let (common, recent) = (likelihoods[LONGEST], likelihoods[RECENT]);
            self.topics.touch(&Foretold { common, recent, topics });
        }
        let shares: [f64; N] = std::array::from_fn(|memory| self.worth[memory] * likelihoods[memory]);
        // A use that no memory knew of tells nothing about them.
        let likelihood: f64 = shares.iter().sum();
        if likelihood > 0.0 {
            self.foretold.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share / likelihood);
        }
        for memory in 0..N {
            record.uses[memory] += 1.0;
            layer.uses[memory] += 1.0;
            layer.factors[memory] = self.worth[memory] / layer.uses[memory];
        }
        layer.lowest = None;
    }

    /// Whether the expert is resident.
    pub fn contains(&self, key: ExpertKey) -> bool {
        let layer = self.layers.get(usize::from(key.layer.0));
        layer.and_then(|layer| layer.experts.get(usize::from(key.expert.0))).is_some_and(|it| it.is_resident)
    }

    /// Makes the expert resident, unless there is no room and every resident one is pinned. Of the rest the least
    /// likely leaves, the layers that run next counting more; among equals the one whose layer comes last from here.
    pub fn admit(&mut self, key: ExpertKey, is_pinned: impl Fn(ExpertKey) -> bool) -> Admission {
        if self.contains(key) {
            return Admission::Free;
        }
        let mut admission = Admission::Free;
        if self.n_resident >= self.capacity {
            let Some(victim) = self.victim(is_pinned) else { return Admission::Full };
            self.remove(victim);
            admission = Admission::Evict(victim);
        }
        self.grow(key);
        self.set_resident(key, true);
        self.n_resident += 1;
        admission
    }

    /// The expert is no longer resident; what is known of its uses stays. Nothing happens if it was not.
    pub fn remove(&mut self, key: ExpertKey) {
        if self.contains(key) {
            self.set_resident(key, false);
            self.n_resident -= 1;
        }
    }

    /// How many experts are resident.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.n_resident
    }

    /// How many experts may be resident.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn victim(&mut self, is_pinned: impl Fn(ExpertKey) -> bool) -> Option<ExpertKey> {
        let (n_layers, here) = (self.layers.len(), self.here);
        let lowest = self.layers.iter_mut().enumerate().filter_map(|(index, layer)| {
            let key = |expert| ExpertKey { layer: LayerId(index as u16), expert: ExpertId(expert) };
            let (likelihood, expert) = layer.lowest(|expert| is_pinned(key(expert)))?;
            // Layers that run before this expert can be used: what is needed sooner counts up to twice as much.
            let layers_ahead = (index + n_layers - here - 1) % n_layers;
            let nearness = 2.0 - layers_ahead as f64 / n_layers as f64;
            Some((likelihood * nearness, std::cmp::Reverse(layers_ahead), key(expert)))
        });
        let victim = lowest.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        victim.map(|(_, _, key)| key)
    }

    fn set_resident(&mut self, key: ExpertKey, is_resident: bool) {
        let layer = &mut self.layers[usize::from(key.layer.0)];
        layer.experts[usize::from(key.expert.0)].is_resident = is_resident;
        layer.lowest = None;
    }

    fn grow(&mut self, key: ExpertKey) {
        let (layer, expert) = (usize::from(key.layer.0), usize::from(key.expert.0));
        if self.layers.len() <= layer {
            self.layers.resize(layer + 1, Layer::default());
        }
        let experts = &mut self.layers[layer].experts;
        if experts.len() <= expert {
            experts.resize(expert + 1, Record::default());
        }
    }
}

/// Of all uses, those of one expert.
fn share(uses: f64, all: f64) -> f64 {
    if all > 0.0 { uses / all } else { 0.0 }
}

impl Layer {
    /// The next steps are about something else: the memory of one topic makes room for that of another.
    fn turn(&mut self, Turn { from, to, is_new }: Turn, worth: f64) {
        self.left[from] = self.uses[TOPIC];
        self.uses[TOPIC] = 0.0;
        for record in &mut self.experts {
            record.left[from] = record.uses[TOPIC] as f32;
            record.uses[TOPIC] = if is_new { record.uses[RECENT] } else { f64::from(record.left[to]) };
            self.uses[TOPIC] += record.uses[TOPIC];
        }
        self.factors[TOPIC] = share(worth, self.uses[TOPIC]);
        self.lowest = None;
    }

    /// A step begins to use the layer: what was used before counts less.
    fn age(&mut self, step: u64, kept: &[f64; N]) {
        self.step = step;
        let records = self.experts.iter_mut().map(|record| &mut record.uses);
        for uses in records.chain([&mut self.uses]) {
            for (uses, kept) in uses.iter_mut().zip(kept) {
                // Numbers too small to matter would become slow ones.
                *uses = if *uses > 1e-200 { *uses * kept } else { 0.0 };
            }
        }
        self.uses_before = self.uses;
    }

    /// The resident expert that is not pinned and the least likely, of the highest id among equals.
    fn lowest(&mut self, is_pinned: impl Fn(u16) -> bool) -> Option<(f64, u16)> {
        let lowest = match self.lowest {
            Some(lowest) => lowest,
            None => *self.lowest.insert(self.find_lowest(|_| false)),
        };
        match lowest {
            Some((_, expert)) if is_pinned(expert) => self.find_lowest(is_pinned),
            lowest => lowest,
        }
    }

    fn find_lowest(&self, is_pinned: impl Fn(u16) -> bool) -> Option<(f64, u16)> {
        let residents = (0..).zip(&self.experts).filter(|(_, record)| record.is_resident);
        let candidates = residents.filter(|(expert, _)| !is_pinned(*expert)).map(|(expert, record)| {
            let terms = record.uses.iter().zip(&self.factors).map(|(uses, factor)| uses * factor);
            (terms.sum(), expert)
        });
        candidates.min_by(|a: &(f64, u16), b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
    }
}
