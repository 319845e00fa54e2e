//! What a reviewer should not have to look for.

mod arrows;
mod sizes;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// A text file of the repository.
pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Its lines.
    pub lines: Vec<String>,
}

/// Runs every check and fails if one finds something.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let sources = sources(root)?;
    let mut findings = Vec::new();
    findings.extend(sizes::check(&sources));
    findings.extend(arrows::check(root)?);
    findings.extend(words::check(&sources));
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => {
            eprintln!("tidy: {} files, nothing to mend", sources.len());
            Ok(())
        }
        n => bail!("tidy: {n} findings"),
    }
}

impl Source {
    /// Whether the file holds tests only.
    pub fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("tests.rs") || self.path.contains("/benches/")
    }

    /// The lines before a `#[cfg(test)]` module in the same file.
    pub fn code(&self) -> &[String] {
        let end = self.lines.iter().position(|line| line == "#[cfg(test)]").unwrap_or(self.lines.len());
        // `#[cfg(test)] mod tests;` at the top of a file hides nothing.
        let declares_only = self.lines.get(end + 1).is_some_and(|line| line.ends_with(';'));
        &self.lines[..if declares_only { self.lines.len() } else { end }]
    }
}

fn sources(root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut files = Vec::new();
    for folder in ["crates", "docs", "fuzz/fuzz_targets"] {
        walk(&root.join(folder), &mut files)?;
    }
    files.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name)),
    );
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().replace('\\', "/");
            Ok(Source { path, lines: text.lines().map(str::to_owned).collect() })
        })
        .collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        // What a package manager put beside the page's tests is not ours.
        if path.ends_with("node_modules") {
            continue;
        }
        if path.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            files.push(path);
        }
    }
    Ok(())
}
