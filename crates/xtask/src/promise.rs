//! `cargo xtask promise`: whether a plan is kept. Random models, budgets, contexts and slots; each is planned, served within
//! a group of processes that may take no more than was promised, filled to its last token, and measured.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::load::wire;
use crate::mapped::untouched;
use crate::process::{memory_of, output};

/// Flags of `promise`.
#[derive(clap::Args)]
pub struct Args {
    /// How many configurations
    #[arg(long, default_value_t = 200)]
    runs: u64,
    /// Only this one of them, counted from 0
    #[arg(long)]
    only: Option<u64>,
    /// What they are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the models are written and kept
    #[arg(long, default_value = "target/promise")]
    models: PathBuf,
    /// A binary to test [default: the one built here]
    #[arg(long)]
    cuvier: Option<PathBuf>,
}

/// The shapes, as changes of what [`config`] has.
const SHAPES: [(&str, &str); 6] = [
    (
        "tiny",
        r#"{"hidden_size":256,"num_hidden_layers":4,"compress_ratios":[0,4,128,4],"num_attention_heads":4,"head_dim":64,"qk_rope_head_dim":16,"q_lora_rank":64,"o_groups":2,"o_lora_rank":64,"index_n_heads":4,"index_head_dim":32,"index_topk":64,"n_routed_experts":32,"num_experts_per_tok":4,"moe_intermediate_size":128,"num_hash_layers":1,"vocab_size":2048}"#,
    ),
    (
        "narrow",
        r#"{"hidden_size":512,"num_hidden_layers":6,"compress_ratios":[0,0,4,128,4,128],"num_attention_heads":8,"head_dim":128,"qk_rope_head_dim":64,"q_lora_rank":128,"o_groups":2,"o_lora_rank":128,"index_n_heads":8,"index_head_dim":64,"index_topk":64,"n_routed_experts":256,"num_experts_per_tok":6,"moe_intermediate_size":1024,"num_hash_layers":2,"vocab_size":4096}"#,
    ),
    (
        "wide",
        r#"{"hidden_size":2048,"num_hidden_layers":4,"compress_ratios":[0,4,128,4],"num_attention_heads":16,"head_dim":256,"qk_rope_head_dim":64,"q_lora_rank":512,"o_groups":4,"o_lora_rank":256,"index_n_heads":16,"index_head_dim":64,"index_topk":128,"n_routed_experts":128,"num_experts_per_tok":4,"moe_intermediate_size":1024,"num_hash_layers":1,"vocab_size":32768}"#,
    ),
    (
        "heads",
        r#"{"hidden_size":1024,"num_hidden_layers":4,"compress_ratios":[0,4,128,4],"num_attention_heads":32,"head_dim":512,"qk_rope_head_dim":64,"q_lora_rank":256,"o_groups":8,"o_lora_rank":256,"index_n_heads":32,"index_head_dim":128,"index_topk":256,"n_routed_experts":192,"num_experts_per_tok":6,"moe_intermediate_size":1024,"num_hash_layers":1,"vocab_size":8192}"#,
    ),
    (
        "deep",
        r#"{"hidden_size":768,"num_hidden_layers":12,"compress_ratios":[0,0,4,128,4,128,4,128,4,128,4,128],"num_attention_heads":8,"head_dim":128,"qk_rope_head_dim":32,"q_lora_rank":256,"o_groups":2,"o_lora_rank":256,"index_n_heads":8,"index_head_dim":64,"index_topk":64,"n_routed_experts":128,"num_experts_per_tok":6,"moe_intermediate_size":768,"num_hash_layers":2,"vocab_size":16384}"#,
    ),
    (
        "sliding",
        r#"{"hidden_size":1024,"num_hidden_layers":6,"compress_ratios":[0,0,0,0,0,0],"num_attention_heads":8,"head_dim":128,"qk_rope_head_dim":64,"q_lora_rank":256,"o_groups":2,"o_lora_rank":256,"n_routed_experts":128,"num_experts_per_tok":2,"moe_intermediate_size":1024,"num_hash_layers":3,"vocab_size":65536}"#,
    ),
];
/// A plan of at least this much is to be met to within [`SLACK`].
const LARGE: u64 = 1 << 30;
const SLACK: f64 = 0.03;
/// Tokens that an answer has.
const ANSWER: usize = 8;
/// How long a server may take to listen, and to answer.
const PATIENCE: Duration = Duration::from_secs(600);

