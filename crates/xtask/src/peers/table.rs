//! What was measured, as Markdown.

use std::fmt::Write;

use super::cases::{Case, Comparison};
use super::statistics::Summary;
use super::transformers::Transformers;

/// What stands where nothing was measured.
const NOT_RUN: &str = "not run";

/// Everything the tables say.
pub struct Report<'a> {
    /// Where and with what, one line each.
    pub facts: Vec<(&'static str, String)>,
    pub cases: Vec<CaseResult<'a>>,
    pub comparisons: Vec<ComparisonResult<'a>>,
    pub transformers: Transformers,
}

/// The rounds of a case.
pub struct CaseResult<'a> {
    pub case: &'a Case,
    pub cuvier: Vec<f64>,
    pub llama: Vec<f64>,
    pub roof_shares: Vec<f64>,
}

/// The rounds of a comparison; empty if the machine cannot do one side.
pub struct ComparisonResult<'a> {
    pub comparison: &'a Comparison,
    pub this: Vec<f64>,
    pub beside: Vec<f64>,
}

impl Report<'_> {
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.facts {
            line(&mut text, format_args!("- {name}: {value}"));
        }
        if !self.cases.is_empty() {
            self.case_table(&mut text);
        }
        if !self.comparisons.is_empty() {
            self.comparison_table(&mut text);
        }
        self.transformers_table(&mut text);
        text
    }

    fn case_table(&self, text: &mut String) {
        line(text, format_args!(""));
        line(text, format_args!("| tokens/s | cuvier | llama.cpp | ratio | goal | of roof | goal |"));
        line(text, format_args!("|---|---|---|---|---|---|---|"));
        for result in &self.cases {
            let (cuvier, llama) = (Summary::of(&result.cuvier), Summary::of(&result.llama));
            let roof = Summary::of(&result.roof_shares).map(|share| share.median);
            line(
                text,
                format_args!(
                    "| {} | {} | {} | {} | {} | {} | {} |",
                    result.case,
                    speed(cuvier),
                    speed(llama),
                    cell(ratio(cuvier, llama), |ratio| format!("{ratio:.2}x")),
                    goal(result.case.ratio_goal, |goal| format!("{goal}x")),
                    cell(roof, percent),
                    goal(result.case.roof_goal, percent),
                ),
            );
        }
    }

    fn comparison_table(&self, text: &mut String) {
        line(text, format_args!(""));
        line(text, format_args!("| wide2 decode | tokens/s | beside | share | goal |"));
        line(text, format_args!("|---|---|---|---|---|"));
        for ComparisonResult { comparison, this, beside } in &self.comparisons {
            let (this, beside) = (Summary::of(this), Summary::of(beside));
            let share = cell(ratio(this, beside), percent);
            let (label, goal) = (comparison.label, percent(comparison.goal));
            line(text, format_args!("| {label} | {} | {} | {share} | {goal} |", speed(this), speed(beside)));
        }
    }

    fn transformers_table(&self, text: &mut String) {
        line(text, format_args!(""));
        match &self.transformers {
            Transformers::NotRun(reason) => line(text, format_args!("transformers: {NOT_RUN} ({reason})")),
            Transformers::Run { versions, speeds } => {
                line(
                    text,
                    format_args!(
                        "{versions}, bf16, eager: the shape of tiny, but weights of its own, never quantised"
                    ),
                );
                line(text, format_args!(""));
                line(text, format_args!("| tokens/s | transformers |"));
                line(text, format_args!("|---|---|"));
                for (name, speeds) in speeds {
                    line(text, format_args!("| {name} | {} |", speed(Summary::of(speeds))));
                }
            }
        }
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("a string takes what is written to it");
}

fn ratio(this: Option<Summary>, beside: Option<Summary>) -> Option<f64> {
    let (this, beside) = (this?.median, beside?.median);
    (beside > 0.0).then_some(this / beside)
}

fn speed(summary: Option<Summary>) -> String {
    cell(summary, |Summary { median, min, max }| {
        format!("{} ({} to {})", digits(median), digits(min), digits(max))
    })
}

/// Three digits or more.
fn digits(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn cell<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NOT_RUN.to_owned(), show)
}

fn goal(value: Option<f64>, show: impl FnOnce(f64) -> String) -> String {
    value.map_or_else(String::new, show)
}

#[cfg(test)]
mod tests {
    use super::super::cases::{CASES, COMPARISONS};
    use super::*;

    fn report() -> Report<'static> {
        Report {
            facts: vec![("machine", "a box".to_owned())],
            cases: vec![CaseResult {
                case: &CASES[2],
                cuvier: vec![20.0, 22.04, 21.0],
                llama: vec![14.0, 15.0, 14.5],
                roof_shares: vec![0.8, 0.82, 0.81],
            }],
            comparisons: vec![
                ComparisonResult { comparison: &COMPARISONS[0], this: vec![9.0], beside: vec![10.0] },
                ComparisonResult { comparison: &COMPARISONS[3], this: vec![], beside: vec![] },
            ],
            transformers: Transformers::NotRun("no torch".to_owned()),
        }
    }

    #[test]
    fn a_line_holds_medians_ends_ratio_and_share() {
        let text = report().markdown();
        let expected =
            "| wide2 decode 32 | 21.0 (20.0 to 22.0) | 14.5 (14.0 to 15.0) | 1.45x | 1.45x | 81 % | 80 % |";
        assert!(text.contains(expected), "{text}");
        assert!(text.starts_with("- machine: a box\n"), "{text}");
    }

    #[test]
    fn what_the_machine_cannot_do_is_called_not_run() {
        let text = report().markdown();
        assert!(text.contains("| AVX2 : AVX-512 | not run | not run | not run | 75 % |"), "{text}");
        assert!(
            text.contains(
                "131,072 tokens of context : 4,096 | 9.00 (9.00 to 9.00) | 10.0 (10.0 to 10.0) | 90 %"
            ),
            "{text}"
        );
        assert!(text.ends_with("transformers: not run (no torch)\n"), "{text}");
    }

    #[test]
    fn every_line_of_a_table_has_as_many_cells_as_its_head() {
        let text = report().markdown();
        let bars = |line: &str| line.matches('|').count();
        for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
            let counts: Vec<_> = table.lines().map(bars).collect();
            assert!(counts.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
        }
    }

    #[test]
    fn transformers_is_said_to_have_other_weights() {
        let speeds = vec![("tiny prefill 512".to_owned(), vec![400.0])];
        let transformers = Transformers::Run { versions: "transformers 5.23.0".to_owned(), speeds };
        let text = Report { transformers, ..report() }.markdown();
        assert!(text.contains("weights of its own"), "{text}");
        assert!(text.contains("| tiny prefill 512 | 400 (400 to 400) |"), "{text}");
    }
}
