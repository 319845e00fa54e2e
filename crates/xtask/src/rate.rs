//! `cargo xtask rate`: the speed of a model of true width whose experts come from disk, as a share of what the machine allows.
//!
//! Random weights choose experts as no trained model does: biases that nobody balanced send most tokens to the same few, and
//! what a layer adds is so large that nothing tells the next layer's choice. So the routers' biases are set to zero, which
//! spreads tokens evenly, and what layers add is made smaller by a power of two, until about as many of the engine's guesses
//! come true as on the embedded model, which is trained. Only scales and biases change: what is read and computed is the same.
//!
//! A model of a few layers with the head of one of 43 spends a fourth of a token on that head, not a twentieth, and meanwhile
//! has nothing to read. So the vocabulary is cut in the same measure as the depth, unless another is asked for.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::mapped::{header, offsets};
use crate::process::output;
use crate::promise::synth;

/// Flags of `rate`.
#[derive(clap::Args)]
pub struct Args {
    /// Layers of the model, 3.6 GB of disk each; the last budget has all of them in memory
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(4..=FLASH_LAYERS as i64))]
    layers: u32,
    /// Size of the vocabulary [default: the share of Flash's that the layers are of its 43]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1024..=FLASH_VOCABULARY as i64))]
    vocab: Option<u32>,
    /// Experts in memory, in percent
    #[arg(long, value_delimiter = ',', default_values_t = [10, 25, 50, 75, 100])]
    budgets: Vec<u64>,
    /// How often each is measured, in turns
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 512)]
    prefill: usize,
    /// Tokens that are decoded
    #[arg(long, default_value_t = 48)]
    decode: usize,
    /// Where the model is written and kept
    #[arg(long, default_value = "target/rate")]
    models: PathBuf,
    /// A binary to test [default: the one built here]
    #[arg(long)]
    cuvier: Option<PathBuf>,
}

/// V4-Flash but for its depth, and for one layer instead of three that routes by table, since it has fewer.
const SHAPE: &str = r#"{"hidden_size":4096,"num_attention_heads":64,"head_dim":512,"qk_rope_head_dim":64,"q_lora_rank":1024,"o_groups":8,"o_lora_rank":1024,"index_n_heads":64,"index_head_dim":128,"index_topk":512,"n_routed_experts":256,"num_experts_per_tok":6,"moe_intermediate_size":2048,"num_hash_layers":1}"#;
const FLASH_LAYERS: u32 = 43;
const FLASH_VOCABULARY: u32 = 129_280;
const EXPERTS_PER_LAYER: u64 = 256;
const EXPERTS_PER_TOKEN: i32 = 6;
/// Bytes of an expert: codes of half a byte, and a scale for every 32 of them.
const EXPERT_BYTES: f64 = 3.0 * 4096.0 * 2048.0 * (0.5 + 1.0 / 32.0);
/// About how much of a layer's time its attention takes.
const ATTENTION: f64 = 0.6;
/// Bytes that the LM head reads for a token of the vocabulary, packed.
const HEAD_ROW_BYTES: f64 = 4096.0;
/// By how many powers of two the outputs of attention and of experts are made smaller.
const DAMPED: u8 = 4;

/// One budget in one round.
struct Measured {
    disk: f64,
    memory: f64,
    prefill: f64,
    /// Bytes per second of wall time in the prefill.
    prefill_read: f64,
    decode: f64,
    hits: f64,
    guesses_right: f64,
    /// Bytes per token.
    read: f64,
    computed: f64,
    layers: f64,
    /// Of `computed`, what the LM head is.
    head: f64,
    /// Experts in memory, in percent.
    budget: u64,
}

/// Makes the model, measures, and prints a row for each budget and round.
pub fn run(root: &Path, args: &Args) -> anyhow::Result<()> {
    let binary = args.cuvier.clone().unwrap_or_else(|| root.join("target/release/cuvier"));
    ensure!(binary.exists(), "build it first: cargo build --release");
    let folder = model(&binary, &root.join(&args.models), args)?;
    let experts = u64::from(args.layers) * EXPERTS_PER_LAYER;
    println!(
        "| budget | disk, GB/s | memory, GB/s | prefill, tokens/s | of the disk | decode, tokens/s | in memory | guesses right | \
         read per token | of what disk and memory allow | while the head has nothing to read | with all guesses right |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for _ in 0..args.rounds {
        for &budget in &args.budgets {
            let memory = memory_for(&binary, &folder, args, (experts * budget).div_ceil(100))?;
            println!("{}", bench(&binary, &folder, args, memory, budget)?.row());
        }
    }
    Ok(())
}

