//! What a step runs on, and who looks on.

use std::slice;

use cuvier_kernels::{Compute, Lent, Number};
use cuvier_tensor::Matrix;

use crate::kept::Kept;

/// Records named tensors while a step runs; see [`Ctx::with_probe`].
pub trait Probe {
    /// Whether this tensor is wanted; asked before it is handed over.
    fn wants(&self, name: &str) -> bool;
    /// Takes a tensor: one row per token of the step (per stream and head as the name's page in `docs` says).
    fn record(&mut self, name: &str, rows: usize, data: &[f32]);
}

/// The threads and instruction set of a step, and perhaps a probe.
pub struct Ctx<'a> {
    /// Instruction set and threads.
    pub compute: &'a Compute,
    probe: Option<&'a mut dyn Probe>,
    kept: Option<&'a mut Kept>,
    /// For the routers by score that are still to come.
    chosen: Option<slice::Iter<'a, Matrix<u16>>>,
    layer: String,
}

impl<'a> Ctx<'a> {
    /// Runs without a probe.
    pub fn new(compute: &'a Compute) -> Self {
        Self { compute, probe: None, kept: None, chosen: None, layer: String::new() }
    }

    /// Runs with a probe.
    pub fn with_probe(compute: &'a Compute, probe: &'a mut dyn Probe) -> Self {
        Self { probe: Some(probe), ..Self::new(compute) }
    }

    /// Runs with a place for what a backward pass needs.
    pub(crate) fn keeping(compute: &'a Compute, kept: &'a mut Kept) -> Self {
        Self { kept: Some(kept), ..Self::new(compute) }
    }

    /// Routers by score take these experts, one matrix a router, instead of choosing.
    pub(crate) fn choosing(self, chosen: Option<&'a [Matrix<u16>]>) -> Self {
        Self { chosen: chosen.map(<[_]>::iter), ..self }
    }

    /// The experts that the router which comes now is to take, if it is not to choose.
    ///
    /// # Panics
    /// If there are some for routers, and none for this one.
    pub(crate) fn chosen(&mut self) -> Option<&'a Matrix<u16>> {
        self.chosen.as_mut().map(|chosen| chosen.next().expect("experts for every router by score"))
    }

    /// Keeps something for the backward pass, if there will be one.
    pub(crate) fn keep(&mut self, put: impl FnOnce(&mut Kept)) {
        if let Some(kept) = &mut self.kept {
            put(kept);
        }
    }

    /// A matrix for intermediate results; see [`Compute::matrix`].
    pub(crate) fn matrix<T: Number>(&self, rows: usize, cols: usize) -> Lent<T> {
        self.compute.matrix(rows, cols)
    }

    /// The `len` numbers of `numbers`, in one column of such a matrix.
    ///
    /// # Panics
    /// If there are less.
    pub(crate) fn column<T: Number>(&self, len: usize, mut numbers: impl Iterator<Item = T>) -> Lent<T> {
        let mut column = self.matrix(len, 1);
        column.data_mut().fill_with(|| numbers.next().expect("as many numbers as were announced"));
        column
    }

    /// Sets the prefix of the names that follow, `layers.3` or `mtp.0`; empty outside layers.
    pub(crate) fn enter(&mut self, layer: impl FnOnce() -> String) {
        if self.probe.is_some() {
            self.layer = layer();
        }
    }

    /// Shows `tensor` to the probe under the current layer's prefix.
    pub(crate) fn probe(&mut self, name: &str, tensor: &Matrix) {
        self.show(name, |probe, name| probe.record(name, tensor.rows(), tensor.data()));
    }

    /// Shows ids to the probe, each as the number that it is.
    pub(crate) fn probe_ids(&mut self, name: &str, ids: &Matrix<u16>) {
        self.show(name, |probe, name| {
            let numbers: Vec<f32> = ids.data().iter().map(|&id| f32::from(id)).collect();
            probe.record(name, ids.rows(), &numbers);
        });
    }

    fn show(&mut self, name: &str, record: impl FnOnce(&mut dyn Probe, &str)) {
        if let Some(probe) = &mut self.probe {
            let name = if self.layer.is_empty() { name.to_owned() } else { format!("{}.{name}", self.layer) };
            if probe.wants(&name) {
                record(&mut **probe, &name);
            }
        }
    }
}

/// The names a probe may ask for in every layer, behind `layers.N.`; a layer without the part records nothing.
/// Outside layers there are `embed` and `norm`.
///
/// `hc_attn.comb` and `hc_ffn.comb` are `[tokens, hc_mult * hc_mult]`: entry `hc_mult * j + k` is what stream `j` before
/// the sublayer gives to stream `k` behind it. `ffn.experts` is `[tokens, num_experts_per_tok]`: ids, as numbers.
pub const PROBE_NAMES: [&str; 14] = [
    "hc_attn.comb",
    "attn.in",
    "attn.q",
    "attn.kv",
    "attn.compressor",
    "attn.indexer.keys",
    "attn.o",
    "attn.out",
    "hc_ffn.comb",
    "ffn.in",
    "ffn.gate",
    "ffn.experts",
    "ffn.out",
    "streams",
];
