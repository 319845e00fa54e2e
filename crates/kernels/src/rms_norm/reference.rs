//! The formula, in f64.

/// `x / sqrt(mean(x²) + eps) * weight`.
pub(super) fn rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32) -> Vec<f64> {
    let mean_square = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
    let rms = (mean_square + f64::from(eps)).sqrt();
    let gain = |i: usize| weight.map_or(1.0, |w| f64::from(w[i]));
    x.iter().enumerate().map(|(i, &x)| f64::from(x) / rms * gain(i)).collect()
}
