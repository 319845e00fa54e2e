//! Which topic a step belongs to.
//!
//! A text about one thing uses other experts than a text about another, in all layers at once, and what texts are about
//! comes back. A token of V4-Flash uses 258 experts, so that a few steps tell which of the known topics they are about: the
//! one whose uses foretold theirs best. A topic that is not known is noticed when the recent steps foretell the next ones
//! better than any known topic does; it begins with what they used.

/// How many topics are known at most; the one that was left longest ago makes room.
pub(super) const N: usize = 8;

/// What is left of the evidence of a step after the next one.
const KEPT: f64 = 0.8;

/// A topic changes when another was the better one by this much, in nats per use, and a new one begins by twice that.
const MARGIN: f64 = 0.02;

/// Steps in which a new topic may begin anew: it had begun with uses of the one before it.
const YOUNG_STEPS: u64 = 150;

/// Of what a topic foretells, the share of all uses, so that what it never used is not impossible; and of recent ones,
/// which count in all topics alike.
const COMMON: f64 = 0.1;
const RECENT: f64 = 0.2;

/// How likely a use was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foretold {
    /// By all uses. Above zero.
    pub common: f64,
    /// By recent ones.
    pub recent: f64,
    /// By those in each topic; of topics that are not known it does not count.
    pub topics: [f64; N],
}

/// The topic changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub from: usize,
    /// Where `is_new`, it may be the same place.
    pub to: usize,
    /// It begins with recent uses; else it is known.
    pub is_new: bool,
}

/// The evidence for each topic.
#[derive(Debug, Default)]
pub(super) struct Topics {
    current: usize,
    /// Steps that ended.
    step: u64,
    /// The last step of each topic; 0: it is not known.
    last: [u64; N],
    /// The step in which the current topic began, if it was not left since and not come back to.
    begun: Option<u64>,
    evidence: Evidence,
    /// Of this step, summed over uses.
    sums: Evidence,
    n_uses: u64,
}

/// Logarithms of likelihoods, per use.
#[derive(Clone, Copy, Debug, Default)]
struct Evidence {
    topics: [f64; N],
    /// Of a topic of which nothing is known but recent uses.
    new: f64,
}

impl Topics {
    /// The current one.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// An expert was used.
    pub(super) fn touch(&mut self, foretold: &Foretold) {
        let Foretold { common, recent, topics } = foretold;
        // Logarithms of topics that nobody knows are not worth their time: a prompt uses nearly all experts.
        let known = self.sums.topics.iter_mut().zip(topics).zip(&self.last).filter(|&(_, &last)| last > 0);
        for ((sum, own), _) in known {
            *sum += (COMMON * common + RECENT * recent + (1.0 - COMMON - RECENT) * own).ln();
        }
        self.sums.new += (COMMON * common + (1.0 - COMMON) * recent).ln();
        self.n_uses += 1;
    }

    /// A step ended. Says whether the next one is of another topic.
    pub(super) fn end_step(&mut self) -> Option<Turn> {
        self.step += 1;
        self.last[self.current] = self.step;
        if self.n_uses == 0 {
            return None;
        }
        self.gather();
        let (from, favour) = (self.current, |topic| if topic == self.current { MARGIN } else { 0.0 });
        let value = |topic: usize| self.evidence.topics[topic] + favour(topic);
        let known = (0..N).filter(|&topic| self.last[topic] > 0);
        let best = known.max_by(|&a, &b| value(a).total_cmp(&value(b))).unwrap_or(from);
        let turn = if self.evidence.new > value(best) + MARGIN {
            let is_young = best == from && self.begun.is_some_and(|begun| self.step - begun <= YOUNG_STEPS);
            let oldest = (0..N).min_by_key(|&topic| self.last[topic]).unwrap_or(from);
            Some(Turn { from, to: if is_young { from } else { oldest }, is_new: true })
        } else {
            (best != from).then_some(Turn { from, to: best, is_new: false })
        };
        self.follow(turn);
        turn
    }