/// One configuration.
#[derive(Clone, Debug)]
struct Case {
    model: usize,
    memory: u64,
    context: usize,
    slots: usize,
    threads: usize,
    kv: &'static str,
    cache: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outcome {
    planned: u64,
    /// Of that, room for experts and rows of the embedding that no token chose, and for prefixes that nobody began with.
    unused: u64,
    peak: u64,
    streamed: bool,
    refused: bool,
}

/// Runs the configurations and prints what was found; an error if a promise was broken.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let binary = args.cuvier.clone().unwrap_or_else(|| root.join("target/release/cuvier"));
    ensure!(binary.exists(), "build it first: cargo build --release");
    let models = root.join(&args.models);
    let folders = SHAPES.iter().map(|(name, changes)| synth(&binary, &models, name, changes));
    let folders = folders.collect::<anyhow::Result<Vec<_>>>()?;
    let group = Group::new();
    println!(
        "group of processes with a ceiling: {}",
        if group.is_some() { "yes" } else { "not run: not allowed here" }
    );
    let mut rng = Rng(args.seed);
    let (mut outcomes, mut broken) = (Vec::new(), Vec::new());
    for n in 0..args.runs {
        let case = Case::draw(&mut rng, &binary, &folders)?;
        if args.only.is_some_and(|only| only != n) {
            continue;
        }
        match examine(&binary, &folders[case.model], &case, group.as_ref()) {
            Ok(outcome) => {
                let share = outcome.share();
                println!("{n:4} {share:.3} {outcome:?} {} {case:?}", SHAPES[case.model].0);
                outcomes.push(outcome);
            }
            Err(error) => {
                println!("{n:4} BROKEN {} {case:?}: {error:#}", SHAPES[case.model].0);
                broken.push(error);
            }
        }
    }
    summary(&outcomes, broken.len())
}

impl Outcome {
    /// What was taken of what was planned, with the room that nothing asked for.
    fn share(&self) -> f64 {
        (self.peak + self.unused) as f64 / self.planned as f64
    }
}

fn summary(outcomes: &[Outcome], broken: usize) -> anyhow::Result<()> {
    let above = outcomes.iter().filter(|o| o.peak > o.planned).count();
    let (streaming, loaded): (Vec<&Outcome>, Vec<&Outcome>) =
        outcomes.iter().filter(|o| o.planned > LARGE).partition(|o| o.streamed);
    let refused = outcomes.iter().filter(|o| o.refused).count();
    let streamed = outcomes.iter().filter(|o| o.streamed).count();
    println!(
        "{} configurations, {streamed} streamed, {refused} refused first and run as advised; {broken} failed; {above} \
         above the plan",
        outcomes.len(),
    );
    for (what, large) in [("streamed", streaming), ("loaded", loaded)] {
        let shares: Vec<f64> = large.iter().map(|outcome| outcome.share()).collect();
        let far = shares.iter().filter(|&&share| share < 1.0 - SLACK).count();
        let least = shares.iter().copied().fold(1.0, f64::min);
        println!(
            "of {} {what} plans over 1 GiB {far} more than 3 % above what was needed (least {least:.3})",
            shares.len()
        );
    }
    ensure!(broken == 0 && above == 0, "a promise was broken");
    Ok(())
}

/// A checkpoint of that shape, written once.
pub fn synth(binary: &Path, models: &Path, name: &str, changes: &str) -> anyhow::Result<PathBuf> {
    let folder = models.join(name);
    if folder.join("config.json").exists() {
        return Ok(folder);
    }
    std::fs::create_dir_all(models)?;
    let shape = models.join(format!("{name}.json"));
    std::fs::write(&shape, config(changes)?.to_string())?;
    let (shape, out) = (shape.to_string_lossy(), folder.to_string_lossy());
    output(Command::new(binary).args(["synth", "--shape", &shape, "--no-mtp", "-o", &out]))?;
    Ok(folder)
}

/// Flash with some keys changed.
fn config(changes: &str) -> anyhow::Result<Value> {
    let mut config = json!({
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "num_key_value_heads": 1,
        "sliding_window": 128, "compress_rope_theta": 160_000, "rope_theta": 10_000, "n_shared_experts": 1,
        "max_position_embeddings": 65_536, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 64,
        "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": true,
        "routed_scaling_factor": 1.5, "swiglu_limit": 10.0, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6,
        "rms_norm_eps": 1e-6, "num_nextn_predict_layers": 0, "expert_dtype": "fp4", "hidden_act": "silu",
        "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 1,
        "quantization_config": {
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
            "weight_block_size": [128, 128], "scale_fmt": "ue8m0"
        },
    });
    let changes: Value = serde_json::from_str(changes)?;
    let (Some(config_keys), Some(changes)) = (config.as_object_mut(), changes.as_object()) else {
        bail!("a config is an object");
    };
    config_keys.extend(changes.clone());
    Ok(config)
}

