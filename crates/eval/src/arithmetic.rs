//! Sums and differences of held-out numbers, by effort and digits.

use cuvier_train::data::generators::arithmetic::{self, Operation};
use cuvier_train::data::{Sample, Split, Think};
use serde_json::json;

use crate::questions::{asked, distinct};
use crate::{Asker, Cell, EvalError, Heard, Layout, Report, Row, Share, Tell};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Samples of each effort, number of digits and operation, at most: there are few sums of one digit.
    pub samples: usize,
    /// What they follow from.
    pub seed: u64,
    /// Efforts; each is asked the same questions.
    pub think: Vec<Think>,
}

const DIGITS: [usize; 3] = [1, 2, 3];
const OPERATIONS: [Operation; 2] = [Operation::Sum, Operation::Difference];

/// Samples of one effort, one number of digits and one operation.
struct Cases {
    think: Think,
    digits: usize,
    operation: Operation,
    samples: Vec<Sample>,
}

/// Asks them and counts the right answers.
///
/// # Errors
/// If no effort is named, the model cannot be asked, or the engine fails.
pub fn run(asker: &Asker<'_>, options: &Options, tell: Tell<'_>) -> Result<Report, EvalError> {
    if options.think.is_empty() {
        return Err(EvalError::Empty { option: "think" });
    }
    let cases = cases(options);
    let samples: Vec<Sample> = cases.iter().flat_map(|cases| cases.samples.iter().cloned()).collect();
    let heard = asker.ask_samples(&samples, tell)?;
    let mut rest = &heard[..];
    let mut rows = Vec::new();
    // The operations of one effort and one number of digits stand side by side.
    for pair in cases.chunks(OPERATIONS.len()) {
        let counted = pair.iter().map(|cases| {
            let (own, others) = rest.split_at(cases.samples.len());
            rest = others;
            (cases, own)
        });
        rows.push(row(&counted.collect::<Vec<_>>()));
    }
    let mut asked = asked(options.samples, options.seed);
    asked.insert("think".to_owned(), options.think.iter().map(|think| json!(think)).collect());
    Ok(Report { name: "arithmetic", asked, rows, layout: Layout::Lines })
}

fn cases(options: &Options) -> Vec<Cases> {
    let mut cases = Vec::new();
    for &think in &options.think {
        for digits in DIGITS {
            for (operation, place) in OPERATIONS.into_iter().zip(0..) {
                let drawn = arithmetic::Options {
                    digits: vec![digits],
                    operations: vec![operation],
                    think: vec![think],
                };
                // The list does not depend on the effort, so every effort gets the same numbers.
                let list = 2 * digits as u64 + place;
                let draw = |rng: &mut _| arithmetic::sample(rng, &drawn, Split::HeldOut);
                let samples = distinct(options.samples, options.seed, list, draw);
                cases.push(Cases { think, digits, operation, samples });
            }
        }
    }
    cases
}

fn row(counted: &[(&Cases, &[Heard])]) -> Row {
    let right = |(cases, heard): &(&Cases, &[Heard])| -> Share {
        cases.samples.iter().zip(*heard).map(|(sample, heard)| heard.is_wanted(sample)).collect()
    };
    let of = |operation| {
        let own = counted.iter().filter(|(cases, _)| cases.operation == operation);
        own.map(right).fold(Share::default(), Share::with)
    };
    let all: Vec<&Heard> = counted.iter().flat_map(|(_, heard)| heard.iter()).collect();
    let tokens = all.iter().map(|heard| heard.tokens).sum::<usize>() as f64 / all.len() as f64;
    let first = counted.first().map(|(cases, _)| (cases.think, cases.digits));
    let (think, digits) = first.unwrap_or_default();
    let (sums, differences) = (of(Operation::Sum), of(Operation::Difference));
    Row::new()
        .named("think", think.name())
        .with("digits", Cell::Count(digits as u64))
        .with("sums", Cell::Share(sums))
        .with("differences", Cell::Share(differences))
        .with("both", Cell::Share(sums.with(differences)))
        .with("cut", Cell::Count(all.iter().filter(|heard| heard.is_cut).count() as u64))
        .with("tokens", Cell::Number(tokens, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_effort_is_asked_the_same_numbers() {
        let options = Options { samples: 5, seed: 3, think: vec![Think::Off, Think::Max] };
        let cases = cases(&options);
        assert_eq!(cases.len(), 2 * 3 * 2);
        let answers = |cases: &Cases| cases.samples.iter().map(|s| s.answer.clone()).collect::<Vec<_>>();
        for (off, max) in cases[..6].iter().zip(&cases[6..]) {
            assert_eq!((off.think, max.think), (Think::Off, Think::Max));
            assert_eq!(answers(off), answers(max));
        }
    }

    #[test]
    fn right_answers_are_counted_by_operation_and_cut_ones_are_not() {
        let options = Options { samples: 4, seed: 3, think: vec![Think::Off] };
        let cases = cases(&options);
        let right = |sample: &Sample| match sample.answer {
            Some(cuvier_train::data::Answer::Number(n)) => {
                Heard { text: n.to_string(), tokens: 2, is_cut: false }
            }
            _ => Heard::default(),
        };
        let sums: Vec<Heard> = cases[2].samples.iter().map(right).collect();
        let mut differences: Vec<Heard> = cases[3].samples.iter().map(right).collect();
        differences[0].is_cut = true;
        differences[1].text = "I do not know.".to_owned();
        let row = row(&[(&cases[2], &sums), (&cases[3], &differences)]);
        assert_eq!(row.get("sums"), Some(&Cell::Share(Share { count: 4, of: 4 })));
        assert_eq!(row.get("differences"), Some(&Cell::Share(Share { count: 2, of: 4 })));
        assert_eq!(row.get("both"), Some(&Cell::Share(Share { count: 6, of: 8 })));
        assert_eq!((row.get("cut"), row.get("digits")), (Some(&Cell::Count(1)), Some(&Cell::Count(2))));
    }
}
