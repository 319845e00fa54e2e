//! The servers that are checked: the embedded toy, and a model that says what its prompt tells it to.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};

use crate::process::call;

/// A server under way; dropping it ends it.
pub struct Server {
    /// `http://127.0.0.1:PORT`.
    pub address: String,
    process: Child,
}

/// All of them.
pub struct Servers {
    /// `cuvier serve` as a user starts it.
    pub calf: Server,
    /// The scripted model.
    pub scripted: Server,
    /// The same, with room for a single request.
    pub small: Server,
}

/// Builds and starts them. Their logs are written into `folder`.
///
/// # Errors
/// If one cannot be built, or does not say where it listens.
pub fn start(root: &Path, folder: &Path) -> anyhow::Result<Servers> {
    let cargo = || {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--quiet"]).current_dir(root);
        cargo
    };
    call(cargo().args(["--package", "cuvier-cli"]))?;
    call(cargo().args(["--package", "cuvier-server", "--example", "scripted"]))?;
    let binaries = root.join("target/release");
    let scripted = || Command::new(binaries.join("examples/scripted"));
    let mut calf = Command::new(binaries.join("cuvier"));
    calf.args(["serve", "--port", "0", "--name", "calf"]);
    Ok(Servers {
        calf: Server::start(&mut calf, &folder.join("calf.log"))?,
        scripted: Server::start(&mut scripted(), &folder.join("scripted.log"))?,
        small: Server::start(scripted().arg("1"), &folder.join("small.log"))?,
    })
}

impl Server {
    /// Both print their address when they are ready.
    fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let stdout = process.stdout.take().context("its output is a pipe")?;
        let mut server = Self { address: String::new(), process };
        BufReader::new(stdout).read_line(&mut server.address)?;
        server.address = server.address.trim().to_owned();
        if !server.address.starts_with("http://") {
            bail!("{command:?} does not say where it listens; see {}", log.display());
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended by itself has nothing left to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
