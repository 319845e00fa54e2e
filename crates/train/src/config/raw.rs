//! The keys of a configuration, unchecked; each knows where it stood.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

type Key<T> = Option<Spanned<T>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) preset: Key<String>,
    pub(super) from: Key<String>,
    #[serde(default)]
    pub(super) model: BTreeMap<Spanned<String>, toml::Value>,
    pub(super) data: Key<String>,
    pub(super) out: Key<String>,
    pub(super) steps: Key<u64>,
    pub(super) minutes: Key<f64>,
    pub(super) tokens: Key<u64>,
    pub(super) tokens_per_step: Key<u64>,
    pub(super) max_len: Key<u64>,
    pub(super) seed: Key<u64>,
    #[serde(default)]
    pub(super) optimizer: RawOptimizer,
    #[serde(default)]
    pub(super) schedule: RawSchedule,
    #[serde(default)]
    pub(super) stage: Vec<RawStage>,
    #[serde(default)]
    pub(super) loss: RawLoss,
    #[serde(default)]
    pub(super) balance: RawBalance,
    pub(super) qat: Option<RawQat>,
    pub(super) anticipation: Option<RawAnticipation>,
    #[serde(default)]
    pub(super) checkpoint: RawCheckpoint,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawOptimizer {
    pub(super) matrices: Key<String>,
    pub(super) rate: Key<f64>,
    pub(super) decay: Key<f64>,
    pub(super) momentum: Key<f64>,
    pub(super) update_rms: Key<f64>,
    pub(super) coarse_iterations: Key<u64>,
    pub(super) fine_iterations: Key<u64>,
    pub(super) beta1: Key<f64>,
    pub(super) beta2: Key<f64>,
    pub(super) eps: Key<f64>,
    pub(super) clip: Key<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSchedule {
    pub(super) warmup_steps: Key<u64>,
    pub(super) decay_share: Key<f64>,
    pub(super) end_share: Key<f64>,
    pub(super) ramp_from: Key<u64>,
    pub(super) ramp_share: Key<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStage {
    pub(super) until: Spanned<f64>,
    pub(super) max_len: Key<u64>,
    pub(super) attention: Spanned<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLoss {
    pub(super) mtp: Key<f64>,
    pub(super) mtp_decay: Key<f64>,
    pub(super) balance: Key<f64>,
    pub(super) indexer: Key<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBalance {
    pub(super) speed: Key<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawQat {
    pub(super) begin: Key<f64>,
    pub(super) experts: Key<bool>,
    pub(super) indexer: Key<bool>,
    pub(super) linears: Key<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAnticipation {
    pub(super) window_steps: Key<u64>,
    pub(super) spike: Key<f64>,
    pub(super) delay_steps: Key<u64>,
    pub(super) for_steps: Key<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCheckpoint {
    pub(super) every_steps: Key<u64>,
    pub(super) precision: Key<String>,
}

/// When and with how many questions a run is tested.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHeldOut {
    pub(super) every_steps: Key<u64>,
    pub(super) questions: Key<u64>,
}
