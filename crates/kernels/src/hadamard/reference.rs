//! The transform by its matrix.

/// `y_i = sum_j (-1)^(bits that i and j share) x_j / sqrt(dim)`: Sylvester's matrix, entry by entry.
pub(super) fn hadamard(x: &[f32]) -> Vec<f64> {
    let root = (x.len() as f64).sqrt();
    let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    (0..x.len())
        .map(|i| x.iter().enumerate().map(|(j, &x)| sign(i, j) * f64::from(x)).sum::<f64>() / root)
        .collect()
}