impl Args {
    /// In steps of 64 tokens.
    fn vocabulary(&self) -> u32 {
        self.vocab.unwrap_or((FLASH_VOCABULARY * self.layers / FLASH_LAYERS).next_multiple_of(64))
    }
}

fn model(binary: &Path, models: &Path, args: &Args) -> anyhow::Result<PathBuf> {
    let (layers, vocabulary) = (args.layers, args.vocabulary());
    let name = format!("flash-{layers}-{vocabulary}");
    let folder = models.join(&name);
    if folder.exists() {
        return Ok(folder);
    }
    // It has its name only once scales are changed as well.
    let name = format!("{name}-unfinished");
    let unfinished = models.join(&name);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let ratios: Vec<u32> =
        (0..layers).map(|layer| if layer < 2 { 0 } else { [4, 128][layer as usize % 2] }).collect();
    let mut shape: Value = serde_json::from_str(SHAPE)?;
    shape["num_hidden_layers"] = layers.into();
    shape["vocab_size"] = vocabulary.into();
    shape["compress_ratios"] = ratios.into();
    synth(binary, models, &name, &shape.to_string())?;
    for entry in fs::read_dir(&unfinished)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            damp(&path).with_context(|| path.display().to_string())?;
        }
    }
    fs::rename(&unfinished, &folder)?;
    Ok(folder)
}

/// Sets the biases of routers to zero, and makes what layers add to the streams smaller.
fn damp(path: &Path) -> anyhow::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let (header, data) = header(path)?;
    for (name, entry) in &header {
        let is_bias = name.ends_with("ffn.gate.bias");
        if !is_bias && !name.ends_with("attn.wo_b.scale") && !name.ends_with(".w2.scale") {
            continue;
        }
        let [start, end] = offsets(entry)?;
        let mut bytes = vec![0; usize::try_from(end - start)?];
        if !is_bias {
            ensure!(entry["dtype"] == "F8_E8M0", "{name} is {}", entry["dtype"]);
            file.read_exact_at(&mut bytes, data + start)?;
            bytes.iter_mut().for_each(|exponent| *exponent = exponent.saturating_sub(DAMPED));
        }
        file.write_all_at(&bytes, data + start)?;
    }
    Ok(())
}

/// The least memory with which so many experts are in memory.
fn memory_for(binary: &Path, folder: &Path, args: &Args, experts: u64) -> anyhow::Result<u64> {
    let held = |memory: u64| -> anyhow::Result<u64> {
        let (context, memory) = ((args.prefill + args.decode).to_string(), format!("{memory}B"));
        let said = Command::new(binary)
            .args(["plan", "--json", "--slots", "1", "--context", &context, "--memory", &memory, "-m"])
            .arg(folder)
            .output()?;
        let plan: Value = serde_json::from_slice(&said.stdout)?;
        let all = || (plan["fits"] == true && plan["streamed"].is_null()).then_some(u64::MAX);
        Ok(plan["streamed"]["experts_in_memory"].as_u64().or_else(all).unwrap_or(0))
    };
    let (mut low, mut high) = (0_u64, 1 << 40);
    while high - low > 1 << 20 {
        let middle = low.midpoint(high);
        if held(middle)? < experts { low = middle } else { high = middle }
    }
    Ok(high)
}

fn bench(binary: &Path, folder: &Path, args: &Args, memory: u64, budget: u64) -> anyhow::Result<Measured> {
    let (memory, prefill, decode) = (format!("{memory}B"), args.prefill.to_string(), args.decode.to_string());
    let said = output(
        Command::new(binary)
            .args(["bench", "--json", "--memory", &memory, "--prefill", &prefill, "--decode", &decode, "-m"])
            .arg(folder),
    )?;
    let said: Value = serde_json::from_str(&said)?;
    // With everything loaded there is no disk, and nothing is read.
    let number = |value: &Value| match value {
        Value::Null => Ok(0.0),
        value => value.as_f64().with_context(|| format!("{value} where a number should be")),
    };
    let (machine, prefill, decode) = (&said["machine"], &said["runs"][0], &said["runs"][1]);
    let (reads, all) = (&decode["reads"], &decode["reads"]["all"]);
    let speed = number(&prefill["tokens_per_s"])?;
    Ok(Measured {
        disk: 1e9 * number(&machine["disk_gbps"])?,
        memory: 1e9 * number(&machine["memory_gbps"])?,
        prefill: speed,
        prefill_read: speed * number(&prefill["reads"]["bytes_per_token"])?,
        decode: number(&decode["tokens_per_s"])?,
        hits: number(&reads["hit_share"])?,
        guesses_right: number(&all["guessed_right"])? / number(&all["guessed"])?.max(1.0),
        read: number(&reads["bytes_per_token"])?,
        computed: number(&decode["bytes_per_token"])?,
        layers: args.layers.into(),
        head: f64::from(args.vocabulary()) * HEAD_ROW_BYTES,
        budget,
    })
}

