//! Flags that several verbs share.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use cuvier_encoding::Thinking;
use cuvier_model::{Compute, Isa, KvFormat};
use cuvier_types::Bytes;

/// Which model.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Checkpoint folder in the official file format; without it the embedded toy model
    #[arg(short, long, value_name = "DIR")]
    pub model: Option<PathBuf>,
}

/// `--think`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Think {
    /// Answer at once
    Off,
    /// Think briefly
    Low,
    /// Think
    High,
    /// Think as long as it takes
    Max,
}

impl From<Think> for Thinking {
    fn from(think: Think) -> Self {
        match think {
            Think::Off => Self::Off,
            Think::Low => Self::Low,
            Think::High => Self::High,
            Think::Max => Self::Max,
        }
    }
}

impl From<Think> for cuvier_train::data::Think {
    fn from(think: Think) -> Self {
        match think {
            Think::Off => Self::Off,
            Think::Low => Self::Low,
            Think::High => Self::High,
            Think::Max => Self::Max,
        }
    }
}

/// What to run it on.
#[derive(Args, Clone, Debug)]
pub struct ComputeArgs {
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", env = "CUVIER_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// Instruction set
    #[arg(long, value_name = "ISA", default_value = "auto", env = "CUVIER_ISA")]
    pub isa: IsaChoice,
    /// Ceiling for the memory of the process, e.g. 20GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<Bytes>,
    /// Precision of the stored attention state
    #[arg(long, value_name = "FORMAT", default_value = "fp8")]
    pub kv: Kv,
}

/// `--isa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IsaChoice {
    /// The best that this CPU has
    Auto,
    /// Plain code
    Scalar,
    /// AVX2 and FMA
    Avx2,
    /// AVX-512
    Avx512,
    /// Arm NEON
    Neon,
}

/// `--kv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kv {
    /// The official cache formats: FP8 and BF16 entries, FP4 index keys
    Fp8,
    /// Exact, for comparisons
    F32,
}

impl From<Kv> for KvFormat {
    fn from(kv: Kv) -> Self {
        match kv {
            Kv::Fp8 => Self::Fp8,
            Kv::F32 => Self::F32,
        }
    }
}

impl ComputeArgs {
    /// The threads and instruction set that the flags ask for.
    pub fn compute(&self) -> anyhow::Result<Compute> {
        Compute::new(self.isa.resolve()?, self.threads()).context("starting threads")
    }

    /// `--threads`, or all cores.
    pub fn threads(&self) -> NonZeroUsize {
        let all = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.threads.unwrap_or_else(all)
    }
}

impl IsaChoice {
    /// The instruction set, if this CPU has it.
    pub fn resolve(self) -> anyhow::Result<Isa> {
        let available = Isa::available();
        let name = match self {
            Self::Auto => return Ok(Isa::best()),
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        };
        let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
        match available.iter().find(|isa| isa.name() == name) {
            Some(isa) => Ok(*isa),
            None => bail!("this machine has no {name} that cuvier can use; it has {}", names.join(", ")),
        }
    }
}

/// `20GiB`, `512MiB`, `3GB`, or a bare number of bytes.
pub fn parse_size(text: &str) -> Result<Bytes, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(format!("`{text}` is not a size: write 20GiB, 512MiB or a number of bytes")),
    };
    let number = f64::from_str(number).map_err(|_| format!("`{text}` is not a size: write 20GiB"))?;
    let bytes = number * factor as f64;
    if !(0.0..9e18).contains(&bytes) {
        return Err(format!("`{text}` is too large"));
    }
    Ok(Bytes(bytes as u64))
}

/// A size as a person reads it.
pub fn show_size(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.2} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(parse_size("20GiB"), Ok(Bytes(20 << 30)));
        assert_eq!(parse_size("1.5MiB"), Ok(Bytes(3 << 19)));
        assert_eq!(parse_size("7"), Ok(Bytes(7)));
        assert!(parse_size("20 gigs").is_err());
        assert!(parse_size("").is_err());
        assert!(parse_size("-1GiB").is_err());
    }
}
