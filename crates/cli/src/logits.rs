//! `cuvier logits`: what the model says of given token ids, and what it computed on the way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use cuvier_model::plan::StepSize;
use cuvier_model::{Batch, Chunk, Compute, Ctx, LogitRows, PROBE_NAMES, Probe, TokenId, Transformer};
use cuvier_types::SequenceId;
use cuvier_weights::write_f32_tensors;

use crate::needs::Needs;
use crate::options::{ComputeArgs, ModelArgs};
use crate::progress;
use crate::session::open_model;
use crate::tokenize::parse_ids;

/// Flags of `logits`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// A JSON array of token ids
    #[arg(long, value_name = "FILE", required_unless_present = "probe")]
    ids: Option<PathBuf>,
    /// Where to write: a safetensors file with `logits`, f32 [tokens, vocab]
    #[arg(short, value_name = "OUT", required_unless_present_any = ["probe", "trace"])]
    out: Option<PathBuf>,
    /// Tokens per chunk of the prefill
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    chunk: u32,
    /// Compute the last K tokens one by one
    #[arg(long, value_name = "K", default_value_t = 0)]
    decode: usize,
    /// Also write these intermediate tensors; `list` names them
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    probe: Vec<String>,
    /// Also write which experts each step uses: a line per step, a JSON array of layers, of tokens, of ids
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let compute = args.compute.compute()?;
    let opened = open_model(args.model.model.as_deref())?;
    if args.probe.iter().any(|name| name == "list") {
        return list(&opened.transformer_as(&opened.plan(&args.compute, needs(args, 1))?, &compute)?);
    }
    let (Some(file), true) = (&args.ids, args.out.is_some() || args.trace.is_some()) else {
        crate::refuse_usage("--ids FILE and -o OUT or --trace FILE are needed, unless with --probe list")
    };
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let ids = parse_ids(&text).with_context(|| file.display().to_string())?;
    if ids.is_empty() {
        bail!("{}: no token ids", file.display());
    }
    let plan = opened.plan(&args.compute, needs(args, ids.len()))?;
    let model = opened.transformer_as(&plan, &compute)?;
    check_probes(&model, &args.probe)?;
    let trace = args.trace.as_ref().map(|file| TraceWriter::create(file)).transpose()?;
    let mut recorder = Recorder { wanted: args.probe.clone(), tensors: BTreeMap::new(), trace };
    let logits = compute_logits(&model, &compute, args, &ids, &mut recorder)?;
    let Some(out) = &args.out else { return Ok(()) };
    let mut tensors = vec![("logits".to_owned(), vec![ids.len(), model.config().vocab_size], logits)];
    for (name, (rows, data)) in recorder.tensors {
        let cols = data.len().checked_div(rows).unwrap_or(0);
        tensors.push((name, vec![rows, cols], data));
    }
    write_f32_tensors(out, &tensors)?;
    Ok(())
}

fn needs(args: &Args, tokens: usize) -> Needs {
    let chunk = (args.chunk as usize).min(tokens);
    Needs {
        context: Some(tokens),
        slots: 1,
        chunk: StepSize::Given(chunk),
        // All rows are kept, and once more as they are written.
        logit_rows: chunk + 2 * tokens,
        prefix_cache: 0,
        flags: &[],
    }
}

fn compute_logits(
    model: &Transformer,
    compute: &Compute,
    args: &Args,
    ids: &[TokenId],
    recorder: &mut Recorder,
) -> anyhow::Result<Vec<f32>> {
    let (prefill, decode) = ids.split_at(ids.len() - args.decode.min(ids.len()));
    let mut state = model.new_state(args.compute.kv.into());
    let bar = progress::count(ids.len() as u64, "tokens");
    let (rows, mut logits) = match args.out {
        Some(_) => (LogitRows::All, Vec::with_capacity(ids.len() * model.config().vocab_size)),
        None => (LogitRows::None, Vec::new()),
    };
    for tokens in prefill.chunks(args.chunk as usize).chain(decode.chunks(1)) {
        let chunk = Chunk { sequence: SequenceId(0), tokens: tokens.to_vec(), logits: rows };
        let mut ctx = Ctx::with_probe(compute, recorder);
        let output = model.forward(&Batch { chunks: vec![chunk] }, &mut [&mut state], &mut ctx)?;
        logits.extend_from_slice(output.logits.data());
        if let Some(trace) = &mut recorder.trace {
            trace.end_step()?;
        }
        bar.inc(tokens.len() as u64);
    }
    bar.finish_and_clear();
    Ok(logits)
}

/// Keeps the wanted tensors of all chunks, one below the other.
struct Recorder {
    wanted: Vec<String>,
    tensors: BTreeMap<String, (usize, Vec<f32>)>,
    trace: Option<TraceWriter>,
}

impl Probe for Recorder {
    fn wants(&self, name: &str) -> bool {
        self.is_wanted(name) || self.trace.is_some() && name.ends_with(EXPERTS)
    }

    fn record(&mut self, name: &str, rows: usize, data: &[f32]) {
        if let Some(trace) = self.trace.as_mut().filter(|_| name.ends_with(EXPERTS)) {
            // Ids come as numbers.
            let ids =
                data.chunks(data.len() / rows.max(1)).map(|row| row.iter().map(|&id| id as u16).collect());
            trace.layers.push(ids.collect());
        }
        if self.is_wanted(name) {
            let (all, tensor) = self.tensors.entry(name.to_owned()).or_default();
            *all += rows;
            tensor.extend_from_slice(data);
        }
    }
}

impl Recorder {
    fn is_wanted(&self, name: &str) -> bool {
        self.wanted.iter().any(|wanted| wanted == name)
    }
}

/// The tensor of a layer that holds the experts of its tokens.
const EXPERTS: &str = ".ffn.experts";

/// Writes which experts are used, step by step.
struct TraceWriter {
    name: String,
    file: BufWriter<File>,
    /// Of this step: each layer, each token, its experts.
    layers: Vec<Vec<Vec<u16>>>,
}

impl TraceWriter {
    fn create(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = BufWriter::new(File::create(path).with_context(|| name.clone())?);
        Ok(Self { name, file, layers: Vec::new() })
    }

    fn end_step(&mut self) -> anyhow::Result<()> {
        let line = serde_json::to_string(&std::mem::take(&mut self.layers))?;
        writeln!(self.file, "{line}").and_then(|()| self.file.flush()).with_context(|| self.name.clone())
    }
}

fn list(model: &Transformer) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for name in names(model) {
        writeln!(out, "{name}")?;
    }
    Ok(())
}

fn check_probes(model: &Transformer, wanted: &[String]) -> anyhow::Result<()> {
    let names = names(model);
    match wanted.iter().find(|name| !names.contains(name)) {
        Some(name) => bail!("no tensor is called `{name}`; `--probe list` names them"),
        None => Ok(()),
    }
}

fn names(model: &Transformer) -> Vec<String> {
    let layers = 0..model.config().num_hidden_layers;
    let in_layers =
        layers.flat_map(|layer| PROBE_NAMES.iter().map(move |name| format!("layers.{layer}.{name}")));
    ["embed", "norm"].into_iter().map(str::to_owned).chain(in_layers).collect()
}
