//! Which experts each step of a model used.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cuvier_types::{ExpertId, ExpertKey, LayerId};

/// The uses of a run, step by step and layer by layer.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What to call it.
    pub name: String,
    /// Layers with routed experts.
    pub n_layers: usize,
    /// Routed experts per layer.
    pub n_experts: usize,
    /// Of each step, of each layer: the experts that it used, each once, ascending.
    pub steps: Vec<Vec<Vec<u16>>>,
    /// How it was made; `None`: it was recorded.
    pub process: Option<Process>,
}

/// What a made-up trace was drawn by, but not the draws.
#[derive(Clone, Debug)]
pub struct Process {
    /// Of each topic, by the expert's number in the whole model: the chance that one draw gives it.
    pub chances: Vec<Vec<f64>>,
    /// The chance that an expert of the token before is used again.
    pub sticky: f64,
    /// Experts that a token uses.
    pub per_token: usize,
    /// Of each step, its topic.
    pub topics: Vec<usize>,
    /// Of each step, of each layer: what its last token used.
    pub last: Vec<Vec<Vec<u16>>>,
}

impl Trace {
    /// Reads what `cuvier logits --trace` wrote: a line per step, an array of layers, of tokens, of ids.
    ///
    /// # Errors
    /// If the file cannot be read, a line is not of that form, or steps differ in the number of layers.
    pub fn read(path: &Path, name: &str) -> Result<Self, String> {
        let problem = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        let text = fs::read_to_string(path).map_err(|error| problem(&error))?;
        let mut trace =
            Self { name: name.to_owned(), n_layers: 0, n_experts: 0, steps: Vec::new(), process: None };
        for line in text.lines() {
            let layers: Vec<Vec<Vec<u16>>> = serde_json::from_str(line).map_err(|error| problem(&error))?;
            if !trace.steps.is_empty() && layers.len() != trace.n_layers {
                return Err(problem(&format!("{} layers after {}", layers.len(), trace.n_layers)));
            }
            trace.n_layers = layers.len();
            trace
                .steps
                .push(layers.iter().map(|tokens| distinct(tokens.iter().flatten().copied())).collect());
        }
        let largest = trace.steps.iter().flatten().flatten().max();
        trace.n_experts = largest.map_or(0, |&largest| usize::from(largest) + 1);
        Ok(trace)
    }

    /// Experts of all layers.
    pub fn n_total(&self) -> usize {
        self.n_layers * self.n_experts
    }

    /// The sets that are needed together, in order; each expert as its number in the whole model, ascending.
    pub fn sets(&self) -> Vec<Vec<usize>> {
        let layers = self.steps.iter().flat_map(|step| step.iter().enumerate());
        let number = |layer: usize, expert: &u16| layer * self.n_experts + usize::from(*expert);
        layers.map(|(layer, experts)| experts.iter().map(|expert| number(layer, expert)).collect()).collect()
    }

    /// Uses: an expert counts once per step.
    pub fn n_uses(&self) -> usize {
        self.steps.iter().flatten().map(Vec::len).sum()
    }
}

/// Each id once, ascending.
pub fn distinct(ids: impl Iterator<Item = u16>) -> Vec<u16> {
    ids.collect::<BTreeSet<u16>>().into_iter().collect()
}

/// The key of an expert of `layer`.
pub fn key(layer: usize, expert: u16) -> ExpertKey {
    let layer = u16::try_from(layer).expect("layers are few");
    ExpertKey { layer: LayerId(layer), expert: ExpertId(expert) }
}
