//! Whether the model knows what it does not know: questions with an answer in the prompt, and questions without.

use cuvier_train::data::generators::abstain::{self, Form};
use cuvier_train::data::{Sample, Split, Think, Verdict};
use serde_json::json;

use crate::questions::{asked, distinct};
use crate::{Asker, Cell, EvalError, Heard, Layout, Report, Row, Share, Tell};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Samples of each kind, at most.
    pub samples: usize,
    /// What they follow from.
    pub seed: u64,
    /// How hard is thought.
    pub think: Think,
}

/// The kinds of questions: the name, the form, and in how many of a hundred the value is given.
const KINDS: [(&str, Form, usize); 3] =
    [("given", Form::Value, 100), ("not given", Form::Value, 0), ("of the world", Form::World, 0)];

/// Asks them and counts what is said to each kind.
///
/// # Errors
/// If the model cannot be asked, or the engine fails.
pub fn run(asker: &Asker<'_>, options: &Options, tell: Tell<'_>) -> Result<Report, EvalError> {
    let kinds: Vec<Vec<Sample>> = (0..).zip(KINDS).map(|(list, kind)| samples(options, list, kind)).collect();
    let heard = asker.ask_samples(&kinds.concat(), tell)?;
    let mut rest = &heard[..];
    let rows = KINDS.iter().zip(&kinds).map(|((name, ..), samples)| {
        let (own, others) = rest.split_at(samples.len());
        rest = others;
        row(name, samples, own)
    });
    let rows = rows.collect();
    let mut asked = asked(options.samples, options.seed);
    asked.insert("think".to_owned(), json!(options.think));
    Ok(Report { name: "abstain", asked, rows, layout: Layout::Lines })
}

fn samples(options: &Options, list: u64, (_, form, known_percent): (&str, Form, usize)) -> Vec<Sample> {
    let think = vec![options.think];
    let drawn = abstain::Options { forms: vec![form], known_percent, think, ..abstain::Options::default() };
    distinct(options.samples, options.seed, list, |rng| abstain::sample(rng, &drawn, Split::HeldOut))
}

fn row(name: &str, samples: &[Sample], heard: &[Heard]) -> Row {
    let verdicts: Vec<Verdict> =
        samples.iter().zip(heard).map(|(sample, heard)| heard.verdict(sample)).collect();
    let share = |wanted| Cell::Share(verdicts.iter().map(|&verdict| verdict == wanted).collect::<Share>());
    Row::new()
        .named("answer", name)
        .with("right", share(Verdict::Right))
        .with("does not know", share(Verdict::Abstains))
        .with("wrong", share(Verdict::Wrong))
        .with("cut", Cell::Count(heard.iter().filter(|heard| heard.is_cut).count() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_counted_in_three_ways() {
        let options = Options { samples: 3, seed: 1, think: Think::Off };
        let samples = samples(&options, 1, KINDS[1]);
        let says = |text: &str| Heard { text: text.to_owned(), tokens: 4, is_cut: false };
        let heard =
            [says("I do not know."), says("It is 5."), Heard { is_cut: true, ..says("I do not know.") }];
        let row = row("not given", &samples, &heard);
        let share = |count| Some(Cell::Share(Share { count, of: 3 }));
        assert_eq!(row.get("does not know").cloned(), share(1));
        assert_eq!((row.get("right").cloned(), row.get("wrong").cloned()), (share(0), share(2)));
    }

    #[test]
    fn kinds_are_what_they_are_called() {
        let options = Options { samples: 20, seed: 1, think: Think::Off };
        for (kind, is_known) in KINDS.into_iter().zip([true, false, false]) {
            let samples = samples(&options, 0, kind);
            assert_eq!(samples.len(), 20);
            assert!(samples.iter().all(|sample| sample.wants(Verdict::Right) == is_known), "{}", kind.0);
        }
    }
}
