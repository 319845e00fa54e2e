//! One process of each engine, and what it reports.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

use super::cases::{COMPARED_REPEAT, COMPARED_TOKENS, Case, Comparison, Decoding, Model, Work};
use super::statistics::Summary;
use crate::process::output;

/// The programs, made and ready.
pub struct Tools {
    pub dir: PathBuf,
    pub cuvier: PathBuf,
    pub llama_bench: PathBuf,
    pub python: PathBuf,
    pub threads: usize,
}

/// What `llama-bench` says of one case.
#[derive(Debug, PartialEq)]
pub struct LlamaRun {
    pub tokens_per_s: f64,
    pub commit: String,
}

/// One line of `cuvier bench --json`.
#[derive(Clone, Debug, PartialEq)]
pub struct CuvierRun {
    pub kind: String,
    pub tokens: usize,
    pub context: usize,
    pub slots: usize,
    pub tokens_per_s: f64,
    pub roof_share: f64,
}

/// The document of `cuvier bench --json`.
#[derive(Clone, Debug, PartialEq)]
pub struct CuvierBench {
    pub cpu: String,
    pub isa: String,
    pub memory_gbps: f64,
    pub gflops: f64,
    pub int8_gops: f64,
    pub fp4_gops: f64,
    pub runs: Vec<CuvierRun>,
}

impl Tools {
    pub fn checkpoint(&self, model: &Model) -> PathBuf {
        self.dir.join(model.name)
    }

    pub fn gguf(&self, model: &Model) -> PathBuf {
        self.dir.join(format!("{}.gguf", model.name))
    }

    pub fn llama(&self, case: &Case) -> anyhow::Result<LlamaRun> {
        let (prompt, generated) = prompt_and_generated(case.work);
        let mut command = Command::new(&self.llama_bench);
        command.arg("-m").arg(self.gguf(case.model)).args(["-o", "json"]);
        for (flag, value) in [("-t", self.threads), ("-r", case.repeat), ("-p", prompt), ("-n", generated)] {
            command.arg(flag).arg(value.to_string());
        }
        parse_llama(&output(&mut command)?, case.work).context("the output of llama-bench")
    }

    /// The same work by us: the run, and what the machine could do meanwhile.
    pub fn cuvier(&self, case: &Case) -> anyhow::Result<(CuvierRun, CuvierBench)> {
        let (prompt, decoded) = match case.work {
            Work::Prefill(tokens) => (tokens, 0),
            // A prompt of one token: there is no way to ask for none.
            Work::Decode(tokens) => (1, tokens),
        };
        let mut command = self.bench(case.model, case.repeat);
        command.args(["--prefill", &prompt.to_string(), "--decode", &decoded.to_string()]);
        let bench = parse_cuvier(&output(&mut command)?).context("the output of cuvier bench")?;
        let asked = |run: &&CuvierRun| run.kind == case.work.kind() && run.tokens == case.work.tokens();
        let run = bench.runs.iter().find(asked).cloned();
        Ok((run.with_context(|| format!("cuvier bench does not mention {case}"))?, bench))
    }

    /// Tokens per second of both sides of a comparison: in one process where one instruction set serves both.
    pub fn compare(&self, model: &Model, comparison: &Comparison) -> anyhow::Result<[f64; 2]> {
        let Comparison { this, beside, .. } = *comparison;
        let (this_bench, beside_bench) = if this.isa == beside.isa {
            let both = self.decodings(model, &[this, beside])?;
            (both.clone(), both)
        } else {
            (self.decodings(model, &[this])?, self.decodings(model, &[beside])?)
        };
        let speed = |bench: CuvierBench, decoding| {
            bench.speed(decoding).with_context(|| format!("cuvier bench does not mention {decoding:?}"))
        };
        Ok([speed(this_bench, this)?, speed(beside_bench, beside)?])
    }

