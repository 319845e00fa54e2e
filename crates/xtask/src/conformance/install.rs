//! The clients, as their registries have them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::{Map, json};

use crate::process::{call, output};

/// Libraries for Python.
const PYTHON_PACKAGES: [&str; 10] = [
    "openai==2.54.0",
    "anthropic==2.12.0",
    "litellm==1.106.2",
    "mcp==2.3.0",
    "langchain-deepseek==1.1.1",
    "langchain-openai==1.7.3",
    "langchain-anthropic==1.7.7",
    "instructor==1.17.0",
    "httpx==0.28.1",
    "pydantic==2.14.4",
];

/// Libraries for Node, a Node that they take, and the coding agents.
const NODE_PACKAGES: [(&str, &str); 9] = [
    ("openai", "7.57.0"),
    ("@anthropic-ai/sdk", "1.14.0"),
    ("ai", "7.0.173"),
    ("@ai-sdk/openai-compatible", "3.0.92"),
    ("@ai-sdk/deepseek", "3.0.56"),
    ("@anthropic-ai/claude-code", "2.1.197"),
    ("@openai/codex", "0.169.0"),
    ("opencode-ai", "1.18.33"),
    ("cline", "3.0.65"),
];

/// Where the clients are.
pub struct Clients {
    /// Python with its libraries.
    pub python: PathBuf,
    /// Node.
    pub node: PathBuf,
    /// The folder whose `node_modules` holds the rest.
    pub node_folder: PathBuf,
}

/// Installs what is absent.
///
/// # Errors
/// If Python, Node or a registry is.
pub fn clients(folder: &Path) -> anyhow::Result<Clients> {
    let environment = folder.join("venv");
    let python = environment.join("bin/python");
    let wanted = PYTHON_PACKAGES.join("\n");
    if !is_installed(&environment, &wanted) {
        call(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        call(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PYTHON_PACKAGES))?;
        mark(&environment, &wanted)?;
    }
    let node_folder = folder.join("node");
    let manifest = manifest();
    if !is_installed(&node_folder, &manifest) {
        fs::create_dir_all(&node_folder)?;
        fs::write(node_folder.join("package.json"), &manifest)?;
        call(Command::new("npm").args(["install", "--silent"]).current_dir(&node_folder))?;
        mark(&node_folder, &manifest)?;
    }
    let node = PathBuf::from(output(Command::new("node").args(["-p", "process.execPath"]))?.trim());
    if !node.is_absolute() {
        bail!("node says that it is at `{}`", node.display());
    }
    Ok(Clients { python, node, node_folder })
}

fn manifest() -> String {
    let packages = NODE_PACKAGES.iter().map(|(name, version)| ((*name).to_owned(), json!(version)));
    json!({"private": true, "type": "module", "dependencies": Map::from_iter(packages)}).to_string()
}

/// What a folder was last filled with.
const MARK: &str = "installed.txt";

fn is_installed(folder: &Path, wanted: &str) -> bool {
    fs::read_to_string(folder.join(MARK)).is_ok_and(|installed| installed == wanted)
}

fn mark(folder: &Path, wanted: &str) -> anyhow::Result<()> {
    fs::write(folder.join(MARK), wanted).with_context(|| folder.display().to_string())
}