    fn gather(&mut self) {
        let per_use = (1.0 - KEPT) / self.n_uses as f64;
        for (evidence, sum) in self.evidence.topics.iter_mut().zip(self.sums.topics) {
            *evidence = KEPT * *evidence + per_use * sum;
        }
        self.evidence.new = KEPT * self.evidence.new + per_use * self.sums.new;
        (self.sums, self.n_uses) = (Evidence::default(), 0);
    }

    fn follow(&mut self, turn: Option<Turn>) {
        let Some(Turn { from, to, is_new }) = turn else { return };
        self.current = to;
        if is_new {
            self.evidence.topics[to] = self.evidence.new;
        }
        if from != to {
            self.begun = is_new.then_some(self.step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of one use. Returns the turns.
    fn run(topics: &mut Topics, steps: usize, recent: f64, own: &[(usize, f64)]) -> Vec<Turn> {
        let mut foretold = Foretold { common: 0.01, recent, topics: [0.0; N] };
        own.iter().for_each(|&(topic, likelihood)| foretold.topics[topic] = likelihood);
        let step = |topics: &mut Topics| {
            topics.touch(&foretold);
            topics.end_step()
        };
        (0..steps).filter_map(|_| step(topics)).collect()
    }

    #[test]
    fn a_topic_stays_while_it_foretells_as_well_as_recent_steps_do() {
        let mut topics = Topics::default();
        assert_eq!(run(&mut topics, 100, 0.1, &[(0, 0.1), (3, 0.9)]), [], "the others are not known");
        assert_eq!(run(&mut topics, 1, 1.0, &[(0, 0.9)]), [], "one step is no evidence");
    }

    #[test]
    fn a_new_topic_begins_where_none_is_known_and_a_known_one_comes_back() {
        let mut topics = Topics::default();
        run(&mut topics, 10, 0.1, &[(0, 0.1)]);
        let turns = run(&mut topics, 10, 0.1, &[(0, 0.0), (1, 0.1)]);
        assert_eq!(turns, [Turn { from: 0, to: 1, is_new: true }]);
        let turns = run(&mut topics, 10, 0.0, &[(0, 0.1), (1, 0.0)]);
        assert_eq!((turns, topics.current()), (vec![Turn { from: 1, to: 0, is_new: false }], 0));
    }

    #[test]
    fn a_topic_that_began_with_uses_of_another_begins_anew_in_its_own_place() {
        let mut topics = Topics::default();
        run(&mut topics, 10, 0.1, &[(0, 0.1)]);
        run(&mut topics, 10, 0.1, &[(0, 0.0), (1, 0.1)]);
        assert_eq!(topics.current(), 1);
        let anew = run(&mut topics, 10, 0.2, &[(1, 0.1)]);
        assert!(
            !anew.is_empty() && anew.iter().all(|turn| *turn == Turn { from: 1, to: 1, is_new: true }),
            "{anew:?}"
        );
        run(&mut topics, YOUNG_STEPS as usize, 0.1, &[(1, 0.1)]);
        assert_eq!(run(&mut topics, 10, 0.2, &[(1, 0.1), (2, 0.2)]), [Turn { from: 1, to: 2, is_new: true }]);
    }

    #[test]
    fn the_topic_that_was_left_longest_ago_makes_room() {
        let mut topics = Topics::default();
        let to: Vec<usize> = (0..2 * N)
            .map(|round| {
                let next = (round + 1) % N;
                run(&mut topics, 10, 0.1, &[(next, 0.1)]);
                run(&mut topics, YOUNG_STEPS as usize, 0.1, &[(next, 0.1)]);
                topics.current()
            })
            .collect();
        assert_eq!(to[..N], [1, 2, 3, 4, 5, 6, 7, 0]);
        assert_eq!(to[N..], to[..N]);
    }

    #[test]
    fn steps_without_uses_change_nothing() {
        let mut topics = Topics::default();
        assert!((0..1000).all(|_| topics.end_step().is_none()));
        assert_eq!(topics.current(), 0);
    }
}
