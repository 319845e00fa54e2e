//! `cargo xtask page`: the web page in a real browser, over scripted answers and then over a server that was built here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::load::server::Setup;
use crate::process::call;

/// Flags of `page`.
#[derive(clap::Args)]
pub struct Args {
    /// The browser to drive [default: the first Chromium or Chrome that is found]
    #[arg(long, value_name = "PATH")]
    browser: Option<PathBuf>,
}

/// Names under which systems have it.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Installs what drives the browser, and runs the tests twice.
///
/// # Errors
/// If a test failed, or something that all of them need is not there: then none was run, and the error says so.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    find(&["node".into()])?;
    find(&["npm".into()])?;
    let browser = match &args.browser {
        Some(browser) => find(std::slice::from_ref(browser))?,
        None => find(&BROWSERS.map(PathBuf::from))?,
    };
    let tests = root.join("crates/server/page/tests");
    call(Command::new("npm").args(["ci", "--silent", "--no-audit", "--no-fund"]).current_dir(&tests))?;
    call(Command::new("cargo").args(["build", "--release", "--package", "cuvier-cli"]).current_dir(root))?;
    let test = || {
        let mut test = Command::new("npm");
        test.args(["test", "--silent"]).current_dir(&tests);
        test.env("CHROMIUM", &browser).env_remove("CUVIER_PAGE_URL");
        test
    };
    eprintln!("== scripted answers");
    call(&mut test())?;
    eprintln!("== a server with the embedded toy");
    let server = Setup { binary: root.join("target/release/cuvier"), model: None }.start(&[])?;
    call(test().env("CUVIER_PAGE_URL", format!("http://{}/", server.address)))
}

/// The first of these programs that there is.
///
/// # Errors
/// If there is none.
fn find(programs: &[PathBuf]) -> anyhow::Result<PathBuf> {
    programs.iter().find_map(|program| place(program)).with_context(|| {
        let names: Vec<_> = programs.iter().map(|program| format!("`{}`", program.display())).collect();
        format!("not run: {} is needed, and does not start", names.join(" or "))
    })
}

/// Where a program is, if it starts at all.
fn place(program: &Path) -> Option<PathBuf> {
    let mut version = Command::new(program);
    version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().ok()?.success() {
        return None;
    }
    if program.components().count() > 1 {
        return program.canonicalize().ok();
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_that_is_missing_is_named_and_nothing_counts_as_run() {
        let browsers = ["/no/such/browser", "no-such-browser"].map(PathBuf::from);
        let error = find(&browsers).expect_err("there is none").to_string();
        assert_eq!(error, "not run: `/no/such/browser` or `no-such-browser` is needed, and does not start");
    }

    #[test]
    fn a_program_on_the_path_is_found_with_its_folder() {
        let cargo = find(&["no-such-browser".into(), "cargo".into()]).expect("cargo runs this test");
        assert!(cargo.is_absolute() && cargo.ends_with("cargo"), "{}", cargo.display());
    }
}
