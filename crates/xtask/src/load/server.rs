//! A server in a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::wire;
use crate::process::memory_of;

/// What is started.
#[derive(Clone, Debug)]
pub struct Setup {
    pub binary: PathBuf,
    pub model: Option<PathBuf>,
}

/// A server that listens; killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Setup {
    /// Starts the server and waits until it listens.
    pub fn start(&self, flags: &[&str]) -> anyhow::Result<Server> {
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--port", "0", "--log", "warn"]).args(flags);
        if let Some(model) = &self.model {
            command.arg("--model").arg(model);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().context("starting the server")?;
        let stdout = child.stdout.take().context("the server's stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("http://").context("the server said no address")?.parse()?;
        Ok(Server { child, address })
    }
}

impl Server {
    /// Resident memory in bytes, where the system tells.
    pub fn memory(&self) -> u64 {
        memory_of(self.child.id(), "VmRSS")
    }

    /// A gauge or counter of `/metrics`.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let body = wire::get(self.address, "/metrics")?;
        let found =
            body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
        found.with_context(|| format!("/metrics has no {name}"))
    }

    /// Waits until no answer is under way.
    pub fn wait_until_idle(&self, patience: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let in_flight = self.metric("cuvier_requests_in_flight")?;
            if in_flight == 0.0 {
                return Ok(());
            }
            anyhow::ensure!(start.elapsed() < patience, "{in_flight} answers still hold a slot");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it at once, as a lack of power would.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
