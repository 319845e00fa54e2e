//! `cuvier verify`: is the checkpoint whole, and is its state exact?

use std::io::Write;

use anyhow::{Context, bail};
use cuvier_hub::CheckReport;
use cuvier_model::exact_state::{CHUNKS, CaseCount, Sweep, sweep};
use cuvier_model::{Compute, Isa};
use serde_json::json;

use crate::interrupt::Interrupt;
use crate::options::{ComputeArgs, IsaChoice, ModelArgs};
use crate::progress;
use crate::session::{Opened, open_model};

/// Flags of `verify`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Also compute one sequence in many ways and compare every bit, on each instruction set (or on --isa)
    #[arg(long)]
    state: bool,
    /// Under a minute: a shorter sweep, and no hashes
    #[arg(long)]
    quick: bool,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let interrupt = Interrupt::listen()?;
    let download = check_download(args, &interrupt)?;
    let opened = open_model(args.model.model.as_deref())?;
    let files = check_files(args, &opened, download.as_ref(), &interrupt)?;
    let mut document = json!({ "files": files });
    let mut mismatches = 0;
    if args.state {
        let sweeps = check_state(args, &opened, &interrupt)?;
        mismatches = sweeps.iter().flat_map(|(_, cases)| cases).map(|case| case.mismatches).sum();
        if !args.json {
            print_state(&sweeps)?;
        }
        document["state"] =
            sweeps.iter().map(|(isa, cases)| (isa.name().to_owned(), state_json(cases))).collect();
    }
    if args.json {
        writeln!(std::io::stdout().lock(), "{document}")?;
    }
    if mismatches > 0 {
        bail!("{mismatches} comparisons found a different bit: state is not exact on this machine");
    }
    Ok(())
}

/// Every byte of a folder that `pull` filled, against what came. First, because a broken header says less than a broken
/// hash.
fn check_download(args: &Args, interrupt: &Interrupt) -> anyhow::Result<Option<CheckReport>> {
    let Some(folder) = args.model.model.as_deref().filter(|_| !args.quick) else { return Ok(None) };
    let bar = progress::bytes(0, "checking hashes");
    let report = cuvier_hub::check(folder, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        !interrupt.is_set()
    })?;
    bar.finish_and_clear();
    let Some(report) = report else { return Ok(None) };
    for broken in &report.broken {
        eprintln!("{broken}");
    }
    if let Some(first) = report.broken.first() {
        let (n, repo, folder) = (report.broken.len(), &report.repo, folder.display());
        bail!(
            "{n} files are not as they were downloaded, the first: {first}; `cuvier pull {repo} --revision {} -o {folder} \
             --recheck` fetches what is broken",
            report.commit
        );
    }
    Ok(Some(report))
}

/// Every tensor, and the tokenizer. What `download` hashed is not read again for its hash.
fn check_files(
    args: &Args,
    opened: &Opened,
    download: Option<&CheckReport>,
    interrupt: &Interrupt,
) -> anyhow::Result<serde_json::Value> {
    let bar = progress::bytes(0, "checking numbers");
    let mut report = opened.checked()?.verify(!args.quick && download.is_none(), &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        !interrupt.is_set()
    })?;
    bar.finish_and_clear();
    for file in &mut report.files {
        let downloaded = download.and_then(|download| download.sha256_of(&file.file));
        file.sha256 = file.sha256.take().or(downloaded);
    }
    for finding in &report.findings {
        eprintln!("{finding}");
    }
    if let Some(first) = report.findings.first() {
        bail!("{} tensors are broken; the first: {first}", report.findings.len());
    }
    opened.tokenizer().context("the tokenizer")?;
    if !args.json {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}: {} tensors, all whole", opened.name, report.tensors)?;
        for file in &report.files {
            if let Some(sha256) = &file.sha256 {
                writeln!(out, "{sha256}  {}", file.file)?;
            }
        }
    }
    let files: Vec<_> =
        report.files.iter().map(|file| json!({ "file": file.file, "sha256": file.sha256 })).collect();
    Ok(json!({ "tensors": report.tensors, "hashes": files }))
}

fn check_state(
    args: &Args,
    opened: &Opened,
    interrupt: &Interrupt,
) -> anyhow::Result<Vec<(Isa, Vec<CaseCount>)>> {
    let all_threads = Compute::new(Isa::best(), args.compute.threads()).context("starting threads")?;
    let model = opened.transformer(&all_threads)?;
    let isas = match args.compute.isa {
        IsaChoice::Auto => Isa::available(),
        chosen => vec![chosen.resolve()?],
    };
    let mut results = Vec::new();
    for isa in isas {
        let whole = Sweep {
            tokens: 601,
            stride: 1,
            isa,
            kv: args.compute.kv.into(),
            seed: 1,
            chunks: CHUNKS,
            sequences_max: 8,
        };
        let quick = Sweep { tokens: 260, stride: 29, chunks: &[1, 7, 129], sequences_max: 2, ..whole };
        let mut plan = if args.quick { quick } else { whole };
        plan.tokens = plan.tokens.min(model.config().max_position_embeddings);
        let bar = progress::count(plan.comparisons() as u64, "comparing states");
        let cases = sweep(&model, &plan, &mut |done| {
            bar.inc(done as u64);
            !interrupt.is_set()
        })?;
        bar.finish_and_clear();
        if interrupt.is_set() {
            bail!("interrupted");
        }
        results.push((isa, cases));
    }
    Ok(results)
}

fn print_state(sweeps: &[(Isa, Vec<CaseCount>)]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for (isa, cases) in sweeps {
        for case in cases {
            let first = case.first_mismatch.map_or(String::new(), |p| format!(", first at position {p}"));
            let CaseCount { name, cases, mismatches, .. } = case;
            writeln!(out, "{:8} {name:18} {cases:7} cases, {mismatches} mismatches{first}", isa.name())?;
        }
        let total: usize = cases.iter().map(|case| case.cases).sum();
        let mismatches: usize = cases.iter().map(|case| case.mismatches).sum();
        writeln!(out, "{:8} {:18} {total:7} cases, {mismatches} mismatches", isa.name(), "all")?;
    }
    Ok(())
}

fn state_json(cases: &[CaseCount]) -> serde_json::Value {
    let all = cases.iter().map(|case| {
        json!({
            "name": case.name,
            "cases": case.cases,
            "mismatches": case.mismatches,
            "first_mismatch": case.first_mismatch,
        })
    });
    all.collect()
}
