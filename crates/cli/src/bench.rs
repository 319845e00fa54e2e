//! `cuvier bench`: tokens per second, and their share of what this machine can do.

use std::io::Write;
use std::time::Instant;

use anyhow::bail;
use cuvier_model::plan::StepSize;
use cuvier_model::{
    Batch, Chunk, Compute, Ctx, LogitRows, Matrix, Roof, SequenceState, TokenId, Transformer, measure_roof,
};
use cuvier_types::SequenceId;
use cuvier_weights::expert_store::LayerReads;
use cuvier_weights::measure_disk;
use serde_json::json;

use crate::interrupt::Interrupt;
use crate::memory::peak_memory_bytes;
use crate::needs::Needs;
use crate::options::{ComputeArgs, ModelArgs, show_size};
use crate::planning;
use crate::session::open_model;

/// Flags of `bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Prompt lengths
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "512")]
    prefill: Vec<usize>,
    /// Tokens to decode per run; 0 for none
    #[arg(long, value_name = "N", default_value_t = 32)]
    decode: usize,
    /// Tokens already in the state when decoding begins (random rows of true format)
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "0")]
    context: Vec<usize>,
    /// Sequences that decode together
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1")]
    slots: Vec<usize>,
    /// Tokens per chunk of a prefill [default: what the plan says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    chunk: Option<u32>,
    /// Repetitions
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

struct Bench<'a> {
    model: &'a Transformer,
    compute: &'a Compute,
    args: &'a Args,
    /// Tokens per chunk of a prefill.
    chunk: usize,
    roof: Roof,
    /// Of direct reads of experts. `None`: all weights are in memory, or the files are too small to tell.
    disk_bytes_per_s: Option<f64>,
    interrupt: Interrupt,
}

/// One line of the table.
struct Row {
    kind: &'static str,
    tokens: usize,
    context: usize,
    slots: usize,
    /// Tokens per second of each repetition, ascending.
    speeds: Vec<f64>,
    bytes_per_token: f64,
    /// Median share of the memory roof when decoding; in prefill the time that the operations take at their roofs,
    /// over the median time.
    roof_share: f64,
    /// What was read from disk. `None`: all weights are in memory.
    reads: Option<Reads>,
}

/// What the timed repetitions of a run read from disk.
struct Reads {
    /// All layers together.
    all: LayerReads,
    by_layer: Vec<LayerReads>,
    tokens: usize,
    /// The time that a token takes at least, what is read from disk hidden behind what is read from memory or the other
    /// way round, over the median time; 0 for a prefill, which is bound by arithmetic as well.
    bound_share: f64,
}

/// Runs the verb.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let interrupt = Interrupt::listen()?;
    let opened = open_model(args.model.model.as_deref())?;
    let compute = args.compute.compute()?;
    let context_max = opened.checkpoint.config().max_position_embeddings;
    let longest = args.prefill.iter().chain(&args.context).max().copied().unwrap_or(0) + args.decode;
    if longest > context_max {
        bail!("{longest} tokens exceed the model's context of {context_max}");
    }
    if args.slots.contains(&0) || args.prefill.contains(&0) {
        bail!("--slots and --prefill take numbers above 0");
    }
    let needs = Needs {
        context: Some(longest),
        slots: args.slots.iter().copied().max().unwrap_or(1),
        chunk: args.chunk.map_or(StepSize::Chosen, |chunk| StepSize::Given(chunk as usize)),
        logit_rows: 0,
        prefix_cache: 0,
        flags: &[],
    };
    let plan = opened.plan(&args.compute, needs)?;
    planning::lines(&plan).iter().for_each(|line| eprintln!("{line}"));
    let model = opened.transformer_as(&plan, &compute)?;
    eprintln!("measuring the roof of {} threads on {}", compute.threads(), compute.isa().name());
    let roof = measure_roof(&compute);
    let disk_bytes_per_s = match plan.streaming {
        Some(_) => measure_disk(opened.checkpoint.paths())?,
        None => None,
    };
    let bench = Bench {
        model: &model,
        compute: &compute,
        args,
        chunk: plan.chunk,
        roof,
        disk_bytes_per_s,
        interrupt,
    };
    let mut rows = Vec::new();
    for &tokens in &args.prefill {
        rows.push(bench.prefill(tokens)?);
    }
    if args.decode > 0 {
        for &context in &args.context {
            for &slots in &args.slots {
                rows.push(bench.decode(context, slots)?);
            }
        }
    }
    if args.json { print_json(&opened.name, &bench, &rows) } else { print_table(&bench, &rows) }
}

