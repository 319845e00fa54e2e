//! What changes while a model is trained, as functions of the step.

/// How the numbers of a run change over its steps.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleOptions {
    /// Learning rate between warm-up and decay.
    pub rate: f32,
    /// Steps in which the rate grows to that, linearly.
    pub warmup_steps: u64,
    /// The last share of the steps, in which the rate falls along a cosine.
    pub decay_share: f64,
    /// Where it ends, as a share of `rate`.
    pub end_share: f64,
    /// Tokens per step after the ramp.
    pub tokens_per_step: u64,
    /// Tokens of the first step, and the share of the steps in which they grow linearly.
    pub ramp: Option<Ramp>,
    /// Weight of the MTP loss before the decay, and from its beginning on.
    pub mtp_weight: [f32; 2],
    /// How far a router's bias moves per step, before the decay.
    pub bias_speed: f32,
    /// In order; the last one goes to the end.
    pub stages: Vec<Stage>,
}

/// A batch that grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// Tokens of the first step.
    pub from: u64,
    /// It is over after this share of the steps.
    pub share: f64,
}

/// A part of a run with sequences of one length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// It ends after this share of the steps.
    pub until: f64,
    /// The longest sequence, in tokens.
    pub max_len: usize,
    /// What CSA layers attend to.
    pub attention: StageAttention,
}

/// What CSA layers attend to in a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageAttention {
    /// Every compressed entry; the indexer selects nothing.
    Dense,
    /// What the indexer selects.
    Sparse,
}

/// The share of the steps at the end in which biases of routers stay.
const BIAS_FROZEN_SHARE: f64 = 0.1;
/// What is left of the speed of biases during the decay.
const BIAS_DECAY_FACTOR: f32 = 0.1;

/// The schedule of a run of known length. Steps count from 0; behind the last one, all stays as it was there.
///
/// Source: DeepSeek-V4 report, section on the training setup: warm-up, constant rate, cosine at the end; larger batches
/// and longer sequences as training goes on; a smaller MTP loss from the decay on. Where it gives no numbers, the
/// options do.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    options: ScheduleOptions,
    steps: u64,
}

impl Schedule {
    /// A run of `steps` steps.
    ///
    /// # Panics
    /// If there is no stage, or no step.
    pub fn new(options: ScheduleOptions, steps: u64) -> Self {
        assert!(!options.stages.is_empty() && steps > 0, "a stage and a step");
        Self { options, steps }
    }

    /// The steps in which a run sees at least `tokens` tokens, its ramp taken into account.
    pub fn steps_for_tokens(options: &ScheduleOptions, tokens: u64) -> u64 {
        // Over the ramp's share of the steps, half of what is missing at its beginning is missing on average.
        let missing = options
            .ramp
            .map_or(0.0, |ramp| 0.5 * ramp.share * options.tokens_per_step.saturating_sub(ramp.from) as f64);
        let mean = (options.tokens_per_step as f64 - missing).max(1.0);
        (tokens as f64 / mean).ceil().max(1.0) as u64
    }

    /// How many steps the run has.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The options it was made of.
    pub fn options(&self) -> &ScheduleOptions {
        &self.options
    }

    /// The learning rate: `rate` at the last step of the warm-up, `rate * end_share` at the last of all.
    pub fn rate(&self, step: u64) -> f32 {
        let o = &self.options;
        let decay_start = self.decay_start();
        let factor = if step < o.warmup_steps {
            (step + 1) as f64 / o.warmup_steps as f64
        } else if self.in_decay(step) {
            let of = (self.steps - decay_start).max(1);
            let done = (step.min(self.steps - 1) - decay_start + 1) as f64 / of as f64;
            let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
            o.end_share + (1.0 - o.end_share) * cosine
        } else {
            1.0
        };
        (f64::from(o.rate) * factor) as f32
    }

    /// Whether the rate falls.
    pub fn in_decay(&self, step: u64) -> bool {
        // A decay of no steps never begins, also behind the end.
        self.decay_start() < self.steps && step >= self.decay_start()
    }

    /// Tokens of the step's batch, to be brought to whole sequences.
    pub fn tokens(&self, step: u64) -> u64 {
        let full = self.options.tokens_per_step;
        let Some(ramp) = self.options.ramp else { return full };
        let ramp_steps = ramp.share * self.steps as f64;
        if step as f64 >= ramp_steps || ramp.from >= full {
            return full;
        }
        ramp.from + ((full - ramp.from) as f64 * (step as f64 / ramp_steps)) as u64
    }

    /// Weight of the MTP loss.
    pub fn mtp_weight(&self, step: u64) -> f32 {
        self.options.mtp_weight[usize::from(self.in_decay(step))]
    }

