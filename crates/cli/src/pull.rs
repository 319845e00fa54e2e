//! `cuvier pull`: a checkpoint from a model hub. The only verb that goes to the network by itself.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use cuvier_hub::{
    Client, ClientOptions, Endpoint, Event, HubError, PullOptions, RepoId, Revision, Token, pull,
    remote_headers,
};
use indicatif::ProgressBar;
use serde_json::json;

use crate::interrupt::Interrupt;
use crate::options::show_size;
use crate::plan;
use crate::progress;

/// Flags of `pull`.
#[derive(clap::Args)]
pub struct Args {
    /// The repository: OWNER/NAME
    #[arg(value_name = "REPO", value_parser = |text: &str| RepoId::parse(text))]
    repo: RepoId,
    /// Folder to fill; what is there and right is not fetched again [default: NAME]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Address of the hub; without it, the environment's HF_ENDPOINT
    #[arg(long, value_name = "URL", env = "CUVIER_HUB")]
    endpoint: Option<String>,
    /// Branch, tag or commit
    #[arg(long, value_name = "REV", default_value = "main", value_parser = |text: &str| Revision::parse(text))]
    revision: Revision,
    /// File with the token for the hub; without it, the environment's CUVIER_HUB_TOKEN or HF_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// HTTP proxy, or `none` [default: the environment's HTTPS_PROXY, if the hub is at https://]
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Connections at once
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: u8,
    /// Seconds without a byte after which a connection is given up
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u32).range(1..))]
    stall: u32,
    /// Hash files again that are there already, and fetch the broken parts of those that are not right
    #[arg(long)]
    recheck: bool,
    /// Fetch nothing: read config and headers only, and say what the model is, what would come, and whether and how it
    /// would fit into the memory of this machine, or of another with --memory
    #[arg(long)]
    dry_run: bool,
    #[command(flatten, next_help_heading = "With --dry-run")]
    wishes: plan::Wishes,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let client = Client::new(client_options(args)?)?;
    let interrupt = Interrupt::listen()?;
    if args.dry_run {
        return look(args, &client, &interrupt);
    }
    let folder = args.out.clone().unwrap_or_else(|| PathBuf::from(args.repo.name()));
    let bar = progress::bytes(0, "downloading");
    let options = PullOptions { recheck: args.recheck, ..PullOptions::default() };
    let pulled = pull(&client, &args.repo, &args.revision, &folder, &options, &mut |event| {
        if let Some(event) = event {
            show(&bar, event);
        }
        !interrupt.is_set()
    });
    bar.finish_and_clear();
    let report = match pulled {
        Err(HubError::Interrupted) => {
            bail!(
                "interrupted; what came is kept in {}, and the same command goes on from it",
                folder.display()
            )
        }
        pulled => pulled?,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let files = report.files.iter().map(
            |file| json!({ "file": file.name.as_str(), "bytes": file.size, "hash": file.id.to_string() }),
        );
        let document = json!({
            "repo": args.repo.to_string(),
            "commit": report.commit,
            "folder": folder.display().to_string(),
            "files": files.collect::<Vec<_>>(),
            "fetched": report.fetched,
        });
        writeln!(out, "{document}")?;
        return Ok(());
    }
    let bytes = show_size(report.files.iter().map(|file| file.size).sum());
    let (files, fetched) = (report.files.len(), report.fetched.len());
    let (folder, commit) = (folder.display(), report.commit);
    writeln!(out, "{folder}: {} at {commit}: {files} files, {bytes}, {fetched} of them fetched", args.repo)?;
    Ok(())
}

/// What is at the hub, from its headers.
fn look(args: &Args, client: &Client, interrupt: &Interrupt) -> anyhow::Result<()> {
    let remote = remote_headers(client, &args.repo, &args.revision, &mut |event| {
        if let Some(event) = event {
            show(&ProgressBar::hidden(), event);
        }
        !interrupt.is_set()
    })?;
    let tensors: usize = remote.shards.iter().map(|shard| shard.entries.len()).sum();
    let weights: u64 = remote.shards.iter().map(|shard| shard.bytes).sum();
    let layers = remote.config.num_hidden_layers;
    let mut out = std::io::stdout().lock();
    if args.json {
        let document = json!({
            "repo": args.repo.to_string(),
            "commit": remote.commit,
            "layers": layers,
            "tensors": tensors,
            "weight_bytes": weights,
            "download_bytes": remote.download_bytes,
        });
        writeln!(out, "{document}")?;
        return Ok(());
    }
    let (repo, commit, weights) = (&args.repo, remote.commit, show_size(weights));
    writeln!(out, "{repo} at {commit}: {layers} layers, {tensors} tensors in {weights} of weights")?;
    writeln!(out, "to download: {}", show_size(remote.download_bytes))?;
    drop(out);
    plan::tell_of_config(args.repo.name(), &remote.config, &args.wishes)
}

fn show(bar: &ProgressBar, event: Event) {
    let line = match event {
        Event::Came(bytes) => return bar.inc(bytes),
        Event::Planned { here, missing } => {
            bar.set_length(here + missing);
            bar.set_position(here);
            bar.reset_eta();
            format!("{} here already, {} to come", show_size(here), show_size(missing))
        }
        Event::Listed { commit, files, bytes } => {
            format!("commit {commit}: {files} files, {}", show_size(bytes))
        }
        Event::Checking { file } => format!("{file}: reading what is there"),
        Event::Void { file, bytes, reason } => {
            bar.set_position(bar.position().saturating_sub(bytes));
            format!("{file}: {} come again: {reason}", show_size(bytes))
        }
        Event::Done { file, bytes } => format!("{file}: whole, {}", show_size(bytes)),
        Event::Retry { what, reason, wait } => {
            format!("{what}: {reason}; again in {:.1} s", wait.as_secs_f64())
        }
    };
    bar.suspend(|| eprintln!("{line}"));
}

fn client_options(args: &Args) -> anyhow::Result<ClientOptions> {
    let Some(endpoint) =
        args.endpoint.clone().filter(|text| !text.is_empty()).or_else(|| variable("HF_ENDPOINT"))
    else {
        crate::refuse_usage(
            "which hub? Give its address with --endpoint URL, or in the environment as CUVIER_HUB or HF_ENDPOINT",
        );
    };
    let endpoint = Endpoint::parse(&endpoint).unwrap_or_else(|error| crate::refuse_usage(&error.to_string()));
    let encrypted = endpoint.to_string().starts_with("https://");
    let proxy = match &args.proxy {
        Some(proxy) => Some(proxy.clone()).filter(|proxy| proxy != "none"),
        None => variable("HTTPS_PROXY").filter(|_| encrypted),
    };
    Ok(ClientOptions {
        token: token(args.token_file.as_deref())?,
        proxy,
        connections: NonZeroUsize::new(args.connections.into()).unwrap_or(NonZeroUsize::MIN),
        stall_timeout: Duration::from_secs(args.stall.into()),
        ..ClientOptions::new(endpoint)
    })
}

fn token(file: Option<&Path>) -> anyhow::Result<Option<Token>> {
    let text = match file {
        Some(file) => Some(std::fs::read_to_string(file).with_context(|| file.display().to_string())?),
        None => variable("CUVIER_HUB_TOKEN").or_else(|| variable("HF_TOKEN")),
    };
    Ok(text.as_deref().map(Token::new).transpose()?)
}

/// An environment variable that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}
