//! Side by side: the same synthetic weights in llama.cpp and here, timed in turns.
//!
//! Both read the same checkpoint, llama.cpp after its own converter. In every round each case is one process of either,
//! so that what else the machine does falls on both alike.

mod cases;
mod machine;
mod measure;
mod prepare;
mod statistics;
mod table;
mod transformers;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use cases::{CASES, COMPARISONS, Comparison, Model, TINY, WIDE2};
use machine::Machine;
use measure::Tools;
use table::{CaseResult, ComparisonResult, Report};
use transformers::Transformers;

/// Flags of `peers`.
#[derive(clap::Args)]
pub struct Args {
    /// Work folder: what is built, converted and found stays in it [default: target/peers]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Rounds; each figure is the median over them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Threads of every engine.
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    threads: usize,
    /// One checkpoint only: `wide2` or `tiny`
    #[arg(long)]
    only: Option<String>,
    /// A `cuvier` that is built already, instead of this tree's.
    #[arg(long)]
    cuvier: Option<PathBuf>,
    /// A Python that has what the converter needs, instead of an environment made in the work folder.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Also time transformers, on the shape of `tiny`.
    #[arg(long)]
    torch: bool,
    /// Build and convert what is absent, and measure nothing.
    #[arg(long)]
    prepare: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count > 0).ok_or_else(|| "a number above 0".to_owned())
}

/// Prepares, measures, and writes `peers.md` into the work folder after every round.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let models = models(args.only.as_deref())?;
    let tools = prepare::tools(root, args, &models)?;
    if args.prepare {
        return Ok(());
    }
    let mut bench = Bench::new(root, args, &tools, &models);
    let file = tools.dir.join("peers.md");
    for round in 1..=args.rounds {
        bench.round(round, args.rounds)?;
        fs::write(&file, bench.report.markdown()).with_context(|| file.display().to_string())?;
    }
    println!("{}", bench.report.markdown());
    eprintln!("written to {}", file.display());
    Ok(())
}

fn models(only: Option<&str>) -> anyhow::Result<Vec<&'static Model>> {
    let all = [&WIDE2, &TINY];
    let chosen: Vec<_> = all.into_iter().filter(|model| only.is_none_or(|name| name == model.name)).collect();
    match only {
        Some(name) if chosen.is_empty() => bail!("no checkpoint is called `{name}`: wide2, tiny"),
        _ => Ok(chosen),
    }
}

/// The measurement in progress.
struct Bench<'a> {
    tools: &'a Tools,
    scripts: PathBuf,
    machine: Machine,
    report: Report<'static>,
}

impl<'a> Bench<'a> {
    fn new(root: &Path, args: &Args, tools: &'a Tools, models: &[&'static Model]) -> Self {
        let cases = CASES.iter().filter(|case| models.contains(&case.model));
        let cases = cases.map(|case| CaseResult {
            case,
            cuvier: Vec::new(),
            llama: Vec::new(),
            roof_shares: Vec::new(),
        });
        let compares = models.contains(&&WIDE2);
        let comparisons = COMPARISONS.iter().filter(|_| compares);
        let comparisons =
            comparisons.map(|comparison| ComparisonResult { comparison, this: vec![], beside: vec![] });
        let transformers = match (args.torch, models.contains(&&TINY)) {
            (true, true) => Transformers::Run { versions: String::new(), speeds: Vec::new() },
            (true, false) => Transformers::NotRun("it runs the shape of tiny".to_owned()),
            (false, _) => Transformers::NotRun("without --torch".to_owned()),
        };
        let report = Report {
            facts: Vec::new(),
            cases: cases.collect(),
            comparisons: comparisons.collect(),
            transformers,
        };
        let machine = Machine::new(root, args);
        Self { tools, scripts: root.join("crates/xtask/src/peers"), machine, report }
    }

    /// Every case once by either, the other first in every second round; then our own comparisons.
    fn round(&mut self, round: u32, rounds: u32) -> anyhow::Result<()> {
        for result in &mut self.report.cases {
            self.machine.note_load();
            let case = result.case;
            let starts = !round.is_multiple_of(2);
            for is_ours in [starts, !starts] {
                if is_ours {
                    let (run, bench) = self.tools.cuvier(case)?;
                    eprintln!("{round}/{rounds} {case}: cuvier {:.1} tokens/s", run.tokens_per_s);
                    result.cuvier.push(run.tokens_per_s);
                    result.roof_shares.push(run.roof_share);
                    self.machine.note(&bench);
                } else {
                    let run = self.tools.llama(case)?;
                    eprintln!("{round}/{rounds} {case}: llama.cpp {:.1} tokens/s", run.tokens_per_s);
                    result.llama.push(run.tokens_per_s);
                    self.machine.note_llama(run.commit);
                }
            }
        }
        for result in &mut self.report.comparisons {
            let comparison = result.comparison;
            if !is_possible(comparison, self.machine.isa()) {
                continue;
            }
            let [this, beside] = self.tools.compare(&WIDE2, comparison)?;
            eprintln!("{round}/{rounds} {}: {this:.1} beside {beside:.1} tokens/s", comparison.label);
            result.this.push(this);
            result.beside.push(beside);
        }
        self.report.transformers.measure(self.tools, &self.scripts)?;
        self.report.facts = self.machine.facts(round);
        Ok(())
    }
}

/// Whether a machine whose best instruction set is `best` can run both sides.
fn is_possible(comparison: &Comparison, best: &str) -> bool {
    let has = |isa: &str| isa == best || (isa == "avx2" && best == "avx512");
    [comparison.this, comparison.beside].iter().all(|decoding| decoding.isa.is_none_or(has))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_needs_both_instruction_sets() {
        let possible = |best| COMPARISONS.iter().filter(|comparison| is_possible(comparison, best)).count();
        assert_eq!(possible("avx512"), COMPARISONS.len());
        assert_eq!(possible("avx2"), COMPARISONS.len() - 1);
        assert_eq!(possible("neon"), COMPARISONS.len() - 1);
    }

    #[test]
    fn a_checkpoint_is_chosen_by_its_name() {
        assert_eq!(models(None).expect("all").len(), 2);
        assert_eq!(models(Some("tiny")).expect("one"), [&TINY]);
        assert!(models(Some("huge")).is_err());
    }
}