impl Bench<'_> {
    fn prefill(&self, tokens: usize) -> anyhow::Result<Row> {
        let ids = self.ids(tokens, 1);
        let (speeds, reads) = self.repeat(tokens, |_| {
            let mut state = self.model.new_state(self.args.compute.kv.into());
            let start = Instant::now();
            let chunks = ids.chunks(self.chunk);
            for (index, chunk) in chunks.enumerate() {
                let is_last = (index + 1) * self.chunk >= ids.len();
                let logits = if is_last { LogitRows::Last } else { LogitRows::None };
                self.step(&mut [&mut state], chunk, logits)?;
            }
            Ok(tokens as f64 / start.elapsed().as_secs_f64())
        })?;
        let operations = self.model.prefill_operations(self.args.compute.kv.into(), tokens);
        let roof_share = median(&speeds) * self.roof.seconds(&operations) / tokens as f64;
        Ok(Row {
            kind: "prefill",
            tokens,
            context: 0,
            slots: 1,
            speeds,
            bytes_per_token: 0.0,
            roof_share,
            reads,
        })
    }

    fn decode(&self, context: usize, slots: usize) -> anyhow::Result<Row> {
        let filled = self.model.filled_state(self.args.compute.kv.into(), context, self.compute);
        let kv_bytes = filled.decode_bytes(self.model.config().index_topk);
        let count = slots * self.args.decode;
        let (speeds, mut reads) = self.repeat(count, |round| {
            // Other tokens each time: else the experts of the last time would be those of this one.
            let ids = self.ids(count, 2 + round);
            let mut states: Vec<_> = (0..slots).map(|_| filled.clone()).collect();
            let start = Instant::now();
            for tokens in ids.chunks(slots) {
                let mut states: Vec<_> = states.iter_mut().collect();
                self.step(&mut states, tokens, LogitRows::Last)?;
            }
            Ok(ids.len() as f64 / start.elapsed().as_secs_f64())
        })?;
        let bytes_per_token = self.model.decode_weight_bytes(slots) / slots as f64 + kv_bytes as f64;
        let roof_share = median(&speeds) * bytes_per_token / self.roof.memory_bytes_per_s;
        if let (Some(reads), Some(disk)) = (&mut reads, self.disk_bytes_per_s) {
            let bytes = reads.all.bytes + reads.all.other_bytes;
            let from_disk = bytes as f64 / reads.tokens as f64 / disk;
            reads.bound_share =
                from_disk.max(bytes_per_token / self.roof.memory_bytes_per_s) * median(&speeds);
        }
        Ok(Row {
            kind: "decode",
            tokens: self.args.decode,
            context,
            slots,
            speeds,
            bytes_per_token,
            roof_share,
            reads,
        })
    }

    /// One token per state, or all tokens for the only state.
    fn step(
        &self,
        states: &mut [&mut SequenceState],
        tokens: &[TokenId],
        logits: LogitRows,
    ) -> anyhow::Result<()> {
        if self.interrupt.is_set() {
            bail!("interrupted");
        }
        let per_state = tokens.len() / states.len();
        let chunks = tokens.chunks(per_state).enumerate().map(|(index, tokens)| Chunk {
            sequence: SequenceId(index as u64),
            tokens: tokens.to_vec(),
            logits,
        });
        let batch = Batch { chunks: chunks.collect() };
        let output = self.model.forward(&batch, states, &mut Ctx::new(self.compute))?;
        check_finite(&output.logits)
    }

    /// Runs as often as asked for, each time `tokens` tokens, after a first time that maps pages and fills caches.
    fn repeat(
        &self,
        tokens: usize,
        mut run: impl FnMut(u64) -> anyhow::Result<f64>,
    ) -> anyhow::Result<(Vec<f64>, Option<Reads>)> {
        run(0)?;
        let before = self.model.expert_reads();
        let repeat = self.args.repeat;
        let mut speeds = (1..=u64::from(repeat)).map(&mut run).collect::<Result<Vec<_>, _>>()?;
        speeds.sort_by(f64::total_cmp);
        let reads = before.zip(self.model.expert_reads()).map(|(before, after)| {
            let by_layer: Vec<_> =
                after.iter().zip(&before).map(|(after, before)| after.since(*before)).collect();
            let all = by_layer.iter().copied().fold(LayerReads::default(), LayerReads::and);
            Reads { all, by_layer, tokens: tokens * repeat as usize, bound_share: 0.0 }
        });
        Ok((speeds, reads))
    }

    fn ids(&self, count: usize, seed: u64) -> Vec<TokenId> {
        ids(self.model.config().vocab_size, count, seed)
    }
}

