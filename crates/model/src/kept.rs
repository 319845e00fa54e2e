//! What a forward pass keeps for the backward pass, when it is asked to.

use cuvier_kernels::{HcMix, Lent, Routing, Selection};

/// What the layers of one pass leave behind, in the order in which they ran.
#[derive(Debug, Default)]
pub struct Kept {
    /// Two per layer: attention, experts.
    pub(crate) sublayers: Vec<Sublayer>,
    /// One per CSA layer.
    pub(crate) selections: Vec<Selection>,
    /// One per layer.
    pub(crate) routings: Vec<Routing>,
}

/// One sublayer between its hyper-connections.
#[derive(Debug)]
pub(crate) struct Sublayer {
    /// The streams before it, `[tokens, hc_mult * hidden_size]`.
    pub(crate) streams: Lent,
    /// What it gave, `[tokens, hidden_size]`.
    pub(crate) out: Lent,
    /// How the streams were mixed.
    pub(crate) mix: HcMix,
}
