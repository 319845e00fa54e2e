//! The policy of the expert store beside textbook rules and the optimum, on recorded and made-up traces: prints a
//! table for `docs/memory.md`.
//!
//! Arguments: decoded tokens of each made-up trace, then files that `cuvier logits --trace` wrote.

#![forbid(unsafe_code)]

mod generate;
mod replay;
#[cfg(test)]
mod tests;
mod trace;

use std::path::Path;
use std::process::ExitCode;

use replay::{Belady, Foresight, Lfu, Lru, Popular, Rule, policy_reads, reads};
use trace::Trace;

/// Memory, in percent of all experts.
const BUDGETS: [usize; 4] = [10, 25, 50, 75];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let n_tokens = arguments.next().and_then(|n| n.parse().ok()).ok_or("how many tokens?")?;
    let mut traces = Vec::new();
    for file in arguments {
        let path = Path::new(&file);
        let name = path.file_stem().map_or_else(|| file.clone(), |stem| stem.to_string_lossy().into_owned());
        traces.push(Trace::read(path, &name)?);
    }
    traces.extend(generate::all(n_tokens));
    println!(
        "| trace | memory | hits, optimum | hits, policy | policy | all known but the draws | popularity in hindsight | LFU | LFU in cache | LRU |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    traces.iter().for_each(print_rows);
    Ok(())
}

/// One row per budget: hits in percent of uses, then reads as multiples of the optimum's.
fn print_rows(trace: &Trace) {
    let sets = trace.sets();
    for percent in BUDGETS {
        let capacity = trace.n_total() * percent / 100;
        let optimum = reads(&sets, capacity, &mut Belady::new(&sets));
        let policy = policy_reads(trace, capacity);
        let hits = |reads: usize| 100.0 * (1.0 - reads as f64 / trace.n_uses() as f64);
        let times = |reads: usize| reads as f64 / optimum as f64;
        let rule = |mut rule: Box<dyn Rule + '_>| times(reads(&sets, capacity, &mut *rule));
        let known = Foresight::of(trace).map(|foresight| rule(Box::new(foresight)));
        let known = known.map(|times| format!("{times:.2}")).unwrap_or_default();
        println!(
            "| {} | {percent} % | {:.1} % | {:.1} % | {:.2} | {known} | {:.2} | {:.2} | {:.2} | {:.2} |",
            trace.name,
            hits(optimum),
            hits(policy),
            times(policy),
            rule(Box::new(Popular::in_hindsight(&sets))),
            rule(Box::new(Lfu::perfect(&sets))),
            rule(Box::new(Lfu::in_cache(&sets))),
            rule(Box::new(Lru)),
        );
    }
}