/// Token ids spread over the vocabulary, others for each seed (SplitMix64).
fn ids(vocab_size: usize, count: usize, seed: u64) -> Vec<TokenId> {
    let mix = |i: u64| {
        let z = ((seed << 32) + i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (0..count as u64).map(|i| TokenId((mix(i) % vocab_size as u64) as u32)).collect()
}

fn check_finite(logits: &Matrix) -> anyhow::Result<()> {
    match logits.data().iter().find(|value| !value.is_finite()) {
        Some(value) => bail!("a logit is {value}: the model or the machine is broken"),
        None => Ok(()),
    }
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn print_table(bench: &Bench<'_>, rows: &[Row]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let Roof { memory_bytes_per_s, flops_per_s, int8_ops_per_s, fp4_ops_per_s } = bench.roof;
    let [memory, flops, int8, fp4] =
        [memory_bytes_per_s, flops_per_s, int8_ops_per_s, fp4_ops_per_s].map(|limit| limit / 1e9);
    let (isa, threads) = (bench.compute.isa().name(), bench.compute.threads());
    writeln!(
        out,
        "{isa}, {threads} threads: memory {memory:.1} GB/s, f32 {flops:.0} GFLOP/s, int8 {int8:.0} and fp4 {fp4:.0} GOP/s"
    )?;
    writeln!(out, "kind     tokens  context  slots  tokens/s     (min - max)      of roof")?;
    for row in rows {
        let speed = median(&row.speeds);
        let (min, max) = (row.speeds[0], row.speeds[row.speeds.len() - 1]);
        let share = 100.0 * row.roof_share;
        let Row { kind, tokens, context, slots, .. } = row;
        writeln!(
            out,
            "{kind:8} {tokens:6} {context:8} {slots:6}  {speed:8.1}  ({min:.1} - {max:.1})  {share:6.1} %"
        )?;
        if let Some(reads) = &row.reads {
            writeln!(out, "         {}", planning::reads(&reads.all, reads.tokens))?;
        }
        if let Some(Reads { bound_share, .. }) = row.reads.as_ref().filter(|reads| reads.bound_share > 0.0) {
            writeln!(out, "         {:.1} % of what disk and memory allow together", 100.0 * bound_share)?;
        }
    }
    if let Some(disk) = bench.disk_bytes_per_s {
        writeln!(out, "disk {:.2} GB/s in direct reads of 12 MiB, two at a time", disk / 1e9)?;
    }
    writeln!(out, "peak memory {}", show_size(peak_memory_bytes()))?;
    Ok(())
}

fn print_json(model: &str, bench: &Bench<'_>, rows: &[Row]) -> anyhow::Result<()> {
    let runs: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "kind": row.kind,
                "tokens": row.tokens,
                "context": row.context,
                "slots": row.slots,
                "tokens_per_s": median(&row.speeds),
                "tokens_per_s_min": row.speeds[0],
                "tokens_per_s_max": row.speeds[row.speeds.len() - 1],
                "bytes_per_token": row.bytes_per_token,
                "roof_share": row.roof_share,
                "reads": row.reads.as_ref().map(reads_json),
            })
        })
        .collect();
    let machine = json!({
        "cpu": cpu_name(),
        "isa": bench.compute.isa().name(),
        "threads": bench.compute.threads(),
        "memory_gbps": bench.roof.memory_bytes_per_s / 1e9,
        "gflops": bench.roof.flops_per_s / 1e9,
        "int8_gops": bench.roof.int8_ops_per_s / 1e9,
        "fp4_gops": bench.roof.fp4_ops_per_s / 1e9,
        "disk_gbps": bench.disk_bytes_per_s.map(|disk| disk / 1e9),
    });
    let peak = peak_memory_bytes();
    let document = json!({ "model": model, "machine": machine, "runs": runs, "peak_memory_bytes": peak });
    writeln!(std::io::stdout().lock(), "{document}")?;
    Ok(())
}

fn reads_json(reads: &Reads) -> serde_json::Value {
    let of = |reads: &LayerReads| {
        json!({
            "hits": reads.hits,
            "misses": reads.misses,
            "guessed": reads.guessed,
            "guessed_right": reads.guessed_right,
            "bytes": reads.bytes,
            "reading_s": reads.reading.as_secs_f64(),
            "waiting_s": reads.waiting.as_secs_f64(),
            "other_bytes": reads.other_bytes,
            "other_reading_s": reads.other_reading.as_secs_f64(),
            "other_waiting_s": reads.other_waiting.as_secs_f64(),
        })
    };
    let layers: Vec<_> = reads.by_layer.iter().map(of).collect();
    json!({
        "bytes_per_token": reads.all.bytes as f64 / reads.tokens as f64,
        "hit_share": reads.all.hit_share(),
        "bound_share": reads.bound_share,
        "all": of(&reads.all),
        "layers": layers,
    })
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("model name"));
    line.map_or(std::env::consts::ARCH, |line| line.trim_start_matches([' ', '\t', ':'])).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_has_tokens_of_its_own() {
        let vocab_size = 129_280;
        let rounds: Vec<Vec<TokenId>> = (1..6).map(|seed| ids(vocab_size, 200, seed)).collect();
        let mut all: Vec<TokenId> = rounds.concat();
        assert!(all.iter().all(|id| (id.0 as usize) < vocab_size));
        all.sort_unstable();
        all.dedup();
        // A thousand draws from as many tokens repeat four, give or take.
        assert!(all.len() > 980, "{} of 1000 differ", all.len());
    }
}
