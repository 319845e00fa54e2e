//! Sums and differences, with and without a scratchpad.

mod scratchpad;

use cuvier_encoding::Completion;
use serde::Deserialize;

use super::super::error::OptionError;
use super::super::rng::Rng;
use super::super::sample::{Answer, Chat, Sample, Task, Think};
use super::super::split::Split;
use super::super::verdict::Verdict;
use super::{answer_at_once, not_empty, within};

/// Which sums and differences.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Digits of an operand; one of these is drawn for each. 1 to 9.
    pub digits: Vec<usize>,
    /// Of these one is drawn.
    pub operations: Vec<Operation>,
    /// Of these one is drawn.
    pub think: Vec<Think>,
}

/// What is done with two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The sum.
    Sum,
    /// The larger less the smaller.
    Difference,
}

/// Two numbers and what is done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    operation: Operation,
    /// Of a difference, the larger.
    a: u64,
    b: u64,
}

const SUMS: [&str; 12] = [
    "What is {a} + {b}?",
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "{a} + {b} =",
    "{a} + {b} = ?",
    "Add {a} and {b}.",
    "How much is {a} + {b}?",
    "What is the sum of {a} and {b}?",
    "Compute {a} + {b}.",
    "Please add {a} to {b}.",
    "I have {a} coins and find {b} more. How many coins do I have?",
    "Tell me {a} + {b}.",
];
const DIFFERENCES: [&str; 12] = [
    "What is {a} - {b}?",
    "What is {a} - {b}?",
    "What is {a} minus {b}?",
    "{a} - {b} =",
    "{a} - {b} = ?",
    "Take {b} from {a}.",
    "How much is {a} - {b}?",
    "What is the difference of {a} and {b}?",
    "Compute {a} - {b}.",
    "Please subtract {b} from {a}.",
    "I have {a} coins and lose {b}. How many coins are left?",
    "Tell me {a} - {b}.",
];

impl Default for Options {
    fn default() -> Self {
        Self {
            digits: vec![1, 2, 3],
            operations: vec![Operation::Sum, Operation::Difference],
            think: answer_at_once(),
        }
    }
}

impl Options {
    /// # Errors
    /// If an option is out of its bounds.
    pub fn check(&self) -> Result<(), OptionError> {
        not_empty("digits", &self.digits)?;
        not_empty("operations", &self.operations)?;
        not_empty("think", &self.think)?;
        self.digits.iter().try_for_each(|&digits| within("digits", 1..=9, "1 to 9 each", digits))
    }
}

/// One problem and its answer; nothing if the options leave none for this half.
#[must_use]
pub fn sample(rng: &mut Rng, options: &Options, split: Split) -> Option<Sample> {
    let problem = split.draw(rng, |rng| Problem::draw(rng, options), Problem::subject)?;
    let think = *rng.pick(&options.think);
    let phrasings = match problem.operation {
        Operation::Sum => &SUMS,
        Operation::Difference => &DIFFERENCES,
    };
    let Problem { a, b, .. } = problem;
    let phrasing = rng.pick(phrasings);
    let question = phrasing.replace("{a}", &a.to_string()).replace("{b}", &b.to_string());
    let answer = format!("{a} {} {b} = {}.", problem.sign(), problem.result());
    let chat = Chat::ask(think, question, scratchpad::write(think, problem), answer);
    Some(Sample::chat(Task::Arithmetic, chat, Answer::Number(problem.result() as i64)))
}

/// Right if the last number of the answer is the number.
#[must_use]
pub fn verify(right: &Answer, said: &Completion) -> Verdict {
    match right {
        Answer::Number(number) if last_number(&said.content) == Some(*number) => Verdict::Right,
        _ => Verdict::Wrong,
    }
}

fn last_number(text: &str) -> Option<i64> {
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = text[..end].rfind(|c: char| !c.is_ascii_digit());
    let start = start.map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    let number: i64 = text[start..end].parse().ok()?;
    // A minus is a sign if it touches the number and nothing that it could be taken from.
    let before = text[..start].strip_suffix('-');
    let is_negative = before.is_some_and(|before| !before.ends_with(|c: char| c.is_alphanumeric()));
    Some(if is_negative { -number } else { number })
}

impl Problem {
    fn draw(rng: &mut Rng, options: &Options) -> Self {
        let operation = *rng.pick(&options.operations);
        let mut operand = || {
            let digits = *rng.pick(&options.digits) as u32;
            let low = if digits == 1 { 0 } else { 10u64.pow(digits - 1) };
            rng.within(low..=10u64.pow(digits) - 1)
        };
        let (a, b) = (operand(), operand());
        match operation {
            Operation::Difference if a < b => Self { operation, a: b, b: a },
            _ => Self { operation, a, b },
        }
    }

    /// The pair, whatever its order and whatever is done with it: who has learned 27 + 58 knows 58 + 27, and has
    /// seen the numbers side by side.
    fn subject(&self) -> String {
        format!("pair {} {}", self.a.min(self.b), self.a.max(self.b))
    }

    fn result(self) -> u64 {
        match self.operation {
            Operation::Sum => self.a + self.b,
            Operation::Difference => self.a - self.b,
        }
    }

    fn sign(self) -> char {
        match self.operation {
            Operation::Sum => '+',
            Operation::Difference => '-',
        }
    }
}

#[cfg(test)]
mod tests;
