//! The rotation, in f64.

/// Turns each pair of neighbours at the end of `x` by `angles`, in radians.
pub(super) fn rotate(x: &[f32], angles: &[f64]) -> Vec<f64> {
    let mut out: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let first = x.len() - 2 * angles.len();
    for (i, angle) in angles.iter().enumerate() {
        let (a, b) = (out[first + 2 * i], out[first + 2 * i + 1]);
        out[first + 2 * i] = a * angle.cos() - b * angle.sin();
        out[first + 2 * i + 1] = a * angle.sin() + b * angle.cos();
    }
    out
}
