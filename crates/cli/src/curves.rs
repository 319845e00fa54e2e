//! The curves of a run, beside its metrics.

use std::path::Path;

use anyhow::Context;
use cuvier_train::plot::{Measured, plot};

/// Draws every quantity of a run into the folder `out`, a file each. One that this run does not have is no curve.
pub fn draw<M: Measured>(out: &Path, steps: &[M]) -> anyhow::Result<()> {
    for quantity in steps.first().map(M::quantities).unwrap_or_default() {
        if let Ok(svg) = plot(&quantity, &[("this run", steps)]) {
            let file = out.join(format!("{}.svg", quantity.name));
            std::fs::write(&file, svg).with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}
