//! The meaning of the gated activation, in f64.

/// `silu(min(gate, limit)) * clamp(up, -limit, limit)` of one element.
pub(crate) fn swiglu(gate: f64, up: f64, limit: f64) -> f64 {
    silu(gate.min(limit)) * up.clamp(-limit, limit)
}

/// `g / (1 + exp(-g))`.
fn silu(g: f64) -> f64 {
    g / (1.0 + (-g).exp())
}
