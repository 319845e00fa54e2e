//! `cuvier train`, `sft` and `qat`: from prepared documents to a checkpoint.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cuvier_train::config::TrainConfig;
use cuvier_train::metrics::{StepMetrics, read_metrics};
use cuvier_train::trainer::{self, Event, METRICS, Outcome};

use crate::curves::draw;
use crate::interrupt::Interrupt;
use crate::options::ComputeArgs;

/// Flags of `train`.
#[derive(clap::Args)]
pub struct Args {
    /// What to train, on what and how, as in models/calf/recipe/nano.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Go on from the run's last checkpoint
    #[arg(long)]
    resume: bool,
    /// Folder of prepared documents, instead of the configuration's `data`
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of the run, instead of the configuration's `out`
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object per step on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Which verb: what its configuration must have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any.
    Train,
    /// A checkpoint to begin with.
    Sft,
    /// That, and `[qat]`.
    Qat,
}

/// Runs the verb.
pub fn run(args: &Args, kind: Kind) -> anyhow::Result<()> {
    let file = args.config.display().to_string();
    let text = std::fs::read_to_string(&args.config).with_context(|| file.clone())?;
    let mut config = TrainConfig::parse(&text, &file)?;
    if kind != Kind::Train && config.from.is_none() {
        bail!("{file}: `from` is missing: the folder of a checkpoint to begin with");
    }
    if kind == Kind::Qat && config.qat.is_none() {
        bail!("{file}: `[qat]` is missing: what is rounded, and from when on");
    }
    config.data = args.data.clone().unwrap_or(config.data);
    config.out = args.out.clone().unwrap_or(config.out);
    std::fs::create_dir_all(&config.out).with_context(|| config.out.display().to_string())?;
    let compute = args.compute.compute()?;
    let interrupt = Interrupt::listen()?;
    let mut reporter = Reporter::new(args.json);
    let stop = || interrupt.is_set();
    let outcome =
        trainer::run(&config, &text, args.resume, &compute, &stop, &mut |event| reporter.tell(&event))?;
    reporter.finish();
    draw(&config.out, &read_metrics(&config.out.join(METRICS))?)?;
    match outcome {
        Outcome::Done(model) => eprintln!("done: {} (try: cuvier chat -m {0})", model.display()),
        Outcome::Stopped(folder) => eprintln!("stopped; --resume goes on from {}", folder.display()),
    }
    Ok(())
}

/// Where a terminal is not looked at, a line is printed this often.
const EVERY: Duration = Duration::from_secs(10);

/// Prints how the run goes: on a terminal one line that changes, else a line now and then.
struct Reporter {
    json: bool,
    on_terminal: bool,
    printed: Option<Instant>,
    /// The step with which this process began, and when.
    began: (u64, Instant),
    /// Where the line that changes has to be ended first.
    is_open: bool,
}

impl Reporter {
    fn new(json: bool) -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        Self { json, on_terminal, printed: None, began: (0, Instant::now()), is_open: false }
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::Began { parameters, documents, tokens, too_long, step } => {
                self.began = (*step, Instant::now());
                if *too_long > 0 {
                    eprintln!("{too_long} conversations are longer than any stage's `max_len` and left out");
                }
                eprintln!(
                    "{parameters} parameters; {documents} documents, {tokens} tokens; from step {step}"
                );
            }
            Event::Step { steps, metrics } => self.step(*steps, metrics),
            Event::Saved(folder) => {
                self.finish();
                eprintln!("saved: {}", folder.display());
            }
        }
    }

    fn step(&mut self, steps: Option<u64>, metrics: &StepMetrics) {
        if self.json
            && let Ok(line) = serde_json::to_string(metrics)
        {
            println!("{line}");
        }
        let is_due = self.on_terminal
            || metrics.validation.is_some()
            || self.printed.is_none_or(|printed| printed.elapsed() >= EVERY);
        if !is_due {
            return;
        }
        self.printed = Some(Instant::now());
        let per_step = self.began.1.elapsed().as_secs_f64() / (metrics.step + 1 - self.began.0).max(1) as f64;
        let line = line(steps, per_step, metrics);
        if self.on_terminal && metrics.validation.is_none() {
            eprint!("\r\x1b[2K{line}");
            // What a terminal does not show is not worth stopping for.
            let _ = std::io::stderr().flush();
            self.is_open = true;
        } else {
            self.finish();
            eprintln!("{line}");
        }
    }

    fn finish(&mut self) {
        if std::mem::take(&mut self.is_open) {
            eprintln!();
        }
    }
}

fn line(steps: Option<u64>, per_step: f64, metrics: &StepMetrics) -> String {
    let done = metrics.step + 1;
    let of = steps.map_or(String::new(), |steps| format!("/{steps}"));
    let validation = metrics.validation.map_or(String::new(), |loss| format!(", held out {loss:.3}"));
    let left = steps.map_or(String::new(), |steps| {
        format!(", {} left", duration(per_step * steps.saturating_sub(done) as f64))
    });
    format!(
        "step {done}{of}: loss {:.3} (mtp {:.3}){validation}, gradient {:.2}, imbalance {:.2}, {:.0} tokens/s{left}",
        metrics.loss.next,
        metrics.loss.mtp,
        metrics.grad_norm,
        metrics.max_violation,
        metrics.tokens_per_second,
    )
}

fn duration(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}
