//! Where and with what a comparison was made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Args;
use super::measure::CuvierBench;
use super::prepare::{PACKAGE, PACKAGE_VERSION};
use super::statistics::Summary;
use crate::process::output;

/// What is known of the machine, and what the runs add.
pub struct Machine {
    root: PathBuf,
    is_built_here: bool,
    threads: usize,
    cpu: String,
    isa: String,
    llama_commit: String,
    memory_gbps: Vec<f64>,
    gflops: Vec<f64>,
    int8_gops: Vec<f64>,
    fp4_gops: Vec<f64>,
    loads: Vec<f64>,
}

impl Machine {
    pub fn new(root: &Path, args: &Args) -> Self {
        Self {
            root: root.to_owned(),
            is_built_here: args.cuvier.is_none(),
            threads: args.threads,
            cpu: String::new(),
            isa: String::new(),
            llama_commit: String::new(),
            memory_gbps: Vec::new(),
            gflops: Vec::new(),
            int8_gops: Vec::new(),
            fp4_gops: Vec::new(),
            loads: Vec::new(),
        }
    }

    /// What a run of ours says of the machine.
    pub fn note(&mut self, bench: &CuvierBench) {
        self.cpu.clone_from(&bench.cpu);
        self.isa.clone_from(&bench.isa);
        self.memory_gbps.push(bench.memory_gbps);
        self.gflops.push(bench.gflops);
        self.int8_gops.push(bench.int8_gops);
        self.fp4_gops.push(bench.fp4_gops);
    }

    pub fn note_llama(&mut self, commit: String) {
        self.llama_commit = commit;
    }

    /// How busy the machine is now, the last minute's average, where the system tells.
    pub fn note_load(&mut self) {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        self.loads.extend(text.split_whitespace().next().and_then(|load| load.parse::<f64>().ok()));
    }

    /// The best instruction set, after the first run.
    pub fn isa(&self) -> &str {
        &self.isa
    }

    /// One line each.
    pub fn facts(&self, rounds: u32) -> Vec<(&'static str, String)> {
        let memory = memory_gib().map_or_else(String::new, |gib| format!(", {gib:.0} GiB"));
        let mut facts = vec![
            ("date", first_line(Command::new("date").args(["-u", "+%F"]))),
            ("machine", format!("{}{memory}; {}, {} threads", self.cpu, self.isa, self.threads)),
            ("roof", self.roof()),
            ("cuvier", self.cuvier_version()),
            ("llama.cpp", format!("{}, from {PACKAGE} {PACKAGE_VERSION}", self.llama_commit)),
            ("rounds", format!("{rounds}, medians (ends); either engine a process per case, in turns")),
        ];
        if let Some(Summary { min, max, .. }) = Summary::of(&self.loads) {
            facts.push((
                "load",
                format!("{min:.1} to {max:.1} before a case; the measured engine is part of it"),
            ));
        }
        facts
    }

    fn roof(&self) -> String {
        let memory = range(&self.memory_gbps, "GB/s");
        let flops = range(&self.gflops, "GFLOP/s in f32");
        let int8 = range(&self.int8_gops, "GOP/s in eight bits");
        format!("{memory}; {flops}; {int8}; {}", range(&self.fp4_gops, "GOP/s with FP4"))
    }

    fn cuvier_version(&self) -> String {
        if !self.is_built_here {
            return "a binary given with --cuvier".to_owned();
        }
        let mut git = Command::new("git");
        first_line(git.args(["describe", "--always", "--dirty"]).current_dir(&self.root))
    }
}

fn range(values: &[f64], unit: &str) -> String {
    Summary::of(values).map_or_else(
        || "unknown".to_owned(),
        |Summary { median, min, max }| format!("{median:.1} ({min:.1} to {max:.1}) {unit}"),
    )
}

fn first_line(command: &mut Command) -> String {
    let text = output(command).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// Memory of the machine, where the system tells.
fn memory_gib() -> Option<f64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0 / 1024.0)
}
