//! The Walsh-Hadamard transform: spreads outliers over all dimensions before rounding to four bits.

use cuvier_tensor::MatMut;

use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows};

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// Rows that are worth a task of their own.
const ROWS_PER_TASK: usize = 64;

/// The orthogonal Hadamard transform of each row, in place: `y = H x / sqrt(dim)`.
///
/// | argument | shape         | dtype | unit                     |
/// |----------|---------------|-------|--------------------------|
/// | `x`      | `[rows, dim]` | f32   | index queries or keys    |
///
/// `H` in Sylvester's order: `H(2m) = [[H(m), H(m)], [H(m), -H(m)]]`. Butterflies of f32 sums and differences at
/// distances 1, 2, 4, ... `dim / 2`, then one product with `1 / sqrt(dim)`.
///
/// Source: DeepSeek-V4 `inference/model.py`, `rotate_activation`.
///
/// # Panics
/// If `dim` is not a power of two.
pub fn hadamard(c: &Compute, x: MatMut<'_>) {
    let (rows, dim) = (x.rows(), x.cols());
    assert!(rows == 0 || dim.is_power_of_two(), "{dim} is not a power of two");
    let x = DisjointRows::new(x.into_data(), dim);
    c.for_each_range(rows, ROWS_PER_TASK, |rows| {
        for row in rows {
            // SAFETY: every row belongs to exactly one range.
            c.isa().dispatch(Row(unsafe { x.part(row, 0..dim) }));
        }
    });
}

struct Row<'a>(&'a mut [f32]);

impl Vectorized for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = (1.0 / (self.0.len() as f64).sqrt()) as f32;
        if self.0.len() < LANES {
            let mut lanes = [0.0; LANES];
            lanes[..self.0.len()].copy_from_slice(self.0);
            for distance in [1, 2, 4, 8].into_iter().take_while(|&distance| distance < self.0.len()) {
                lanes = butterflies(lanes, distance);
            }
            s.store_partial(s.mul(s.load(&lanes), s.splat(scale)), self.0);
            return;
        }
        let (chunks, _) = self.0.as_chunks_mut::<LANES>();
        for chunk in &mut *chunks {
            *chunk = butterflies(butterflies(butterflies(butterflies(*chunk, 1), 2), 4), 8);
        }
        let mut distance = 1;
        while distance < chunks.len() {
            for pair in chunks.chunks_exact_mut(2 * distance) {
                let (a, b) = pair.split_at_mut(distance);
                for (a, b) in a.iter_mut().zip(b) {
                    let (sum, difference) = (s.add(s.load(a), s.load(b)), s.sub(s.load(a), s.load(b)));
                    s.store(sum, a);
                    s.store(difference, b);
                }
            }
            distance *= 2;
        }
        for chunk in chunks {
            s.store(s.mul(s.load(chunk), s.splat(scale)), chunk);
        }
    }
}

/// The sums and differences of elements `distance` apart, inside one vector.
#[inline(always)]
fn butterflies(x: [f32; LANES], distance: usize) -> [f32; LANES] {
    let mut y = x;
    for i in 0..LANES {
        let other = x[i ^ distance];
        y[i] = if i & distance == 0 { x[i] + other } else { other - x[i] };
    }
    y
}
