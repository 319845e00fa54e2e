//! Draws many constrained answers from hostile logits, reads and validates them, and prints figures.
//!
//! `constrained GENERATIONS [VOCABULARY]`: with a size, a synthetic vocabulary is used instead of the calf's.

#[path = "../tests/constrained/mod.rs"]
mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use cuvier_encoding::{Tokenizer, synthetic_tokenizer_json};
use harness::{Prepared, World, cases::cases, draw};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let n_generations: usize = arguments.next().map_or(Ok(1000), |n| n.parse())?;
    let vocab_size: Option<usize> = arguments.next().map(|n| n.parse()).transpose()?;
    let json = match vocab_size {
        Some(size) => synthetic_tokenizer_json(size)?.into_bytes(),
        None => include_bytes!("../../../models/calf/tokenizer.json").to_vec(),
    };
    let tokenizer = Tokenizer::from_bytes(&json)?;
    println!("vocabulary      {} tokens", tokenizer.vocab_size());
    let start = Instant::now();
    let world = World::new(tokenizer);
    println!("prepared in     {:.0?}", start.elapsed());
    let mut compiling = Vec::new();
    let prepared: Vec<Prepared> = cases()
        .into_iter()
        .map(|case| {
            let start = Instant::now();
            let prepared = Prepared::new(&world, case);
            compiling.push(start.elapsed());
            prepared
        })
        .collect();
    quantiles("compiling", &mut compiling);
    let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
    let mut masks: Vec<Duration> = Vec::new();
    let mut n_tokens = 0;
    let start = Instant::now();
    for n in 0..n_generations {
        let prepared = &prepared[n % prepared.len()];
        let drawn = draw(&world, prepared, n as u64);
        masks.extend(&drawn.masks);
        n_tokens += drawn.n_tokens;
        let verdict = match &drawn.verdict {
            Ok(verdict) => format!("{verdict:?}"),
            Err(error) => {
                println!("BROKEN {n} ({}): {error}\n{:?}", prepared.case.name, drawn.text);
                "BROKEN".to_owned()
            }
        };
        *verdicts.entry(verdict).or_default() += 1;
    }
    println!("cases           {}", prepared.len());
    println!("generations     {n_generations}, {n_tokens} tokens, {:.0?}", start.elapsed());
    for (verdict, n) in &verdicts {
        println!("  {verdict:<13} {n}");
    }
    quantiles("mask", &mut masks);
    if verdicts.contains_key("BROKEN") {
        bail!("some answers are broken");
    }
    Ok(())
}

fn quantiles(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("{name:<15} median {:.0} us, p99 {:.0} us, largest {:.0} us", at(0.5), at(0.99), at(1.0));
}
