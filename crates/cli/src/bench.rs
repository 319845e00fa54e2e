//! `cuvier bench`: tokens per second, and their share of what this machine can do.

mod limits;
mod report;
mod row;

use std::time::Instant;

use anyhow::bail;
use cuvier_model::plan::StepSize;
use cuvier_model::{Batch, Chunk, Compute, Ctx, LogitRows, Matrix, SequenceState, TokenId, Transformer};
use cuvier_types::SequenceId;
use cuvier_weights::expert_store::LayerReads;

use crate::interrupt::Interrupt;
use crate::needs::Needs;
use crate::options::{ComputeArgs, ModelArgs};
use crate::planning;
use crate::session::open_model;

use limits::{Limits, Work};
use report::Report;
use row::{Reads, Row};

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
    interrupt: Interrupt,
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
    let streamed = plan.streaming.is_some().then_some(&*opened.checkpoint);
    let before = Limits::measure(&compute, streamed)?;
    let bench = Bench { model: &model, compute: &compute, args, chunk: plan.chunk, interrupt };
    let rows = bench.rows()?;
    // What it takes to measure had its room in memory before experts filled it.
    drop(model);
    let limits = Limits::between(&before, &Limits::measure(&compute, streamed)?);
    let report = Report { model: &opened.name, compute: &compute, limits, rows };
    if args.json { report.print_json() } else { report.print_table() }
}

impl Bench<'_> {
    fn rows(&self) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for &tokens in &self.args.prefill {
            rows.push(self.prefill(tokens)?);
        }
        if self.args.decode > 0 {
            for &context in &self.args.context {
                for &slots in &self.args.slots {
                    rows.push(self.decode(context, slots)?);
                }
            }
        }
        Ok(rows)
    }

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
        Ok(Row {
            kind: "prefill",
            tokens,
            context: 0,
            slots: 1,
            speeds,
            work: Work::Operations(operations),
            reads,
        })
    }

    fn decode(&self, context: usize, slots: usize) -> anyhow::Result<Row> {
        let filled = self.model.filled_state(self.args.compute.kv.into(), context, self.compute);
        let kv_bytes = filled.decode_bytes(self.model.config().index_topk);
        let count = slots * self.args.decode;
        let (speeds, reads) = self.repeat(count, |round| {
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
        let memory = self.model.decode_weight_bytes(slots) / slots as f64 + kv_bytes as f64;
        let work = Work::Bytes { memory, disk: reads.as_ref().map_or(0.0, Reads::bytes_per_token) };
        Ok(Row { kind: "decode", tokens: self.args.decode, context, slots, speeds, work, reads })
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
            Reads { all, by_layer, tokens: tokens * repeat as usize }
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
