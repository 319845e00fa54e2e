//! The formulas, in f64. Squares are row major.

/// What a token's hyper-connection is made of.
pub(super) struct Weights<'a> {
    /// Rows as long as the streams.
    pub rows: &'a [Vec<f64>],
    pub base: &'a [f64],
    /// One per entry of `base`.
    pub scale: &'a [f64],
    pub norm_eps: f64,
}

/// `(fn * v) / sqrt(mean(v²) + norm_eps) * scale + base`.
pub(super) fn logits(v: &[f64], w: &Weights<'_>) -> Vec<f64> {
    let rms = (v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64 + w.norm_eps).sqrt();
    let dot = |row: &Vec<f64>| row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>();
    w.rows.iter().zip(w.base).zip(w.scale).map(|((row, base), scale)| dot(row) / rms * scale + base).collect()
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The square after softmax, and after each division by rows and by columns that follows.
pub(super) fn sinkhorn(logits: &[f64], n: usize, iters: usize, eps: f64) -> Vec<f64> {
    let mut c = softmax_rows(logits, n);
    c.iter_mut().for_each(|x| *x += eps);
    divide_columns(&mut c, n, eps);
    for _ in 1..iters {
        divide_rows(&mut c, n, eps);
        divide_columns(&mut c, n, eps);
    }
    c
}

pub(super) fn softmax_rows(logits: &[f64], n: usize) -> Vec<f64> {
    let mut c: Vec<f64> = logits.iter().map(|x| x.exp()).collect();
    divide_rows(&mut c, n, 0.0);
    c
}

pub(super) fn divide_rows(c: &mut [f64], n: usize, eps: f64) {
    for j in 0..n {
        let sum: f64 = (0..n).map(|k| c[j * n + k]).sum();
        (0..n).for_each(|k| c[j * n + k] /= sum + eps);
    }
}

pub(super) fn divide_columns(c: &mut [f64], n: usize, eps: f64) {
    for k in 0..n {
        let sum: f64 = (0..n).map(|j| c[j * n + k]).sum();
        (0..n).for_each(|j| c[j * n + k] /= sum + eps);
    }
}

/// `sum over j of pre[j] * stream j`.
pub(super) fn collapse(streams: &[f64], pre: &[f64]) -> Vec<f64> {
    let hidden = streams.len() / pre.len();
    (0..hidden).map(|i| pre.iter().enumerate().map(|(j, p)| p * streams[j * hidden + i]).sum()).collect()
}

/// `post[k] * o + sum over j of comb[j, k] * stream j`, stream by stream.
pub(super) fn expand(streams: &[f64], o: &[f64], post: &[f64], comb: &[f64]) -> Vec<f64> {
    let (n, hidden) = (post.len(), o.len());
    let entry = |k: usize, i: usize| -> f64 {
        post[k] * o[i] + (0..n).map(|j| comb[j * n + k] * streams[j * hidden + i]).sum::<f64>()
    };
    (0..n).flat_map(|k| (0..hidden).map(move |i| entry(k, i))).collect()
}
