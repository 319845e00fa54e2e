//! Samples drawn from the half that training never sees.

use std::collections::HashSet;

use cuvier_train::data::{Rng, Sample};
use serde_json::{Map, Value, json};

/// Draws for each sample that is wanted, before there are taken to be no others.
const DRAWS_PER_SAMPLE: u64 = 20;

/// Up to `n` samples, no two alike: a greedy answer is the same whenever it is asked for, and asking twice would make
/// a result look surer than it is. `list` keeps the draws of one part of an evaluation apart from those of another.
pub fn distinct(
    n: usize,
    seed: u64,
    list: u64,
    mut draw: impl FnMut(&mut Rng) -> Option<Sample>,
) -> Vec<Sample> {
    let mut seen = HashSet::new();
    let mut samples = Vec::new();
    for item in 0..n as u64 * DRAWS_PER_SAMPLE {
        if samples.len() == n {
            break;
        }
        samples.extend(draw(&mut Rng::of(seed, list, item)).filter(|sample| seen.insert(sample.to_line())));
    }
    samples
}

/// What every evaluation with drawn samples is asked: the seed, the half, and how many samples of each kind at most.
pub fn asked(samples: usize, seed: u64) -> Map<String, Value> {
    let fields = [("samples", json!(samples)), ("seed", json!(seed)), ("split", json!("held_out"))];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use cuvier_train::data::{Split, generators::arithmetic};

    use super::*;

    #[test]
    fn no_question_comes_twice_and_few_are_asked_where_there_are_few() {
        let options = arithmetic::Options { digits: vec![1], ..arithmetic::Options::default() };
        let draw = |rng: &mut Rng| arithmetic::sample(rng, &options, Split::HeldOut);
        let samples = distinct(1_000, 1, 0, draw);
        let lines: HashSet<String> = samples.iter().map(Sample::to_line).collect();
        assert_eq!(lines.len(), samples.len());
        assert!(samples.len() < 300, "one-digit sums that are held out: {}", samples.len());
        assert_eq!(distinct(5, 1, 0, draw), samples[..5]);
        assert_ne!(distinct(5, 1, 1, draw), samples[..5]);
    }
}
