//! Anticipatory routing: for a while after a spike of the loss, the experts of a step are those that the weights of some
//! steps before chose for its documents; what experts and router then compute is of the weights of now.
//!
//! The choice is made early: a forward pass over the documents of a step to come, of which only the experts are kept.
//!
//! Source: DeepSeek-V4 report, section on training stability. It does not say how a spike is told, how old the weights are,
//! or for how long; nor why it helps.

use std::collections::BTreeMap;

use cuvier_tensor::Matrix;

/// When, for how long, and how early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnticipationOptions {
    /// A loss is compared with those of so many steps before.
    pub window_steps: usize,
    /// It is a spike if it is above their median by more than so many times their median distance from it.
    pub spike: f64,
    /// So many steps old are the weights that choose, once it has gone on for that long.
    pub delay_steps: u64,
    /// So many steps after a spike it ends.
    pub for_steps: u64,
}

/// The experts of a step: for each part of its batch and each router by score, `[tokens, num_experts_per_tok]`.
pub type ChosenExperts = Vec<Vec<Matrix<u16>>>;

/// What a run remembers for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Anticipation {
    /// Of the last steps, the oldest first.
    pub(crate) losses: Vec<f32>,
    /// Before this step the choice is an early one.
    pub(crate) until: u64,
    /// What was chosen for steps to come.
    pub(crate) chosen: BTreeMap<u64, ChosenExperts>,
}

impl Anticipation {
    /// Whether the experts of a step are chosen early.
    pub fn is_on(&self, step: u64) -> bool {
        step < self.until
    }

    /// The steps whose experts the weights of step `step` are to choose before it is made: at first as many as there are
    /// until the delay is reached, then one.
    pub fn due(&self, options: &AnticipationOptions, step: u64) -> std::ops::Range<u64> {
        let next = self.chosen.last_key_value().map_or(step, |(last, _)| last + 1);
        if self.is_on(step) { next..step + options.delay_steps + 1 } else { 0..0 }
    }

    /// Keeps what was chosen for a step.
    pub fn put(&mut self, step: u64, chosen: ChosenExperts) {
        self.chosen.insert(step, chosen);
    }

    /// What was chosen for a step, unless it is to choose itself.
    pub fn take(&mut self, step: u64) -> Option<ChosenExperts> {
        if !self.is_on(step) {
            self.chosen.clear();
        }
        self.chosen.remove(&step)
    }

    /// Looks at the loss of a step.
    pub fn saw(&mut self, options: &AnticipationOptions, step: u64, loss: f64) {
        let loss = loss as f32;
        let is_full = self.losses.len() >= options.window_steps;
        if is_full && !self.is_on(step) && is_spike(&self.losses, options.spike, loss) {
            self.until = step + 1 + options.for_steps;
        }
        if is_full {
            self.losses.remove(0);
        }
        self.losses.push(loss);
    }
}

fn is_spike(losses: &[f32], spike: f64, loss: f32) -> bool {
    let middle = median(losses.to_vec());
    let distance = median(losses.iter().map(|loss| (loss - middle).abs()).collect());
    f64::from(loss) > f64::from(middle) + spike * f64::from(distance)
}

/// The middle one, of two the larger.
fn median(mut numbers: Vec<f32>) -> f32 {
    numbers.sort_by(f32::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: AnticipationOptions =
        AnticipationOptions { window_steps: 5, spike: 6.0, delay_steps: 2, for_steps: 4 };

    /// Steps 0 to 4 with losses around 2, whose median distance is 0.1.
    fn quiet() -> Anticipation {
        let mut anticipation = Anticipation::default();
        for (step, loss) in [2.1, 1.9, 2.0, 2.2, 1.9].into_iter().enumerate() {
            anticipation.saw(&OPTIONS, step as u64, loss);
        }
        anticipation
    }

    #[test]
    fn only_a_loss_far_above_the_median_of_a_full_window_is_a_spike() {
        let mut early = Anticipation::default();
        early.saw(&OPTIONS, 0, 1.0);
        early.saw(&OPTIONS, 1, 100.0);
        assert!(!early.is_on(2), "two steps are no window");
        for (loss, is_spike) in [(2.5, false), (2.59, false), (2.7, true), (0.1, false)] {
            let mut anticipation = quiet();
            anticipation.saw(&OPTIONS, 5, loss);
            assert_eq!(anticipation.is_on(6), is_spike, "{loss}");
        }
    }

    #[test]
    fn it_ends_when_its_steps_are_over_and_another_spike_begins_it_anew_only_then() {
        let mut anticipation = quiet();
        anticipation.saw(&OPTIONS, 5, 9.0);
        anticipation.saw(&OPTIONS, 6, 90.0);
        assert!(anticipation.is_on(9) && !anticipation.is_on(10));
        for step in 7..10 {
            anticipation.saw(&OPTIONS, step, 2.0);
        }
        anticipation.saw(&OPTIONS, 10, 900.0);
        assert!(anticipation.is_on(14) && !anticipation.is_on(15));
    }

    #[test]
    fn the_weights_that_choose_are_as_old_as_the_delay_once_that_many_steps_have_passed() {
        let mut anticipation = Anticipation { until: 20, ..Anticipation::default() };
        let mut ages = Vec::new();
        let mut chosen_at = BTreeMap::new();
        for step in 10..20 {
            for due in anticipation.due(&OPTIONS, step) {
                chosen_at.insert(due, step);
                anticipation.put(due, Vec::new());
            }
            assert!(anticipation.take(step).is_some());
            ages.push(step - chosen_at[&step]);
        }
        assert_eq!(ages, [0, 1, 2, 2, 2, 2, 2, 2, 2, 2]);
        assert!(anticipation.due(&OPTIONS, 20).is_empty());
        assert!(
            anticipation.take(20).is_none() && anticipation.chosen.is_empty(),
            "what is over is let go of"
        );
    }
}