    /// How far a router's bias moves: the option's speed, a tenth of it in the decay, and nothing in the last tenth of
    /// the run.
    pub fn bias_speed(&self, step: u64) -> f32 {
        if step as f64 >= self.steps as f64 * (1.0 - BIAS_FROZEN_SHARE) {
            0.0
        } else if self.in_decay(step) {
            BIAS_DECAY_FACTOR * self.options.bias_speed
        } else {
            self.options.bias_speed
        }
    }

    /// The stage of a step, and its index.
    pub fn stage(&self, step: u64) -> (usize, Stage) {
        let stages = &self.options.stages;
        let ends_after = |stage: &Stage| (step as f64) < stage.until * self.steps as f64;
        let index = stages.iter().position(ends_after).unwrap_or(stages.len() - 1);
        (index, stages[index])
    }

    fn decay_start(&self) -> u64 {
        let start = (self.steps as f64 * (1.0 - self.options.decay_share)).round() as u64;
        start.max(self.options.warmup_steps).min(self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ScheduleOptions {
        let stage = |until, max_len, attention| Stage { until, max_len, attention };
        ScheduleOptions {
            rate: 0.01,
            warmup_steps: 10,
            decay_share: 0.25,
            end_share: 0.1,
            tokens_per_step: 1000,
            ramp: Some(Ramp { from: 200, share: 0.2 }),
            mtp_weight: [0.3, 0.1],
            bias_speed: 0.01,
            stages: vec![
                stage(0.6, 512, StageAttention::Dense),
                stage(0.8, 512, StageAttention::Sparse),
                stage(1.0, 2048, StageAttention::Sparse),
            ],
        }
    }

    #[test]
    fn the_rate_grows_to_its_peak_stays_and_falls_to_its_end() {
        let schedule = Schedule::new(options(), 100);
        let rates: Vec<f32> = (0..100).map(|step| schedule.rate(step)).collect();
        for (step, rate) in [(0, 0.001), (4, 0.005), (9, 0.01)] {
            assert!((rates[step] - rate).abs() < 1e-8, "{step}: {}", rates[step]);
        }
        assert!(rates[10..75].iter().all(|&rate| rate == 0.01));
        assert!(rates[75..].is_sorted_by(|a, b| a > b), "{:?}", &rates[75..]);
        // Half of the cosine lies between steps 87 and 88 of 75 to 99.
        assert!((rates[87] - 0.0055).abs() < 0.0003, "{}", rates[87]);
        assert!((rates[99] - 0.001).abs() < 1e-9, "{}", rates[99]);
        assert_eq!(schedule.rate(1000), rates[99]);
    }

    #[test]
    fn without_a_decay_the_rate_stays_and_a_warm_up_may_take_the_whole_run() {
        let schedule = Schedule::new(ScheduleOptions { decay_share: 0.0, ..options() }, 100);
        assert!((10..200).all(|step| schedule.rate(step) == 0.01 && !schedule.in_decay(step)));
        let short = Schedule::new(options(), 5);
        assert_eq!(short.rate(4), 0.005);
        assert!(!short.in_decay(4));
    }

    #[test]
    fn the_mtp_loss_weighs_less_from_the_beginning_of_the_decay() {
        let schedule = Schedule::new(options(), 100);
        assert_eq!((schedule.mtp_weight(74), schedule.mtp_weight(75)), (0.3, 0.1));
    }

    #[test]
    fn biases_move_slower_in_the_decay_and_not_at_the_end() {
        let schedule = Schedule::new(options(), 100);
        let speeds = [0, 74, 75, 89, 90, 99].map(|step| schedule.bias_speed(step));
        assert_eq!(speeds, [0.01, 0.01, 0.001, 0.001, 0.0, 0.0]);
    }

    #[test]
    fn batches_grow_to_their_size_and_the_steps_for_tokens_count_that() {
        let schedule = Schedule::new(options(), 100);
        let tokens: Vec<u64> = (0..100).map(|step| schedule.tokens(step)).collect();
        assert_eq!((tokens[0], tokens[10], tokens[20], tokens[99]), (200, 600, 1000, 1000));
        assert!(tokens.is_sorted());
        let steps = Schedule::steps_for_tokens(&options(), 1_000_000);
        let run = Schedule::new(options(), steps);
        let seen: u64 = (0..steps).map(|step| run.tokens(step)).sum();
        assert!((995_000..=1_005_000).contains(&seen), "{steps} steps: {seen}");
        let plain = ScheduleOptions { ramp: None, ..options() };
        assert_eq!(Schedule::steps_for_tokens(&plain, 10_001), 11);
    }

    #[test]
    fn stages_follow_each_other_and_the_last_one_stays() {
        let schedule = Schedule::new(options(), 100);
        let stages = [0, 59, 60, 79, 80, 99, 500].map(|step| schedule.stage(step).0);
        assert_eq!(stages, [0, 0, 1, 1, 2, 2, 2]);
        assert_eq!(schedule.stage(80).1.max_len, 2048);
    }
}