impl Case {
    fn draw(rng: &mut Rng, binary: &Path, folders: &[PathBuf]) -> anyhow::Result<Self> {
        let model = rng.below(folders.len() as u64) as usize;
        let context = 256 << rng.below(3);
        let mut case = Self {
            model,
            memory: 1 << 20,
            context: context + rng.below(context as u64) as usize,
            slots: 1 + rng.below(4) as usize,
            threads: 1 + rng.below(2) as usize,
            kv: if rng.below(4) == 0 { "f32" } else { "fp8" },
            cache: if rng.below(3) == 0 { 16 << 20 } else { 0 },
        };
        // From a tenth below the least that does to a tenth above all.
        let least =
            plan(binary, &folders[model], &case)?["nearest"]["memory"].as_u64().context("no advice")?;
        let all = Case { memory: 1 << 50, ..case.clone() };
        let all = plan(binary, &folders[model], &all)?["memory"]["total"].as_u64().context("no total")?;
        let (low, high) = (least - least / 10, all + all / 10);
        case.memory = low + rng.below(high - low);
        Ok(case)
    }

    fn flags(&self) -> Vec<String> {
        let flags = [
            ("--memory", format!("{}B", self.memory)),
            ("--context", self.context.to_string()),
            ("--slots", self.slots.to_string()),
            ("--threads", self.threads.to_string()),
            ("--kv", self.kv.to_owned()),
            ("--cache-memory", format!("{}B", self.cache)),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }
}

/// What `cuvier plan --json` says; also where it refuses.
fn plan(binary: &Path, folder: &Path, case: &Case) -> anyhow::Result<Value> {
    let said = Command::new(binary).args(["plan", "--json", "-m"]).arg(folder).args(case.flags()).output()?;
    serde_json::from_slice(&said.stdout)
        .with_context(|| String::from_utf8_lossy(&said.stderr).trim().to_owned())
}

fn examine(binary: &Path, folder: &Path, case: &Case, group: Option<&Group>) -> anyhow::Result<Outcome> {
    let planned = plan(binary, folder, case)?;
    let mut case = case.clone();
    let refused = planned["fits"] == false;
    if refused {
        refuses_at_once(binary, folder, &case)?;
        case.memory = planned["nearest"]["memory"].as_u64().context("no advice")?;
    }
    let planned = plan(binary, folder, &case)?;
    ensure!(planned["fits"] == true, "what was advised does not fit");
    let total = planned["memory"]["total"].as_u64().context("no total")?;
    ensure!(total <= case.memory, "the plan of {total} bytes is above the ceiling");
    let Measured { peak, read, untouched, cached } = serve(binary, folder, &case, group)?;
    let streamed = planned["streamed"].is_object();
    let experts = planned["memory"]["expert_cache"].as_u64().unwrap_or(0);
    let weights = if streamed { experts.saturating_sub(read) } else { untouched };
    let unused = weights + case.cache.saturating_sub(cached);
    Ok(Outcome { planned: total, unused, peak, streamed, refused })
}

/// Serving what does not fit must fail before anything is allocated.
fn refuses_at_once(binary: &Path, folder: &Path, case: &Case) -> anyhow::Result<()> {
    let begun = Instant::now();
    let said = Command::new(binary)
        .args(["serve", "--port", "0", "--log", "warn", "-m"])
        .arg(folder)
        .args(case.flags())
        .output()?;
    ensure!(said.status.code() == Some(1), "serve was not refused: {}", said.status);
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(text.contains("what fits: --memory"), "refused without advice: {text}");
    ensure!(begun.elapsed() < Duration::from_secs(10), "refused after {:?}", begun.elapsed());
    Ok(())
}

/// Bytes.
struct Measured {
    /// Of memory, at most.
    peak: u64,
    /// Of experts read from disk.
    read: u64,
    /// Of weights that are used where they lie in the files, and were not.
    untouched: u64,
    /// Of prefixes that are kept.
    cached: u64,
}

/// Waits until a request is under way, for a second at most: a small model has answered by then.
fn until_busy(address: SocketAddr) {
    let begun = Instant::now();
    let is_busy = || {
        let metrics = wire::get(address, "/metrics").unwrap_or_default();
        metrics.lines().any(|line| line == "cuvier_requests_in_flight 1")
    };
    while begun.elapsed() < Duration::from_secs(1) && !is_busy() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Serves, fills every slot to its last token, and says how much memory that took at most.
fn serve(binary: &Path, folder: &Path, case: &Case, group: Option<&Group>) -> anyhow::Result<Measured> {
    let mut command = Command::new(binary);
    command
        .args(["serve", "--port", "0", "--log", "warn", "--name", "x", "-m"])
        .arg(folder)
        .args(case.flags());
    let mut server = Serving(start(command, case.memory, group)?);
    let stdout = server.0.stdout.take().context("the server's stdout")?;
    let address = first_line(stdout)?.strip_prefix("http://").context("no address")?.parse()?;
    // Prompts as long as can be, then answers.
    let answers: Vec<_> =
        [1, ANSWER].into_iter().flat_map(|answer| fill_all(address, case, answer)).collect();
    let peak = memory_of(server.0.id(), "VmHWM");
    for answer in answers {
        let (status, body) = answer.with_context(|| format!("the server had taken {peak} bytes"))?;
        ensure!(status == 200, "{status}: {body}");
    }
    let metrics = wire::get(address, "/metrics")?;
    let sum = |name: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    };
    let untouched = untouched(server.0.id(), folder)?;
    ensure!(server.0.try_wait()?.is_none(), "the server ended");
    let (read, cached) = (sum("cuvier_expert_read_bytes_total{"), sum("cuvier_cache_memory_bytes "));
    Ok(Measured { peak, read, untouched, cached })
}

/// Fills every slot to its last token, `answer` tokens of them an answer. While a first prompt is computed all others
/// arrive, so that the step after it has as many tokens as a step can.
fn fill_all(address: SocketAddr, case: &Case, answer: usize) -> Vec<anyhow::Result<(u16, String)>> {
    std::thread::scope(|scope| {
        let ask = |n: usize| scope.spawn(move || fill(address, case, n, if n == 0 { 1 } else { answer }));
        let first = ask(0);
        until_busy(address);
        let asked: Vec<_> = std::iter::once(first).chain((1..=case.slots).map(ask)).collect();
        asked.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a client broke"))).collect()
    })
}

/// A prompt as long as the context allows: the toy tokenizer of `synth` makes a token of every byte, after a first one.
fn fill(address: SocketAddr, case: &Case, n: usize, answer: usize) -> anyhow::Result<(u16, String)> {
    let mut rng = Rng((n + 100 * answer) as u64 + 1);
    let len = case.context - answer - 1;
    // All kinds of bytes, so that tokens, and with them experts, are as different as they can be.
    let mut prompt = String::new();
    while prompt.len() + 3 <= len {
        prompt.extend(char::from_u32(0x20 + rng.below(0x2FE0) as u32));
    }
    prompt.extend(std::iter::repeat_n('x', len - prompt.len()));
    let body = json!({ "model": "x", "prompt": prompt, "max_tokens": answer, "temperature": 0 }).to_string();
    let mut stream = wire::connect_for(address, PATIENCE)?;
    stream.write_all(wire::head("POST", "/v1/completions", body.len()).as_bytes())?;
    stream.write_all(body.as_bytes())?;
    wire::read_response(stream)
}

/// Killed when dropped.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: Command, memory: u64, group: Option<&Group>) -> anyhow::Result<Child> {
    let mut command = match group {
        None => command,
        Some(group) => group.within(&command, memory)?,
    };
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("starting the server")
}

fn first_line(mut stdout: impl Read) -> anyhow::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while stdout.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// A group of processes whose memory has a ceiling.
struct Group {
    folder: PathBuf,
    limit: &'static str,
}

impl Group {
    /// Made where the system allows it.
    fn new() -> Option<Self> {
        let kinds = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        kinds.into_iter().find_map(|(root, limit)| {
            let folder = Path::new(root).join("cuvier-promise");
            std::fs::create_dir_all(&folder).ok()?;
            folder.join(limit).exists().then_some(Self { folder, limit })
        })
    }

    /// The command, in the group, with that ceiling.
    fn within(&self, command: &Command, memory: u64) -> anyhow::Result<Command> {
        std::fs::write(self.folder.join(self.limit), memory.to_string()).context("the ceiling")?;
        let procs = self.folder.join("cgroup.procs");
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\"; exec \"$@\""]).arg(procs);
        shell.arg(command.get_program()).args(command.get_args());
        Ok(shell)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may still be on its way out.
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// Numbers that only depend on where they began.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % n.max(1)
    }
}
