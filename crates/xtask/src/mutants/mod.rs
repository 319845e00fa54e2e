//! Known porting bugs, put into a copy of the tree one by one: which of them do the tests notice?
//!
//! Each is a mistake that somebody made when porting this architecture. A test suite that lets one pass is not
//! looking where people stumble.

mod list;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

pub use list::MUTANTS;

/// One bug: in `file`, the only place that reads `from` becomes `to`.
pub struct Mutant {
    pub name: &'static str,
    pub file: &'static str,
    pub from: &'static str,
    pub to: &'static str,
}

/// Whose tests are run, in this order, until one fails.
const JUDGES: [&str; 5] =
    ["cuvier-kernels", "cuvier-model", "cuvier-weights", "cuvier-encoding", "cuvier-engine"];

/// Applies every mutant whose name contains `only`, and fails if one survives.
pub fn run(root: &Path, only: Option<&str>, list: bool) -> anyhow::Result<()> {
    let chosen: Vec<_> = MUTANTS.iter().filter(|m| only.is_none_or(|part| m.name.contains(part))).collect();
    if list {
        chosen.iter().for_each(|mutant| println!("{}  ({})", mutant.name, mutant.file));
        return Ok(());
    }
    let tree = root.join("target/mutants/tree");
    copy_tracked(root, &tree)?;
    if let Some(judge) = first_failing(root, &tree, "")? {
        bail!("the unchanged tree fails the tests of {judge}");
    }
    let mut survivors = Vec::new();
    for (index, mutant) in chosen.iter().enumerate() {
        let start = Instant::now();
        let file = tree.join(mutant.file);
        let original = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        fs::write(&file, mutant.apply(&original)?)?;
        let verdict = first_failing(root, &tree, mutant.file);
        fs::write(&file, original)?;
        let seconds = start.elapsed().as_secs();
        let text = match verdict? {
            Some(judge) => format!("caught by {judge}"),
            None => {
                survivors.push(mutant.name);
                "SURVIVED".to_owned()
            }
        };
        println!("{:2}/{} {text:26} {seconds:4} s  {}", index + 1, chosen.len(), mutant.name);
    }
    println!("{} of {} caught", chosen.len() - survivors.len(), chosen.len());
    if !survivors.is_empty() {
        bail!("survivors: {}", survivors.join("; "));
    }
    Ok(())
}

impl Mutant {
    /// The text with the bug in it.
    ///
    /// # Errors
    /// If the place is not there exactly once: the list must follow the code.
    fn apply(&self, text: &str) -> anyhow::Result<String> {
        match text.matches(self.from).count() {
            1 => Ok(text.replacen(self.from, self.to, 1)),
            n => bail!("{}: `{}` stands {n} times in {}", self.name, self.from, self.file),
        }
    }
}

/// The first crate whose tests do not pass (not compiling counts as an error of the mutant, not as a catch).
fn first_failing(root: &Path, tree: &Path, file: &str) -> anyhow::Result<Option<&'static str>> {
    // A crate's own tests first: they are the quickest to notice.
    let own =
        JUDGES.iter().position(|judge| file.starts_with(&judge.replace("cuvier-", "crates/"))).unwrap_or(0);
    for judge in JUDGES.iter().cycle().skip(own).take(JUDGES.len()) {
        let cargo = |arguments: &[&str]| -> anyhow::Result<bool> {
            let mut command = Command::new("cargo");
            command.args(["test", "--release", "--quiet", "--package", judge]).args(arguments);
            command.current_dir(tree).env("CARGO_TARGET_DIR", root.join("target/mutants/target"));
            // What counts here is the time to build one changed function, not the speed of the code.
            command.env("CARGO_INCREMENTAL", "1").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
            command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1").env("RUSTFLAGS", "-Awarnings");
            command.stdout(Stdio::null()).stderr(Stdio::null());
            Ok(command.status().context("running cargo")?.success())
        };
        if !cargo(&["--no-run"])? {
            bail!("{judge} does not compile");
        }
        if !cargo(&["--lib", "--tests"])? {
            return Ok(Some(judge));
        }
    }
    Ok(None)
}

/// Copies the files that git tracks; files that did not change keep their time, so that cargo builds little.
fn copy_tracked(root: &Path, tree: &Path) -> anyhow::Result<()> {
    let output =
        Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().context("git ls-files")?;
    let names = String::from_utf8(output.stdout).context("names of tracked files")?;
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let (from, to): (PathBuf, PathBuf) = (root.join(name), tree.join(name));
        if !from.is_file() {
            continue;
        }
        let content = fs::read(&from).with_context(|| from.display().to_string())?;
        if fs::read(&to).is_ok_and(|old| old == content) {
            continue;
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        fs::write(&to, content).with_context(|| to.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_has_its_place_in_the_code() {
        let root = crate::root().expect("the workspace");
        for mutant in MUTANTS {
            let text = fs::read_to_string(root.join(mutant.file)).expect(mutant.file);
            assert_ne!(mutant.apply(&text).expect("its place"), text, "{} changes something", mutant.name);
        }
    }

    #[test]
    fn there_are_at_least_twenty_five_and_no_two_are_the_same() {
        assert!(MUTANTS.len() >= 25);
        let mut names: Vec<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MUTANTS.len());
    }
}
