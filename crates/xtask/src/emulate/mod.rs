//! Tests on a CPU that this machine does not have: Bochs boots a kernel whose only program is the tests.
//!
//! Instruction sets without which a path of `kernels` never runs here (AVX-512, VNNI) are emulated instruction by
//! instruction, at some thirty million a second: half a minute to boot, and a hundred times as long as here to run.
//! Not a measure of speed. The kernel stays in `target/emulate`, the rest is made anew.

mod cpio;
mod machine;
mod verdict;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

use self::cpio::Archive;
use self::machine::Machine;
use crate::process::{call, output};

/// What to emulate and which tests to run there.
#[derive(clap::Args)]
pub struct Args {
    /// A model that `bochs --help cpu` lists and that has AVX-512 with VNNI.
    #[arg(long, default_value = "corei7_icelake_u")]
    cpu: String,
    /// The package whose tests run.
    #[arg(long, short, default_value = "cuvier-kernels")]
    package: String,
    /// Minutes until the emulated machine is stopped.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Handed to the test programs: parts of names, `--skip NAME`, `--exact`.
    #[arg(last = true)]
    filters: Vec<String>,
}

/// Statically linked programs need no library inside.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the tests, runs them inside, and fails if one fails or the CPU inside lacks AVX-512.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    machine::check_programs()?;
    let machine = Machine::prepare(root.join("target/emulate"), &args.cpu)?;
    eprintln!("building the tests of {}", args.package);
    let programs = build(root, &machine.dir, &args.package)?;
    pack(root, &machine, &programs, &args.filters)?;
    let serial = machine.boot(args.minutes)?;
    let verdict = verdict::read(&serial, programs.len())?;
    println!("on {}: {} tests passed, {} failed", args.cpu, verdict.passed, verdict.failed);
    if verdict.failed > 0 || !verdict.programs.is_empty() {
        bail!("failed inside, see target/emulate/serial.txt: {}", verdict.programs.join(", "));
    }
    if verdict.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// The test programs of a package, without their debug information.
fn build(root: &Path, dir: &Path, package: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root).args(["test", "--no-run", "--release", "--lib", "--tests"]);
    cargo.args(["--package", package, "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    cargo.args(["--config", &format!("target.{TARGET}.rustflags=['-Ctarget-feature=+crt-static']")]);
    cargo.args(["--config", "profile.release.debug=false", "--config", "profile.release.strip=true"]);
    cargo.env("CARGO_TARGET_DIR", dir.join("target"));
    let programs: Vec<_> = output(&mut cargo)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect();
    if programs.is_empty() {
        bail!("{package} has no tests");
    }
    Ok(programs)
}

/// Writes the file system that the kernel starts with, and the disc around it.
fn pack(root: &Path, machine: &Machine, programs: &[PathBuf], filters: &[String]) -> anyhow::Result<()> {
    let path = machine.dir.join("disc/initrd");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    let mut archive = Archive::start(BufWriter::new(file))?;
    archive.program("bin/busybox", &read(&machine.busybox)?)?;
    let mut names = Vec::new();
    for program in programs {
        let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
        archive.program(&format!("bin/{name}"), &read(program)?)?;
        names.push(name);
    }
    archive.program("init", init(&names, filters)?.as_bytes())?;
    add_fixtures(root, &mut archive)?;
    archive.finish()?;
    machine.write_disc()
}

/// Recorded truths lie where the test programs were told that they lie.
fn add_fixtures<W: std::io::Write>(root: &Path, archive: &mut Archive<W>) -> anyhow::Result<()> {
    let arguments = ["ls-files", "-z", "fixtures/*.safetensors", "fixtures/*.json", "models/calf"];
    let names = output(Command::new("git").current_dir(root).args(arguments))?;
    let mut known = std::collections::BTreeSet::new();
    let mut folders = |file: &Path, archive: &mut Archive<W>| -> anyhow::Result<()> {
        let mut all: Vec<_> = file.ancestors().skip(1).collect();
        all.reverse();
        for folder in all.into_iter().filter(|folder| folder.parent().is_some()) {
            let name = folder.to_string_lossy().trim_start_matches('/').to_owned();
            if known.insert(name.clone()) {
                archive.folder(&name)?;
            }
        }
        Ok(())
    };
    folders(&root.join("crates/any/any"), archive)?;
    for package in fs::read_dir(root.join("crates")).context("crates")? {
        folders(&package?.path().join("any"), archive)?;
    }
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let file = root.join(name);
        folders(&file, archive)?;
        archive.program(file.to_string_lossy().trim_start_matches('/'), &read(&file)?)?;
    }
    Ok(())
}

/// The first and only process inside.
fn init(programs: &[String], filters: &[String]) -> anyhow::Result<String> {
    if let Some(odd) = filters.iter().find(|filter| filter.contains('\'')) {
        bail!("{odd}: no name of a test has a quote");
    }
    let filters: Vec<_> = filters.iter().map(|filter| format!("'{filter}'")).collect();
    let mut script = format!(
        "#!/bin/busybox sh\n/bin/busybox mount -t proc proc /proc\n/bin/busybox mount -t sysfs sysfs /sys\n\
         export PROPTEST_CASES=8 PROPTEST_FAILURE_PERSISTENCE=off\n\
         echo \"{}$(/bin/busybox grep -m1 flags /proc/cpuinfo)\"\n",
        verdict::CPU
    );
    for name in programs {
        let (run, status, filters) = (verdict::RUN, verdict::STATUS, filters.join(" "));
        script += &format!(
            "echo '{run}{name}'\n/bin/{name} --test-threads 1 {filters}\nended=$?\necho\n\
             echo \"{status}$ended\"\n"
        );
    }
    // The line is slow: what it has not sent by then is lost.
    Ok(script + "/bin/busybox sleep 0.1\n/bin/busybox poweroff -f\n")
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// Runs a program whose chatter only matters when it fails.
fn quietly(command: &mut Command) -> anyhow::Result<()> {
    output(command).map(drop)
}

/// As [`call`], in a folder.
fn call_in(dir: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    call(Command::new(program).current_dir(dir).args(arguments))
}