    fn decodings(&self, model: &Model, wanted: &[Decoding]) -> anyhow::Result<CuvierBench> {
        let mut command = self.bench(model, COMPARED_REPEAT);
        command.args(["--prefill", "1", "--decode", &COMPARED_TOKENS.to_string()]);
        command.args(["--context", &list(wanted.iter().map(|decoding| decoding.context))]);
        command.args(["--slots", &list(wanted.iter().map(|decoding| decoding.slots))]);
        if let Some(isa) = wanted.iter().find_map(|decoding| decoding.isa) {
            command.args(["--isa", isa]);
        }
        parse_cuvier(&output(&mut command)?).context("the output of cuvier bench")
    }

    fn bench(&self, model: &Model, repeat: usize) -> Command {
        let mut command = Command::new(&self.cuvier);
        command.arg("bench").arg("-m").arg(self.checkpoint(model)).arg("--json");
        command.args(["--threads", &self.threads.to_string(), "--repeat", &repeat.to_string()]);
        command
    }
}

impl CuvierBench {
    /// Tokens per second of a decoding.
    pub fn speed(&self, wanted: Decoding) -> Option<f64> {
        let is_wanted = |run: &&CuvierRun| {
            run.kind == "decode" && run.context == wanted.context && run.slots == wanted.slots
        };
        self.runs.iter().find(is_wanted).map(|run| run.tokens_per_s)
    }
}

/// How `llama-bench` names a work.
fn prompt_and_generated(work: Work) -> (usize, usize) {
    match work {
        Work::Prefill(tokens) => (tokens, 0),
        Work::Decode(tokens) => (0, tokens),
    }
}

/// The value of a flag: every number once, in order of its first place.
fn list(numbers: impl Iterator<Item = usize>) -> String {
    let mut texts = Vec::new();
    for text in numbers.map(|number| number.to_string()) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts.join(",")
}

/// Reads the list that `llama-bench -o json` writes, and takes the case that was asked for.
pub fn parse_llama(text: &str, work: Work) -> anyhow::Result<LlamaRun> {
    let document = parse(text)?;
    let (prompt, generated) = prompt_and_generated(work);
    for test in document.as_array().context("not a list")? {
        if count(test, "n_prompt")? == prompt && count(test, "n_gen")? == generated {
            let samples = test.get("samples_ts").and_then(Value::as_array).context("no `samples_ts`")?;
            let samples: Option<Vec<_>> = samples.iter().map(Value::as_f64).collect();
            let summary = Summary::of(&samples.context("a sample that is not a number")?);
            return Ok(LlamaRun {
                tokens_per_s: summary.context("no samples")?.median,
                commit: string(test, "build_commit")?,
            });
        }
    }
    bail!("no test of {} tokens of {}", work.tokens(), work.kind())
}

/// Reads what `cuvier bench --json` writes.
pub fn parse_cuvier(text: &str) -> anyhow::Result<CuvierBench> {
    let document = parse(text)?;
    let machine = document.get("machine").context("no `machine`")?;
    let runs = document.get("runs").and_then(Value::as_array).context("no `runs`")?;
    let run = |run: &Value| {
        Ok(CuvierRun {
            kind: string(run, "kind")?,
            tokens: count(run, "tokens")?,
            context: count(run, "context")?,
            slots: count(run, "slots")?,
            tokens_per_s: number(run, "tokens_per_s")?,
            roof_share: number(run, "roof_share")?,
        })
    };
    Ok(CuvierBench {
        cpu: string(machine, "cpu")?,
        isa: string(machine, "isa")?,
        memory_gbps: number(machine, "memory_gbps")?,
        gflops: number(machine, "gflops")?,
        int8_gops: number(machine, "int8_gops")?,
        fp4_gops: number(machine, "fp4_gops")?,
        runs: runs.iter().map(run).collect::<anyhow::Result<_>>()?,
    })
}

/// A JSON document; the error quotes how it begins.
pub fn parse(text: &str) -> anyhow::Result<Value> {
    let start: String = text.chars().take(200).collect();
    serde_json::from_str(text.trim()).with_context(|| format!("not JSON: {start:?}"))
}

