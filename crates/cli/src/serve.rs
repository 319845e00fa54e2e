//! `cuvier serve`: the HTTP server.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use cuvier_encoding::Generation;
use cuvier_engine::{CacheConfig, DiskCache, Engine, EngineConfig};
use cuvier_model::plan::StepSize;
use cuvier_server::{App, ServerConfig};
use cuvier_types::Bytes;

use crate::needs::{CONTEXT, Needs, SLOTS};
use crate::options::{ComputeArgs, ModelArgs, Think, parse_size};
use crate::planning;
use crate::session::open_model;

/// Flags of `serve`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Address to listen on; one that others can reach needs --api-key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// Key that clients must send; may be given several times, for callers that share no cache
    #[arg(long, value_name = "KEY", env = "CUVIER_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// Most tokens of a conversation [default: the model's own limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    context: Option<u32>,
    /// Answers computed at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    slots: u16,
    /// Answers under way and waiting, together; further requests are refused with 429
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    queue: u16,
    /// Memory for what was computed of earlier prompts, besides what answers under way need; 0 keeps nothing
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    cache_memory: Bytes,
    /// Folder that keeps what was computed of prompts beyond a restart; it holds their tokens
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,
    /// Most that the folder may hold
    #[arg(long, value_name = "SIZE", default_value = "16GiB", value_parser = parse_size, requires = "cache_dir")]
    cache_size: Bytes,
    /// Origin whose web pages may use the server; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Whether the model thinks where a request does not say it
    #[arg(long, value_name = "EFFORT", default_value = "high")]
    think: Think,
    /// Id of the model [default: the folder's name]
    #[arg(long, value_name = "ID")]
    name: Option<String>,
    /// Further id under which the model answers; may be given several times
    #[arg(long, value_name = "ID")]
    alias: Vec<String>,
    /// Longest request
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = parse_size)]
    body_limit: Bytes,
    /// How long answers under way may go on after the server was told to stop, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    drain: u64,
    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
    /// What to log, in the syntax of `tracing`'s filters
    #[arg(long, value_name = "FILTER", default_value = "info", env = "CUVIER_LOG")]
    log: String,
    /// Write prompts and answers to the log
    #[arg(long)]
    log_prompts: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    check(args)?;
    start_log(args)?;
    let opened = open_model(args.model.model.as_deref())?;
    let tokenizer = opened.tokenizer()?;
    let config = server_config(args, &opened.name, opened.generation()?, opened.sampling_defaults()?);
    let plan = opened.plan(&args.compute, needs(args))?;
    planning::lines(&plan).iter().for_each(|line| eprintln!("{line}"));
    let model = opened.engine_model(&plan, &args.compute)?;
    let engine_config = EngineConfig {
        batch_tokens_max: plan.chunk,
        batch_tokens_answering: plan.chunk_answering,
        sequences_max: plan.wish.slots,
        context_max: Some(plan.wish.context),
        cache: CacheConfig {
            memory_bytes: args.cache_memory.0,
            disk: args.cache_dir.clone().map(|dir| DiskCache { dir, bytes_max: args.cache_size.0 }),
        },
    };
    let engine = Engine::start(model, engine_config)?;
    let app = Arc::new(App::new(engine, tokenizer, config).context("the tokenizer")?);
    let runtime = tokio::runtime::Runtime::new().context("starting the server's threads")?;
    runtime.block_on(listen(args, app))
}

fn needs(args: &Args) -> Needs {
    Needs {
        context: args.context.map(|n| n as usize),
        slots: usize::from(args.slots),
        chunk: StepSize::Chosen,
        logit_rows: 0,
        prefix_cache: args.cache_memory.0,
        flags: &[CONTEXT, SLOTS],
    }
}

/// A server that others can reach, and that lets everybody in, is refused.
fn check(args: &Args) -> anyhow::Result<()> {
    if args.api_key.iter().any(|key| key.trim().is_empty()) {
        bail!("--api-key is empty; give a key, or leave it out on a loopback address");
    }
    if !args.host.is_loopback() && args.api_key.is_empty() {
        bail!(
            "--host {} can be reached from other machines: set --api-key (or CUVIER_API_KEY), or stay on 127.0.0.1",
            args.host
        );
    }
    Ok(())
}

fn start_log(args: &Args) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log).with_context(|| {
        format!("--log `{}` is not a filter; write info, debug or cuvier_server=debug", args.log)
    })?;
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = if args.log_json { log.json().try_init() } else { log.try_init() };
    // Only a second log in one process fails, and there is none.
    started.map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}

fn server_config(
    args: &Args,
    name: &str,
    generation: Generation,
    (temperature, top_p): (f32, f32),
) -> ServerConfig {
    let model = args.name.clone().unwrap_or_else(|| name.to_owned());
    let mut config = ServerConfig::new(model, generation);
    config.aliases.clone_from(&args.alias);
    config.thinking = args.think.into();
    (config.temperature, config.top_p) = (temperature, top_p);
    config.api_keys.clone_from(&args.api_key);
    config.cors.clone_from(&args.cors);
    config.requests_max = usize::from(args.queue.max(args.slots));
    config.body_max = usize::try_from(args.body_limit.0).unwrap_or(usize::MAX);
    config.drain_timeout = Duration::from_secs(args.drain);
    config.log_prompts = args.log_prompts;
    config
}

async fn listen(args: &Args, app: Arc<App>) -> anyhow::Result<()> {
    let address = SocketAddr::new(args.host, args.port);
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("{address}: cannot listen there; choose another --port"))?;
    let address = listener.local_addr().context("the address of the server")?;
    writeln!(std::io::stdout().lock(), "http://{address}")?;
    cuvier_server::serve(app, listener, stopped()).await;
    Ok(())
}

/// Ready when the process is asked to end.
async fn stopped() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupt.await;
}
