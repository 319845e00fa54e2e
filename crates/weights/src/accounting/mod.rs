//! What a shape costs: parameters, bytes of weights and of attention state, operations per token. From the
//! config alone, without a tensor.
//!
//! State is counted in the official cache precision: entries of E4M3 and BF16 with their scales, FP4 index keys.

mod flops;
mod parameters;
mod state;
mod v32;

#[cfg(test)]
mod tests;

use crate::{ModelConfig, Precision};

pub use flops::{Flops, flops_per_token};
pub use parameters::{Parameters, PartCount, parameters};
pub use state::{StateBytes, state_bytes};
pub use v32::V32;

/// Everything that `inspect` tells about a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Accounting {
    /// The context that sizes and operations are for.
    pub context: u64,
    /// Counts of numbers, tensors and bytes.
    pub parameters: Parameters,
    /// Attention state of one sequence at `context`.
    pub state: StateBytes,
    /// Operations of one decoded token at `context`.
    pub flops: Flops,
    /// The same for DeepSeek-V3.2.
    pub v32: Baseline,
}

/// The parts of an account that V3.2 is compared in.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// Bytes of attention state per token.
    pub kv_bytes_per_token: f64,
    /// Bytes of attention state at the context.
    pub kv_bytes_at_context: u64,
    /// Operations of one decoded token at the context.
    pub flops: Flops,
}

/// Counts a shape stored in `precision`, with its MTP block if `mtp`, at `context` tokens.
pub fn account(config: &ModelConfig, precision: Precision, mtp: bool, context: u64) -> Accounting {
    let v32 = V32::RELEASED;
    Accounting {
        context,
        parameters: parameters(config, precision, mtp),
        state: state_bytes(config, context),
        flops: flops_per_token(config, context),
        v32: Baseline {
            kv_bytes_per_token: v32.kv_bytes_per_token() as f64,
            kv_bytes_at_context: v32.kv_bytes_per_token() * context,
            flops: v32.flops_per_token(context),
        },
    }
}

impl Accounting {
    /// Growing attention state as a fraction of V3.2's.
    pub fn kv_ratio(&self) -> f64 {
        self.state.bytes_per_token / self.v32.kv_bytes_per_token
    }

    /// Operations in FP8 equivalents as a fraction of V3.2's.
    pub fn flops_ratio(&self) -> f64 {
        self.flops.fp8_equivalent() / self.v32.flops.fp8_equivalent()
    }

    /// Operations as a fraction of V3.2's, every one counted alike.
    pub fn flops_ratio_raw(&self) -> f64 {
        self.flops.raw() / self.v32.flops.raw()
    }
}
