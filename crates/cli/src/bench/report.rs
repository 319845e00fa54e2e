//! Rows of a bench as a table or as JSON.

use std::io::Write;

use cuvier_model::{Compute, Roof};
use cuvier_weights::expert_store::LayerReads;
use serde_json::{Value, json};

use super::limits::{Limits, Work};
use super::row::{Reads, Row};
use crate::memory::peak_memory_bytes;
use crate::options::show_size;
use crate::planning;

/// All that is told.
pub(super) struct Report<'a> {
    pub model: &'a str,
    pub compute: &'a Compute,
    pub limits: Limits,
    pub rows: Vec<Row>,
}

impl Report<'_> {
    pub(super) fn print_table(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let Roof { memory_bytes_per_s, flops_per_s, int8_ops_per_s, fp4_ops_per_s } = self.limits.roof;
        let [memory, flops, int8, fp4] =
            [memory_bytes_per_s, flops_per_s, int8_ops_per_s, fp4_ops_per_s].map(|limit| limit / 1e9);
        let (isa, threads) = (self.compute.isa().name(), self.compute.threads());
        writeln!(
            out,
            "{isa}, {threads} threads: memory {memory:.1} GB/s, f32 {flops:.0} GFLOP/s, int8 {int8:.0} and fp4 {fp4:.0} GOP/s"
        )?;
        writeln!(out, "kind     tokens  context  slots  tokens/s     (min - max)      of roof")?;
        for row in &self.rows {
            let (min, max) = (row.speeds[0], row.speeds[row.speeds.len() - 1]);
            let (speed, share) = (row.speed(), 100.0 * self.roof_share(row));
            let Row { kind, tokens, context, slots, .. } = row;
            writeln!(
                out,
                "{kind:8} {tokens:6} {context:8} {slots:6}  {speed:8.1}  ({min:.1} - {max:.1})  {share:6.1} %"
            )?;
            if let Some(reads) = &row.reads {
                writeln!(out, "         {}", planning::reads(&reads.all, reads.tokens))?;
            }
            if let Some(share) = self.limits.bound_share(&row.work, row.speed()) {
                writeln!(out, "         {:.1} % of what disk and memory allow together", 100.0 * share)?;
            }
        }
        if let Some(disk) = self.limits.disk_bytes_per_s {
            writeln!(out, "disk {:.2} GB/s in direct reads of 12 MiB, two at a time", disk / 1e9)?;
        }
        writeln!(out, "peak memory {}", show_size(peak_memory_bytes()))?;
        Ok(())
    }

    pub(super) fn print_json(&self) -> anyhow::Result<()> {
        let runs: Vec<_> = self.rows.iter().map(|row| self.row_json(row)).collect();
        let Limits { roof, disk_bytes_per_s } = self.limits;
        let machine = json!({
            "cpu": cpu_name(),
            "isa": self.compute.isa().name(),
            "threads": self.compute.threads(),
            "memory_gbps": roof.memory_bytes_per_s / 1e9,
            "gflops": roof.flops_per_s / 1e9,
            "int8_gops": roof.int8_ops_per_s / 1e9,
            "fp4_gops": roof.fp4_ops_per_s / 1e9,
            "disk_gbps": disk_bytes_per_s.map(|disk| disk / 1e9),
        });
        let peak = peak_memory_bytes();
        let document =
            json!({ "model": self.model, "machine": machine, "runs": runs, "peak_memory_bytes": peak });
        writeln!(std::io::stdout().lock(), "{document}")?;
        Ok(())
    }

    fn row_json(&self, row: &Row) -> Value {
        let bytes_per_token = match row.work {
            Work::Operations(_) => 0.0,
            Work::Bytes { memory, .. } => memory,
        };
        json!({
            "kind": row.kind,
            "tokens": row.tokens,
            "context": row.context,
            "slots": row.slots,
            "tokens_per_s": row.speed(),
            "tokens_per_s_min": row.speeds[0],
            "tokens_per_s_max": row.speeds[row.speeds.len() - 1],
            "bytes_per_token": bytes_per_token,
            "roof_share": self.roof_share(row),
            "bound_share": self.limits.bound_share(&row.work, row.speed()),
            "reads": row.reads.as_ref().map(reads_json),
        })
    }

    fn roof_share(&self, row: &Row) -> f64 {
        self.limits.roof_share(&row.work, row.tokens, row.speed())
    }
}

fn reads_json(reads: &Reads) -> Value {
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
        "all": of(&reads.all),
        "layers": layers,
    })
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("model name"));
    line.map_or(std::env::consts::ARCH, |line| line.trim_start_matches([' ', '\t', ':'])).to_owned()
}