impl Measured {
    /// The time a token takes at least if all that is read from disk hides behind all that is read from memory, or the other
    /// way round; and if nothing can be read while the head is computed, since nobody knows the next token then.
    fn bounds(&self) -> [f64; 2] {
        let (disk, memory, head) =
            (self.read / self.disk, self.computed / self.memory, self.head / self.memory);
        [disk.max(memory), head + disk.max(memory - head)]
    }

    /// The time a token takes if, besides, experts are chosen evenly and those of a layer are always guessed right when the
    /// layer before it has attended, those of the first when the token is known. What is lacking then takes as long to
    /// read as it does, and what of that a layer's time does not hide is waited for.
    fn all_guesses_right(&self) -> f64 {
        if self.disk == 0.0 {
            return self.computed / self.memory;
        }
        let (memory, expert) = (self.computed / self.memory, EXPERT_BYTES / self.disk);
        let layer = (memory - self.head / self.memory) / self.layers;
        let missing = 1.0 - self.budget as f64 / 100.0;
        let waits = |hidden: f64| -> f64 {
            let lacking = (0..=EXPERTS_PER_TOKEN).map(|lacking| (lacking, chance(lacking, missing)));
            lacking.map(|(lacking, chance)| chance * (f64::from(lacking) * expert - hidden).max(0.0)).sum()
        };
        memory + waits(ATTENTION * layer) + (self.layers - 1.0) * waits(layer)
    }

    fn row(&self) -> String {
        let budget = self.budget;
        let [bound, beside_head] = self.bounds().map(|seconds| 100.0 * seconds * self.decode);
        let all_right = 100.0 * self.all_guesses_right() * self.decode;
        format!(
            "| {budget} % | {:.2} | {:.0} | {:.0} | {:.0} % | {:.1} | {:.0} % | {:.0} % | {:.0} MB | {bound:.0} % | {beside_head:.0} % | {all_right:.0} % |",
            self.disk / 1e9,
            self.memory / 1e9,
            self.prefill,
            100.0 * if self.disk > 0.0 { self.prefill_read / self.disk } else { 0.0 },
            self.decode,
            100.0 * self.hits,
            100.0 * self.guesses_right,
            self.read / 1e6,
        )
    }
}

/// The probability that a token lacks `lacking` of a layer's experts, if the share `missing` of all is not in memory.
fn chance(lacking: i32, missing: f64) -> f64 {
    let ways: f64 = (0..lacking).map(|i| f64::from(EXPERTS_PER_TOKEN - i) / f64::from(i + 1)).product();
    ways * missing.powi(lacking) * (1.0 - missing).powi(EXPERTS_PER_TOKEN - lacking)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token computes with three times the head, each a hundredth of a second of memory.
    fn measured() -> Measured {
        Measured {
            disk: 1e9,
            memory: 1e10,
            prefill: 0.0,
            prefill_read: 0.0,
            decode: 10.0,
            hits: 0.0,
            guesses_right: 0.0,
            read: 0.0,
            computed: 3e8,
            layers: 2.0,
            head: 1e8,
            budget: 100,
        }
    }

    #[track_caller]
    fn assert_close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-9, "{got} is not {want}");
    }

    #[test]
    fn a_head_leaves_time_in_which_nothing_is_read() {
        let [bound, beside_head] = Measured { read: 40e6, ..measured() }.bounds();
        assert_close(bound, 0.04);
        assert_close(beside_head, 0.05);
        let [bound, beside_head] = Measured { read: 1e6, ..measured() }.bounds();
        assert_close(bound, 0.03);
        assert_close(beside_head, 0.03);
    }

    #[test]
    fn what_is_guessed_right_is_waited_for_as_far_as_a_layer_does_not_hide_it() {
        // Six experts take 24 ms, a layer 10, of which the first has attended after 6.
        let all_lacking = Measured { disk: EXPERT_BYTES / 0.004, budget: 0, ..measured() };
        assert_close(all_lacking.all_guesses_right(), 0.03 + 0.018 + 0.014);
        assert_close(Measured { budget: 100, ..all_lacking }.all_guesses_right(), 0.03);
        assert_close((0..=EXPERTS_PER_TOKEN).map(|lacking| chance(lacking, 0.25)).sum(), 1.0);
        assert_close(chance(1, 0.5), 6.0 / 64.0);
    }
}
