//! The gradient of the gated activation.

use cuvier_tensor::MatMut;

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

#[cfg(test)]
mod tests;

/// Gradient of `out = weight * swiglu(gate, up)`, see [`swiglu`](crate::swiglu()), and `out` itself once more. With
/// `g = min(gate, limit)`, `u = clamp(up, -limit, limit)` and `z = 1 / (1 + exp(-g))`:
///
/// ```text
/// dgate = weight * dout * u * z (1 + g (1 - z))     where gate <= limit, else 0
/// dup   = weight * dout * g z                       where |up| <= limit, else 0
/// dweight = sum of dout * g z u
/// ```
///
/// | argument   | shape         | dtype | unit |
/// |------------|---------------|-------|------|
/// | `gate`     | `[rows, dim]` | f32   | activation; becomes its gradient |
/// | `up`       | `[rows, dim]` | f32   | activation; becomes its gradient |
/// | `weights`  | `[rows]`      | f32   | factor of each row |
/// | `limit`    | scalar        | f32   | bound |
/// | `dout`     | `[rows, dim]` | f32   | gradient of `out`; becomes `out` |
/// | `dweights` | `[rows]`      | f32   | gradient of the factors, written |
///
/// Source: derivative of DeepSeek-V4 `inference/model.py`, `Expert.forward`.
///
/// # Panics
/// If the shapes disagree.
pub fn swiglu_backward(
    c: &Compute,
    gate: MatMut<'_>,
    up: MatMut<'_>,
    weights: &[f32],
    limit: f32,
    dout: MatMut<'_>,
    dweights: &mut [f32],
) {
    let (rows, cols) = (dout.rows(), dout.cols());
    assert_eq!((gate.rows(), up.rows(), weights.len(), dweights.len()), (rows, rows, rows, rows), "rows");
    assert!(rows == 0 || (gate.cols(), up.cols()) == (cols, cols), "columns");
    let [gate, up, dout] = [gate, up, dout].map(|x| DisjointRows::new(x.into_data(), cols));
    let dweights = DisjointRows::new(dweights, 1);
    c.for_each_range(rows, (1 << 13) / cols.max(1), |rows| {
        for row in rows {
            // SAFETY: each row belongs to exactly one range.
            let ([gate, up, dout], dweight) = unsafe {
                ([&gate, &up, &dout].map(|x| x.part(row, 0..cols)), &mut dweights.part(row, 0..1)[0])
            };
            *dweight = c.isa().dispatch(Row { gate, up, weight: weights[row], limit, dout });
        }
    });
}

struct Row<'a> {
    gate: &'a mut [f32],
    up: &'a mut [f32],
    weight: f32,
    limit: f32,
    dout: &'a mut [f32],
}

impl Vectorized for Row<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (zero, one, limit, weight) =
            (s.splat(0.0), s.splat(1.0), s.splat(self.limit), s.splat(self.weight));
        let floor = s.sub(zero, limit);
        let mut dweight = zero;
        let parts =
            self.gate.chunks_mut(LANES).zip(self.up.chunks_mut(LANES)).zip(self.dout.chunks_mut(LANES));
        for ((gate_out, up_out), dout_out) in parts {
            let (gate, up) = (s.load_partial(gate_out, 0.0), s.load_partial(up_out, 0.0));
            let dout = s.load_partial(dout_out, 0.0);
            let g = s.min(limit, gate);
            let u = s.max(floor, s.min(limit, up));
            let z = s.div(one, s.add(one, s.exp(s.sub(zero, g))));
            let silu = s.mul(g, z);
            let out = s.mul(silu, u);
            dweight = s.fma(dout, out, dweight);
            let scaled = s.mul(weight, dout);
            let slope = s.mul(z, s.fma(g, s.sub(one, z), one));
            let dgate = s.mul(s.mul(scaled, u), slope);
            s.store_partial(s.mul(dgate, equal(s, g, gate)), gate_out);
            s.store_partial(s.mul(s.mul(scaled, silu), equal(s, u, up)), up_out);
            s.store_partial(s.mul(weight, out), dout_out);
        }
        s.sum(dweight)
    }
}

/// 1 in the lanes where `clamped` is what it was, else 0.
#[inline(always)]
fn equal<S: Simd>(s: S, clamped: S::V, before: S::V) -> S::V {
    // The distance, if there is one, is at least an ulp of `limit`: far more than 2^-100.
    let off = s.sub(clamped, before);
    let off = s.max(off, s.sub(s.splat(0.0), off));
    s.sub(s.splat(1.0), s.min(s.splat(1.0), s.mul(off, s.splat(2f32.powi(100)))))
}
