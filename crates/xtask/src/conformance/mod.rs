//! Real clients against a running server: the libraries and coding agents that people use, from their registries.
//!
//! The checks are the Python and JavaScript files beside this one. Each is a process of its own, which prints a line
//! of JSON per check. Nothing leaves the machine but the installation of the clients: they know one address, the
//! server's, and have a home folder, keys and settings of their own.

mod install;
mod report;
mod servers;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::process::last_lines;
use install::Clients;
use report::{Line, Outcome};
use servers::Servers;

/// What to check.
#[derive(clap::Args)]
pub struct Args {
    /// Only checks whose number, name or client contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// How long the crowd of check 35 goes on, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    soak: u64,
}

/// The files of checks, in the order of their table. Python's are run by the environment that holds the libraries.
const FILES: [&str; 9] = [
    "openai_sdk.py",
    "anthropic_sdk.py",
    "sdk.mjs",
    "litellm_routes.py",
    "langchain_models.py",
    "instructor_modes.py",
    "ai_sdk.mjs",
    "raw_http.py",
    "agents.py",
];

/// The checks of one file end before this, not counting the crowd of check 35, or are ended.
const FILE_TIMEOUT: Duration = Duration::from_secs(900);

/// Installs the clients, starts the servers, runs every check and prints the table.
///
/// # Errors
/// If a check failed, or something that all of them need cannot be had.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let folder = root.join("target/conformance");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let clients = install::clients(&folder)?;
    let servers = servers::start(root, &folder)?;
    let mut lines = Vec::new();
    for file in FILES {
        eprintln!("{file}");
        let found = run_file(root, &folder, &clients, &servers, args, file)?;
        found.iter().filter(|line| line.outcome != Outcome::Passed).for_each(|line| eprintln!("  {line}"));
        lines.extend(found);
    }
    drop(servers);
    print!("{}", report::table(&lines));
    match lines.iter().filter(|line| line.outcome == Outcome::Failed).count() {
        0 if lines.is_empty() => bail!("no check is called so"),
        0 => Ok(()),
        n => bail!("{n} checks failed; the servers' logs are in {}", folder.display()),
    }
}

fn run_file(
    root: &Path,
    folder: &Path,
    clients: &Clients,
    servers: &Servers,
    args: &Args,
    file: &str,
) -> anyhow::Result<Vec<Line>> {
    let program = if file.ends_with(".py") { &clients.python } else { &clients.node };
    let output = folder.join(format!("{file}.out"));
    let complaints = folder.join(format!("{file}.err"));
    let mut command = Command::new(program);
    command.arg(root.join("crates/xtask/src/conformance/checks").join(file));
    command.args(&args.only).current_dir(folder);
    isolate(&mut command, folder, clients)?;
    command.env("CUVIER_SOAK", args.soak.to_string());
    command
        .env("CUVIER_CALF", &servers.calf.address)
        .env("CUVIER_SCRIPTED", &servers.scripted.address)
        .env("CUVIER_SMALL", &servers.small.address);
    let create = |path: &PathBuf| fs::File::create(path).with_context(|| path.display().to_string());
    command.stdin(Stdio::null()).stdout(create(&output)?).stderr(create(&complaints)?);
    let child = command.spawn().with_context(|| program.display().to_string())?;
    let ended_well = wait(child, FILE_TIMEOUT + Duration::from_secs(args.soak))?;
    let mut lines = report::read(&fs::read_to_string(&output)?);
    if !ended_well {
        let mut said = String::new();
        fs::File::open(&complaints)?.read_to_string(&mut said)?;
        lines.push(Line::broken_file(file, &last_lines(&said)));
    }
    Ok(lines)
}

/// Clients see nothing of this machine's user: no keys, no settings, no proxies.
fn isolate(command: &mut Command, folder: &Path, clients: &Clients) -> anyhow::Result<()> {
    let home = folder.join("home");
    fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", home).env("LANG", "C.UTF-8");
    command.env("CUVIER_NODE", &clients.node_folder).env("PYTHONDONTWRITEBYTECODE", "1");
    // Prices of hosted models, which it would fetch.
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    // Traces, which it would send.
    command.env("LANGSMITH_TRACING", "false");
    Ok(())
}

/// Whether a process ended by itself and said that all went well.
fn wait(mut child: Child, timeout: Duration) -> anyhow::Result<bool> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if start.elapsed() > timeout {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
