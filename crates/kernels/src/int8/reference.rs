//! The meaning of the products, in plain loops.

use cuvier_tensor::{PANEL_COLS, PANEL_ROWS, WeightFormat, WeightMatrix, panel_column};

use crate::QuantisedRows;

/// `out[t, r]` as the module says.
pub(crate) fn product(x: &QuantisedRows, w: &WeightMatrix) -> Vec<f32> {
    let WeightFormat::Int8(panels) = w.format() else { panic!("not packed") };
    let blocks = w.cols().div_ceil(PANEL_COLS);
    let mut out = Vec::new();
    for t in 0..x.rows() {
        for row in 0..w.rows() {
            let mut acc = 0.0f32;
            for (block, (codes, &scale)) in x.codes(t).iter().zip(x.scales(t)).enumerate() {
                let panel = &panels[row / PANEL_ROWS * blocks + block];
                let mut sum = 0;
                for (quad, rows) in panel.codes.iter().enumerate() {
                    for (byte, &code) in rows[row % PANEL_ROWS].iter().enumerate() {
                        let column = panel_column(quad, byte);
                        sum += i32::from(code) * i32::from(codes[column % 2 * 64 + column / 2]);
                    }
                }
                acc = (sum as f32).mul_add(panel.units[row % PANEL_ROWS] * scale, acc);
            }
            out.push(acc);
        }
    }
    out
}
