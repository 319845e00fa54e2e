//! Which routed experts stay in memory: a pure state machine, no IO, clock, thread or tensor.
//!
//! All routed experts of a model are of one size, so capacity counts experts. The expert with the lowest score
//! leaves. A score is the number of steps that used the expert, older steps weighing less; it is kept for experts
//! that are not resident too, so that one that comes back is known.
//!
//! **Invariants:**
//! * Scores are a function of the steps and uses so far, never of the capacity or of what is resident. The policy
//!   is therefore a stack algorithm: for one history, what is resident with capacity `c` is resident with
//!   `c + 1`, and more memory never reads more.
//! * At most `capacity` experts are resident.

pub use cuvier_types::ExpertKey;

/// Steps after which a use counts half.
const HALF_LIFE_STEPS: f64 = 512.0;

/// Scores are scaled down by its reciprocal, exactly, when the weight of a use has reached it.
const RESCALE: f64 = (1u128 << 100) as f64;

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
/// use cuvier_types::{ExpertId, LayerId};
/// use cuvier_weights::expert_store::{Admission, ExpertKey, Policy};
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
    /// By layer and expert; grows to what was named.
    layers: Vec<Vec<Record>>,
    /// In no order.
    resident: Vec<ExpertKey>,
    /// Steps begun.
    step: u64,
    /// What a use in this step adds: it grows from step to step, which ages the older uses without touching them.
    weight: f64,
    /// Of the last use.
    layer: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    score: f64,
    /// The step of the last use; 0 before the first.
    used_in: u64,
    /// Its place in `Policy::resident`.
    slot: Option<usize>,
}

impl Policy {
    /// A policy that keeps at most `capacity` experts; none is resident.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, layers: Vec::new(), resident: Vec::new(), step: 0, weight: 1.0, layer: 0 }
    }

    /// A new step of the model: time moves on.
    pub fn begin_step(&mut self) {
        self.step += 1;
        self.weight *= (1.0 / HALF_LIFE_STEPS).exp2();
        if self.weight >= RESCALE {
            self.weight /= RESCALE;
            self.layers.iter_mut().flatten().for_each(|record| record.score /= RESCALE);
        }
    }

    /// This step uses the expert, resident or not. Counts once per step.
    pub fn touch(&mut self, key: ExpertKey) {
        let (step, weight) = (self.step, self.weight);
        self.layer = usize::from(key.layer.0);
        let record = self.record(key);
        // Before the first step there is no step to count.
        if record.used_in < step {
            record.used_in = step;
            record.score += weight;
        }
    }

    /// Whether the expert is resident.
    pub fn contains(&self, key: ExpertKey) -> bool {
        self.slot(key).is_some()
    }

    /// Makes the expert resident, unless every resident one is pinned. Of the rest the one leaves that was used
    /// least; among equals the one whose layer comes last from here.
    pub fn admit(&mut self, key: ExpertKey, is_pinned: impl Fn(ExpertKey) -> bool) -> Admission {
        if self.contains(key) {
            return Admission::Free;
        }
        let evicted = if self.resident.len() < self.capacity {
            None
        } else {
            let Some(victim) = self.victim(is_pinned) else { return Admission::Full };
            self.remove(victim);
            Some(victim)
        };
        let slot = self.resident.len();
        self.resident.push(key);
        self.record(key).slot = Some(slot);
        evicted.map_or(Admission::Free, Admission::Evict)
    }

    /// The expert is no longer resident; its history stays. Nothing happens if it was not.
    pub fn remove(&mut self, key: ExpertKey) {
        let Some(slot) = self.slot(key) else { return };
        self.record(key).slot = None;
        self.resident.swap_remove(slot);
        if let Some(&moved) = self.resident.get(slot) {
            self.record(moved).slot = Some(slot);
        }
    }

    /// How many experts are resident.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.resident.len()
    }

    /// How many experts may be resident.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// A scan of all residents: microseconds, before a read that takes a thousand times as long.
    fn victim(&self, is_pinned: impl Fn(ExpertKey) -> bool) -> Option<ExpertKey> {
        let candidates = self.resident.iter().copied().filter(|&key| !is_pinned(key));
        candidates.min_by(|&a, &b| {
            let scores = self.score(a).total_cmp(&self.score(b));
            scores.then_with(|| self.layers_ahead(b).cmp(&self.layers_ahead(a))).then_with(|| b.cmp(&a))
        })
    }

    /// How many layers run between the last use and the next possible use of this expert.
    fn layers_ahead(&self, key: ExpertKey) -> usize {
        let n_layers = self.layers.len();
        (usize::from(key.layer.0) + n_layers - self.layer - 1) % n_layers
    }

    fn score(&self, key: ExpertKey) -> f64 {
        self.layers[usize::from(key.layer.0)][usize::from(key.expert.0)].score
    }

    fn slot(&self, key: ExpertKey) -> Option<usize> {
        self.layers.get(usize::from(key.layer.0))?.get(usize::from(key.expert.0))?.slot
    }

    fn record(&mut self, key: ExpertKey) -> &mut Record {
        let (layer, expert) = (usize::from(key.layer.0), usize::from(key.expert.0));
        if self.layers.len() <= layer {
            self.layers.resize(layer + 1, Vec::new());
        }
        let layer = &mut self.layers[layer];
        if layer.len() <= expert {
            layer.resize(expert + 1, Record::default());
        }
        &mut layer[expert]
    }
}