fn field<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    value.get(name).with_context(|| format!("no `{name}`"))
}

/// A finite number above or at zero.
pub fn number(value: &Value, name: &str) -> anyhow::Result<f64> {
    let number = field(value, name)?.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
    number.with_context(|| format!("`{name}` is not a number"))
}

fn count(value: &Value, name: &str) -> anyhow::Result<usize> {
    let count = field(value, name)?.as_u64().and_then(|count| usize::try_from(count).ok());
    count.with_context(|| format!("`{name}` is not a count"))
}

fn string(value: &Value, name: &str) -> anyhow::Result<String> {
    Ok(field(value, name)?.as_str().with_context(|| format!("`{name}` is not text"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA: &str = r#"[
      {"build_commit": "0c1e570", "n_prompt": 512, "n_gen": 0, "samples_ts": [70.0, 74.0]},
      {"build_commit": "0c1e570", "n_prompt": 0, "n_gen": 32, "samples_ts": [15.0, 12.0, 14.0]}
    ]"#;

    const CUVIER: &str = r#"{"model":"tiny","machine":{"cpu":"AMD EPYC","isa":"avx2","threads":2,"memory_gbps":40.5,
      "gflops":109.25,"int8_gops":250,"fp4_gops":400.5},"runs":[{"kind":"decode","tokens":32,"context":4096,"slots":8,"tokens_per_s":160.5,
      "tokens_per_s_min":119.3,"tokens_per_s_max":160.5,"bytes_per_token":23332376.0,"roof_share":0.625}],
      "peak_memory_bytes":593752064}"#;

    #[test]
    fn a_run_of_llama_bench_is_the_median_of_its_samples() {
        let run = |work| parse_llama(LLAMA, work).expect("a run");
        assert_eq!(run(Work::Prefill(512)), LlamaRun { tokens_per_s: 72.0, commit: "0c1e570".to_owned() });
        assert_eq!(run(Work::Decode(32)).tokens_per_s, 14.0);
    }

    #[test]
    fn what_llama_bench_does_not_say_is_named() {
        let error = |text, work| format!("{:#}", parse_llama(text, work).expect_err("it is not there"));
        assert_eq!(error(LLAMA, Work::Prefill(32)), "no test of 32 tokens of prefill");
        assert!(error("llama_bench: error", Work::Decode(32)).contains("llama_bench: error"));
        assert_eq!(error(r#"[{"n_prompt": 0}]"#, Work::Decode(32)), "no `n_gen`");
        assert_eq!(error(r#"[{"n_prompt":0,"n_gen":1,"samples_ts":[]}]"#, Work::Decode(1)), "no samples");
    }

    #[test]
    fn a_document_of_cuvier_bench_is_read() {
        let bench = parse_cuvier(CUVIER).expect("a document");
        assert_eq!((bench.isa.as_str(), bench.memory_gbps, bench.gflops), ("avx2", 40.5, 109.25));
        assert_eq!((bench.int8_gops, bench.fp4_gops), (250.0, 400.5));
        assert_eq!(bench.runs[0].roof_share, 0.625);
        assert_eq!(bench.speed(Decoding { isa: None, context: 4096, slots: 8 }), Some(160.5));
        assert_eq!(bench.speed(Decoding { isa: None, context: 4096, slots: 1 }), None);
    }

    #[test]
    fn a_broken_document_is_an_error() {
        assert!(parse_cuvier("").is_err());
        assert!(parse_cuvier(r#"{"machine":{}}"#).is_err());
        assert!(parse_cuvier(&CUVIER.replace("160.5,\n", "null,\n")).is_err());
        assert!(parse_cuvier(&CUVIER.replace("4096", "-1")).is_err());
    }

    #[test]
    fn a_number_is_asked_for_once() {
        assert_eq!(list([4096, 131_072, 4096, 1].into_iter()), "4096,131072,1");
    }
}
