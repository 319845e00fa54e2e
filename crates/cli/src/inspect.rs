//! `cuvier inspect`: what a model is, from `config.json` and headers alone.

use std::io::Write;
use std::sync::Arc;

use anyhow::bail;
use cuvier_weights::accounting::{Accounting, Flops, StateBytes, account};
use cuvier_weights::{Checkpoint, Drafter, LayerKind, ModelConfig, Precision};
use serde_json::json;

use crate::options::{ModelArgs, show_size};
use crate::session::{CALF_CONFIG, open_model};

/// Flags of `inspect`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A shape that is known without files
    #[arg(value_name = "SHAPE", conflicts_with = "model")]
    shape: Option<Shape>,
    /// Tokens of context that sizes and FLOPs are for [default: the most the model takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    context: Option<u64>,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// Shapes known without files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Shape {
    /// DeepSeek-V4-Flash
    Flash,
    /// DeepSeek-V4-Pro
    Pro,
    /// The embedded toy model
    Calf,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (name, config, checkpoint) = subject(args)?;
    let context = args.context.unwrap_or(config.max_position_embeddings as u64);
    // What is counted is the official way of storing the shape; a checkpoint's own bytes stand beside it.
    let mtp = config.num_nextn_predict_layers > 0;
    let accounting = account(&config, Precision::Official, mtp, context);
    if args.json {
        let document = to_json(&name, &config, &accounting, checkpoint.as_deref());
        writeln!(std::io::stdout().lock(), "{document:#}")?;
        return Ok(());
    }
    print(&name, &config, &accounting, checkpoint.as_deref())
}

fn subject(args: &Args) -> anyhow::Result<(String, ModelConfig, Option<Arc<Checkpoint>>)> {
    match (args.shape, &args.model.model) {
        (Some(Shape::Flash), _) => Ok(("flash".to_owned(), ModelConfig::flash(), None)),
        (Some(Shape::Pro), _) => Ok(("pro".to_owned(), ModelConfig::pro(), None)),
        (Some(Shape::Calf), _) => Ok(("calf".to_owned(), ModelConfig::parse(CALF_CONFIG, "calf")?, None)),
        (None, folder) => {
            let opened = open_model(folder.as_deref())?;
            if !opened.checkpoint.unused().is_empty() {
                let unused = opened.checkpoint.unused();
                eprintln!("{} tensors are of no known use, {} the first", unused.len(), unused[0]);
            }
            if opened.checkpoint.n_tensors() == 0 {
                bail!("{}: no tensors", opened.name);
            }
            Ok((opened.name, opened.checkpoint.config().clone(), Some(opened.checkpoint)))
        }
    }
}

fn print(
    name: &str,
    config: &ModelConfig,
    a: &Accounting,
    checkpoint: Option<&Checkpoint>,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let p = &a.parameters;
    let kinds = [LayerKind::Sliding, LayerKind::Csa, LayerKind::Hca].map(|kind| config.n_layers_of(kind));
    let [sliding, csa, hca] = kinds;
    writeln!(out, "{name}: {} layers ({sliding} sliding, {csa} CSA, {hca} HCA)", config.num_hidden_layers)?;
    writeln!(out, "parameters   {:>17} total, {} active per token", grouped(p.total), grouped(p.active))?;
    if p.mtp > 0 {
        writeln!(out, "             {:>17} more in the MTP block", grouped(p.mtp))?;
    }
    writeln!(
        out,
        "stored       {:>17} bytes in {} tensors, official formats",
        grouped(p.bytes),
        grouped(p.tensors)
    )?;
    if let Some(checkpoint) = checkpoint {
        let (bytes, tensors) = (checkpoint.tensor_bytes(), checkpoint.n_tensors());
        writeln!(
            out,
            "this folder  {:>17} bytes in {} tensors; {}",
            grouped(bytes),
            grouped(tensors as u64),
            drafter(checkpoint)
        )?;
    }
    for (part, count) in &p.parts {
        let part = format!("{part:?}");
        writeln!(
            out,
            "  {part:18} {:>17} parameters {:>12}",
            grouped(count.parameters),
            show_size(count.bytes)
        )?;
    }
    print_at_context(&mut out, a)?;
    Ok(())
}

