//! How a sum or a difference is worked out on paper, column by column from the right.

use super::super::super::sample::Think;
use super::{Operation, Problem};

const COLUMNS: [&str; 4] = ["ones", "tens", "hundreds", "thousands"];

/// One column of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Column {
    /// The digits of the two numbers.
    a: u64,
    b: u64,
    /// What came from the column to the right: carried, or borrowed.
    carried: u64,
    /// The digit written.
    digit: u64,
    /// What goes to the column to the left.
    carry: u64,
}

/// The thoughts before the answer: short at `low`, a line a column at `high`, and at `max` a check as well.
pub(super) fn write(think: Think, problem: Problem) -> String {
    let result = problem.result();
    match think {
        Think::Off => String::new(),
        Think::Low => {
            let steps: Vec<String> =
                columns(problem).iter().map(|column| brief(problem.operation, column)).collect();
            format!("{}: {result}", steps.join(", "))
        }
        Think::High => format!("{}So it is {result}.", lines(problem)),
        Think::Max => {
            // Either number comes back when the other operation undoes the first one.
            let (operation, sign) = match problem.operation {
                Operation::Sum => (Operation::Difference, '-'),
                Operation::Difference => (Operation::Sum, '+'),
            };
            let check = Problem { operation, a: result, b: problem.b };
            format!(
                "{}So it is {result}.\nCheck {result} {sign} {}.\n{}That gives {}, which is the first number: it holds.",
                lines(problem),
                problem.b,
                lines(check),
                check.result(),
            )
        }
    }
}

fn columns(problem: Problem) -> Vec<Column> {
    let (mut a, mut b, mut carried) = (problem.a, problem.b, 0);
    let mut columns = Vec::new();
    while a > 0 || b > 0 || carried > 0 || columns.is_empty() {
        let (digit_a, digit_b) = (a % 10, b % 10);
        let (digit, carry) = match problem.operation {
            Operation::Sum => ((digit_a + digit_b + carried) % 10, (digit_a + digit_b + carried) / 10),
            Operation::Difference => {
                let borrows = digit_a < digit_b + carried;
                (digit_a + if borrows { 10 } else { 0 } - digit_b - carried, u64::from(borrows))
            }
        };
        columns.push(Column { a: digit_a, b: digit_b, carried, digit, carry });
        (a, b, carried) = (a / 10, b / 10, carry);
    }
    columns
}

/// `7 + 8 = 15`, `2 + 5 + 1 = 8`, `12 - 7 = 5`, `4 - 2 - 1 = 1`.
fn brief(operation: Operation, column: &Column) -> String {
    let Column { a, b, carried, digit, carry } = *column;
    let (sign, left, right) = match operation {
        Operation::Sum => ('+', a, digit + 10 * carry),
        Operation::Difference => ('-', a + 10 * carry, digit),
    };
    let moved = if carried > 0 { format!(" {sign} {carried}") } else { String::new() };
    format!("{left} {sign} {b}{moved} = {right}")
}

fn lines(problem: Problem) -> String {
    let line = |(place, column): (usize, &Column)| {
        let name = COLUMNS.get(place).map_or_else(|| format!("place {}", place + 1), |&name| name.to_owned());
        let step = brief(problem.operation, column);
        let moves = match (problem.operation, column.carry) {
            (Operation::Sum, 0) => String::new(),
            (Operation::Sum, carry) => format!(", carry {carry}"),
            (Operation::Difference, 0) => String::new(),
            (Operation::Difference, _) => ", borrowed 1".to_owned(),
        };
        format!("{name}: {step}, write {}{moves}\n", column.digit)
    };
    columns(problem).iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(a: u64, b: u64) -> Problem {
        Problem { operation: Operation::Sum, a, b }
    }

    fn difference(a: u64, b: u64) -> Problem {
        Problem { operation: Operation::Difference, a, b }
    }

    #[test]
    fn low_names_each_column_once() {
        assert_eq!(write(Think::Low, sum(27, 58)), "7 + 8 = 15, 2 + 5 + 1 = 8: 85");
        assert_eq!(write(Think::Low, sum(95, 7)), "5 + 7 = 12, 9 + 0 + 1 = 10, 0 + 0 + 1 = 1: 102");
        assert_eq!(write(Think::Low, difference(42, 27)), "12 - 7 = 5, 4 - 2 - 1 = 1: 15");
        assert_eq!(write(Think::Low, difference(0, 0)), "0 - 0 = 0: 0");
    }

    #[test]
    fn high_says_what_is_written_and_what_is_carried() {
        let want = "ones: 7 + 8 = 15, write 5, carry 1\ntens: 2 + 5 + 1 = 8, write 8\nSo it is 85.";
        assert_eq!(write(Think::High, sum(27, 58)), want);
    }

    #[test]
    fn every_effort_writes_more_than_the_one_below() {
        for problem in [sum(3, 4), sum(999, 1), difference(10, 9), difference(512, 512)] {
            let lengths = [Think::Off, Think::Low, Think::High, Think::Max].map(|t| write(t, problem).len());
            assert!(lengths.is_sorted_by(|a, b| a < b), "{problem:?}: {lengths:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_digits_written_are_those_of_the_result(a in 0u64..1_000_000_000, b in 0u64..1_000_000_000) {
            for problem in [sum(a, b), difference(a.max(b), a.min(b))] {
                let columns = columns(problem);
                let result = columns.iter().rev().fold(0, |value, column| value * 10 + column.digit);
                proptest::prop_assert_eq!(result, problem.result());
                proptest::prop_assert_eq!(columns[columns.len() - 1].carry, 0);
            }
        }
    }
}
