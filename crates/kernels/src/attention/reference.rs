//! Attention as its formula says.

/// The output of one query head over `keys`, each its own value, and a bound on what f32 may make of it.
pub(super) struct Head {
    pub(super) out: Vec<f64>,
    pub(super) bound: Vec<f64>,
}

/// `p_j = exp(s_j) / (sum exp(s_j) + exp(sink))` with `s_j = scale * (q . key_j)`; `out = sum_j p_j key_j`.
pub(super) fn attend(q: &[f32], keys: &[Vec<f32>], sink: f32, scale: f32) -> Head {
    const U: f64 = f32::EPSILON as f64 / 2.0;
    let (scale, sink) = (f64::from(scale), f64::from(sink));
    let scores: Vec<f64> = keys.iter().map(|key| scale * dot(q, key, |x| x)).collect();
    let max = scores.iter().copied().fold(sink, f64::max);
    let exps: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let denominator = exps.iter().sum::<f64>() + (sink - max).exp();
    let mean = |magnitude: fn(f64) -> f64| -> Vec<f64> {
        let dims = 0..q.len();
        dims.map(|d| {
            let terms = exps.iter().zip(keys).map(|(p, key)| p * magnitude(f64::from(key[d])));
            terms.sum::<f64>() / denominator
        })
        .collect()
    };
    // A score is off by one rounding per addition of its lane, the tree and the factor; its distance to the
    // maximum by twice that and one rounding more; the exponential by two units beyond.
    let additions = q.len().div_ceil(16) as f64 + 6.0;
    let off = keys.iter().map(|key| scale * additions * U * dot(q, key, f64::abs)).fold(0.0, f64::max);
    let farthest = scores.iter().chain([&sink]).map(|s| max - s).fold(0.0, f64::max);
    let exp_off = 2.0 * off + U * farthest + 4.0 * U;
    // Numerator and denominator carry that error each; then one rounding per key above, one per sixteen keys below.
    let relative = 2.0 * exp_off + (keys.len() as f64 + keys.len() as f64 / 16.0 + 8.0) * U;
    Head { out: mean(|x| x), bound: mean(f64::abs).iter().map(|m| relative * 1.01 * m + 1e-30).collect() }
}

fn dot(a: &[f32], b: &[f32], map: impl Fn(f64) -> f64) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| map(f64::from(a) * f64::from(b))).sum()
}