/// What depends on the length of the context: attention state and operations, beside DeepSeek-V3.2.
fn print_at_context(out: &mut impl Write, a: &Accounting) -> std::io::Result<()> {
    let context = grouped(a.context);
    let kv = a.state.bytes_per_token;
    let v32 = a.v32.kv_bytes_per_token;
    writeln!(
        out,
        "KV cache     {kv:.2} bytes per token (DeepSeek-V3.2: {v32:.0}; {:.2} %)",
        100.0 * kv / v32
    )?;
    writeln!(out, "  at {context} tokens: {}", show_size(a.state.growing()))?;
    for (name, bytes) in state_parts(&a.state) {
        writeln!(out, "    {name:14} {:>12}", show_size(bytes))?;
    }
    let gflop = |flops: f64| flops / 1e9;
    let (ours, theirs) = (&a.flops, &a.v32.flops);
    writeln!(
        out,
        "GFLOP/token  at {context}: {:.1} (V3.2: {:.1}; {:.1} %)",
        gflop(ours.raw()),
        gflop(theirs.raw()),
        100.0 * a.flops_ratio_raw()
    )?;
    writeln!(
        out,
        "  as FP8 ops: {:.1} (V3.2: {:.1}; {:.1} %)",
        gflop(ours.fp8_equivalent()),
        gflop(theirs.fp8_equivalent()),
        100.0 * a.flops_ratio()
    )?;
    writeln!(
        out,
        "  BF16 and F32 count 2, FP8 and FP4 x FP8 count 1, FP4 x FP4 of the indexer 1/2 (our inference)"
    )?;
    Ok(())
}

fn drafter(checkpoint: &Checkpoint) -> String {
    match checkpoint.drafter() {
        Drafter::None => "no drafter".to_owned(),
        Drafter::Mtp => "with an MTP block".to_owned(),
        Drafter::DSpark { stages } => {
            format!("with a DSpark drafter of {stages} stages, which is recognised but not used")
        }
    }
}

fn state_parts(state: &StateBytes) -> [(&'static str, u64); 5] {
    [
        ("CSA entries", state.csa_entries),
        ("index keys", state.index_keys),
        ("HCA entries", state.hca_entries),
        ("windows", state.windows),
        ("pending rows", state.pending),
    ]
}

fn to_json(
    name: &str,
    config: &ModelConfig,
    a: &Accounting,
    checkpoint: Option<&Checkpoint>,
) -> serde_json::Value {
    let p = &a.parameters;
    let parts: serde_json::Map<_, _> = p
        .parts
        .iter()
        .map(|(part, c)| {
            (
                format!("{part:?}"),
                json!({ "parameters": c.parameters, "bytes": c.bytes, "tensors": c.tensors }),
            )
        })
        .collect();
    let state: serde_json::Map<_, _> =
        state_parts(&a.state).into_iter().map(|(n, b)| (n.replace(' ', "_"), json!(b))).collect();
    let flops = |f: &Flops| json!({ "raw": f.raw(), "fp8_equivalent": f.fp8_equivalent(), "indexer": f.indexer, "core_attention": f.core_attention, "fp8_weights": f.fp8_weights, "routed_experts": f.routed_experts, "small": f.small, "absorbed": f.absorbed });
    json!({
        "model": name,
        "layers": config.num_hidden_layers,
        "context": a.context,
        "parameters": { "total": p.total, "active": p.active, "active_without_embedding": p.active_without_embedding, "mtp": p.mtp },
        "checkpoint": { "tensors": p.tensors, "bytes": p.bytes, "expert_bytes": p.expert_bytes, "read_bytes_per_token": p.read_bytes_per_token },
        "folder": checkpoint.map(|c| json!({ "tensors": c.n_tensors(), "bytes": c.tensor_bytes(), "drafter": drafter(c) })),
        "parts": parts,
        "kv_bytes_per_token": a.state.bytes_per_token,
        "kv_bytes_at_context": a.state.growing(),
        "state_bytes": state,
        "flops_per_token": a.flops.fp8_equivalent(),
        "flops": flops(&a.flops),
        "v32": {
            "kv_bytes_per_token": a.v32.kv_bytes_per_token,
            "kv_bytes_at_context": a.v32.kv_bytes_at_context,
            "flops_per_token": a.v32.flops.fp8_equivalent(),
            "flops": flops(&a.v32.flops),
        },
        "ratio": { "kv": a.kv_ratio(), "flops": a.flops_ratio(), "flops_raw": a.flops_ratio_raw() },
    })
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_from_the_right() {
        assert_eq!(grouped(284_332_240_471), "284,332,240,471");
        assert_eq!(grouped(12), "12");
        assert_eq!(grouped(123_456), "123,456");
    }
}
