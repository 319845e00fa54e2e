//! The formulas, on numbers alone.

/// Constants of the objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// How far the ratio of probabilities may be from 1 before it stops to count.
    pub epsilon: f32,
    /// Weight of the distance to the reference.
    pub beta: f32,
    /// Bad answers that the policy has moved away from by more than this, in nats per token, do not count.
    pub delta: f32,
}

/// The advantage of each answer of a group: its reward less the group's mean. It is not divided by the deviation, which
/// would favour questions that are nearly always or nearly never answered.
///
/// Source: DeepSeek-V3.2 report, section on reinforcement learning.
pub fn advantages(rewards: &[f32]) -> Vec<f32> {
    let mean = rewards.iter().sum::<f32>() / rewards.len().max(1) as f32;
    rewards.iter().map(|reward| reward - mean).collect()
}

/// Whether an answer is left out: it is worse than its group, and the policy has moved away from it since it was drawn.
///
/// `old` and `new` are log-probabilities of its tokens, when it was drawn and now.
///
/// Source: DeepSeek-V3.2 report, section on reinforcement learning, off-policy sequence masking.
pub fn is_off_policy(policy: Policy, advantage: f32, old: &[f32], new: &[f32]) -> bool {
    let moved = old.iter().zip(new).map(|(old, new)| old - new).sum::<f32>() / old.len().max(1) as f32;
    advantage < 0.0 && moved > policy.delta
}

/// One token of an answer: what it adds to the objective, and how fast that grows with its log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenTerm {
    /// `min(r A, clip(r) A) - beta * r * k3`.
    pub objective: f32,
    /// Its derivative by the log-probability of now.
    pub slope: f32,
    /// Whether the ratio stopped to count.
    pub is_clipped: bool,
    /// `k3`: an estimate of the distance to the reference, in nats.
    pub distance: f32,
}

impl Policy {
    /// The term of a token whose log-probability was `old` when it was drawn, is `new` now and is `reference` under the
    /// reference: with `r = e^(new - old)` and `k3 = e^(reference - new) - (reference - new) - 1`.
    ///
    /// Weighing the distance by `r` makes it an unbiased estimate, and its gradient that of the distance.
    ///
    /// Source: DeepSeek-V3.2 report, section on reinforcement learning.
    pub fn term(self, advantage: f32, old: f32, new: f32, reference: f32) -> TokenTerm {
        let ratio = (new - old).exp();
        let clipped = ratio.clamp(1.0 - self.epsilon, 1.0 + self.epsilon);
        let is_clipped = clipped * advantage < ratio * advantage;
        let log = reference - new;
        let distance = log.exp() - log - 1.0;
        let gain = if is_clipped { clipped * advantage } else { ratio * advantage };
        let slope = if is_clipped { 0.0 } else { ratio * advantage };
        // d/dnew of r * k3: r * k3 by the ratio, r * (1 - e^(reference - new)) by the distance.
        let distance_slope = ratio * (distance + 1.0 - log.exp());
        TokenTerm {
            objective: gain - self.beta * ratio * distance,
            slope: slope - self.beta * distance_slope,
            is_clipped,
            distance,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { epsilon: 0.2, beta: 0.1, delta: 0.5 };

    #[test]
    fn a_group_of_equal_rewards_teaches_nothing_and_advantages_sum_to_zero() {
        assert_eq!(advantages(&[1.0, 1.0, 1.0]), [0.0, 0.0, 0.0]);
        assert_eq!(advantages(&[1.0, 0.0, 0.0, 0.0]), [0.75, -0.25, -0.25, -0.25]);
        assert_eq!(advantages(&[]), Vec::<f32>::new());
    }

    #[test]
    fn the_slope_is_the_derivative_of_the_objective() {
        for advantage in [-0.7, 0.0, 0.6] {
            for new in [-2.0, -1.5, -1.4, -1.2, -0.4] {
                let term = |new: f64| {
                    let ratio = (new + 1.5).exp();
                    let clipped = ratio.clamp(0.8, 1.2);
                    let log = -1.1 - new;
                    let advantage = f64::from(advantage);
                    (ratio * advantage).min(clipped * advantage) - 0.1 * ratio * (log.exp() - log - 1.0)
                };
                let h = 1e-5;
                let new = f64::from(new as f32);
                let want = (term(new + h) - term(new - h)) / (2.0 * h);
                let got = POLICY.term(advantage, -1.5, new as f32, -1.1);
                assert!((f64::from(got.slope) - want).abs() < 2e-4, "{advantage} {new}: {got:?}, not {want}");
                assert!((f64::from(got.objective) - term(new)).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn a_ratio_that_is_already_far_in_the_right_direction_stops_to_count() {
        let term = |advantage, new| Policy { beta: 0.0, ..POLICY }.term(advantage, -1.0, new, -1.0);
        assert!(term(1.0, -0.5).is_clipped && term(-1.0, -2.0).is_clipped);
        assert!(!term(1.0, -2.0).is_clipped && !term(-1.0, -0.5).is_clipped);
        assert_eq!(term(1.0, -0.5).slope, 0.0);
    }

    #[test]
    fn only_bad_answers_that_the_policy_has_left_are_masked() {
        let (old, left) = ([-1.0, -1.0], [-2.0, -1.5]);
        assert!(is_off_policy(POLICY, -0.1, &old, &left));
        assert!(!is_off_policy(POLICY, 0.1, &old, &left));
        assert!(!is_off_policy(POLICY, -0.1, &old, &[-1.2, -1.2]));
    }
}
