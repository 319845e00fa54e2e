//! From streams to the numbers that mix them.

use super::*;

/// Weights of a drawn hyper-connection, as given and as the reference wants them.
struct Drawn {
    r#fn: WeightMatrix,
    rows: Vec<Vec<f64>>,
    base: Vec<f32>,
    scale: Vec<f32>,
}

impl Drawn {
    fn new(rows: usize, cols: usize, scale: &[f32]) -> Self {
        let weights = uniform(rows * cols, 21);
        Self {
            r#fn: WeightMatrix::from_f32(&weights, rows, cols),
            rows: weights.chunks_exact(cols).map(wide).collect(),
            base: uniform(rows, 22),
            scale: scale.to_vec(),
        }
    }

    fn connection(&self, n: usize) -> HyperConnection {
        HyperConnection::new(&self.r#fn, self.base.clone(), self.scale.clone(), n).expect("shapes fit")
    }
}

/// How far a logit may be from the exact one. The dot product: a lane's fused additions and the tree's four. The
/// norm: half of as many, and its own rounding. Then two products and a sum; three for second-order terms.
fn logit_bound(v: &[f64], row: &[f64], scale: f64, base: f64, norm_eps: f64) -> f64 {
    let adds = (v.len().div_ceil(16) + 4) as f64;
    let terms =
        reference::Weights { rows: &[magnitudes(row)], base: &[base.abs()], scale: &[scale.abs()], norm_eps };
    (1.5 * adds + 7.0) * U * reference::logits(&magnitudes(v), &terms)[0]
}

/// How far a gate may be from that of its computed logit, relatively: the exponential is within two units in the
/// last place, four roundings; the sum below, the quotient and the eps or factor round too; one for second order.
const GATE: f64 = 8.0 * U;

/// Checks the mix of one token; `extra` is what else may be off, relatively.
fn check(mix: [&[f32]; 3], v: &[f32], drawn: &Drawn, cfg: &HcConfig, extra: f64) {
    let (n, v, base) = (cfg.hc_mult, wide(v), wide(&drawn.base));
    let norm_eps = f64::from(cfg.norm_eps);
    let scale: Vec<f64> = (0..(2 + n) * n).map(|i| f64::from(drawn.scale[(i / n).min(2)])).collect();
    let w = reference::Weights { rows: &drawn.rows, base: &base, scale: &scale, norm_eps };
    let logits = reference::logits(&v, &w);
    let bounds: Vec<f64> =
        (0..logits.len()).map(|i| logit_bound(&v, &drawn.rows[i], scale[i], base[i], norm_eps)).collect();
    // A sigmoid is at most a quarter as steep as its argument.
    let eps = f64::from(cfg.hc_eps);
    let gate = |i: usize, factor: f64, eps: f64| {
        let exact = factor * reference::sigmoid(logits[i]) + eps;
        (exact, factor * bounds[i] / 4.0 + (GATE + extra) * exact)
    };
    assert_within(mix[0], (0..n).map(|i| gate(i, 1.0, eps)), "pre");
    assert_within(mix[1], (n..2 * n).map(|i| gate(i, 2.0, 0.0)), "post");
    let worst = bounds[2 * n..].iter().copied().fold(0.0, f64::max);
    let bound = square_bound(n, cfg.sinkhorn_iters, worst) + extra;
    let comb = reference::sinkhorn(&logits[2 * n..], n, cfg.sinkhorn_iters, eps);
    assert_within(mix[2], comb.into_iter().map(|e| (e, bound * e)), "comb");
}

fn numbers(mix: HcMix) -> Vec<f32> {
    [mix.pre, mix.post, mix.comb].into_iter().flat_map(|part| part.data().to_vec()).collect()
}

#[test]
fn mixes_stay_within_the_bound_for_every_number_of_streams() {
    for n in 1..=HC_MULT_MAX {
        for hidden in [1, 5, 16, 33, 129] {
            let cfg = config(n);
            let drawn = Drawn::new((2 + n) * n, n * hidden, &[0.7, -1.2, 0.4]);
            let params = drawn.connection(n);
            let streams = Matrix::from_vec(uniform(9 * n * hidden, 23), n * hidden);
            everywhere(|c| numbers(hc_mix(c, streams.view(), &params, &cfg)));
            let mix = hc_mix(&scalar(), streams.view(), &params, &cfg);
            for row in 0..9 {
                let parts = [mix.pre.row(row), mix.post.row(row), mix.comb.row(row)];
                check(parts, streams.row(row), &drawn, &cfg, 0.0);
            }
        }
    }
}

#[test]
fn an_eps_after_each_gate_and_norm_is_where_the_formula_has_it() {
    let cfg = HcConfig { hc_mult: 2, sinkhorn_iters: 3, hc_eps: 0.25, norm_eps: 0.5 };
    let drawn = Drawn::new(8, 6, &[1.0, 1.0, 1.0]);
    let streams = Matrix::from_vec(uniform(6, 24), 6);
    let mix = hc_mix(&scalar(), streams.view(), &drawn.connection(2), &cfg);
    check([mix.pre.data(), mix.post.data(), mix.comb.data()], streams.row(0), &drawn, &cfg, 0.0);
}

#[test]
fn a_token_alone_is_the_token_in_a_batch() {
    let (tokens, cfg, cols) = (80, config(4), 4 * 100);
    let params = Drawn::new(24, cols, &[0.7, -1.2, 0.4]).connection(4);
    let streams = Matrix::from_vec(uniform(tokens * cols, 25), cols);
    everywhere(|c| numbers(hc_mix(c, streams.view(), &params, &cfg)));
    let batch = hc_mix(&scalar(), streams.view(), &params, &cfg);
    for token in [0, 7, 8, 41, 79] {
        let alone = hc_mix(&scalar(), MatRef::new(streams.row(token), 1, cols), &params, &cfg);
        assert_eq!(batch.pre.row(token), alone.pre.row(0), "token {token}");
        assert_eq!(batch.post.row(token), alone.post.row(0), "token {token}");
        assert_eq!(batch.comb.row(token), alone.comb.row(0), "token {token}");
    }
}

#[test]
fn the_recorded_hyper_connection_is_reproduced() {
    let fixture = Fixture::read("hyper_connection");
    let (weights, cfg) = (fixture.matrix("fn"), config(4));
    let drawn = Drawn {
        r#fn: WeightMatrix::from_f32(weights.data(), 24, 64),
        rows: weights.view().iter().map(wide).collect(),
        base: fixture.f32("base"),
        scale: fixture.f32("scale"),
    };
    let streams = Matrix::from_vec(fixture.f32("streams"), 64);
    let recorded = |name: &str, cols: usize| Matrix::from_vec(fixture.f32(name), cols);
    let truth = HcMix {
        pre: recorded("pre", 4).into(),
        post: recorded("post", 4).into(),
        comb: recorded("comb", 16).into(),
    };
    let mix = hc_mix(&scalar(), streams.view(), &drawn.connection(4), &cfg);
    for row in 0..streams.rows() {
        // The reference agrees with the record up to the rounding of the record; so ours is near both.
        let parts =
            |mix: &HcMix| [mix.pre.row(row), mix.post.row(row), mix.comb.row(row)].map(<[f32]>::to_vec);
        for mix in [parts(&mix), parts(&truth)] {
            check(mix.each_ref().map(Vec::as_slice), streams.row(row), &drawn, &cfg, U);
        }
    }
    // The record's own mix, so that only the sums remain: five terms, and the rounding of the mix and the record.
    let o = Matrix::from_vec(fixture.f32("sublayer"), 16);
    let near = |got: &[f32], name: &str, terms: f32| {
        let exact = fixture.f32(name).into_iter().map(|e| (f64::from(e), 9.0 * U * f64::from(terms)));
        assert_within(got, exact, name);
    };
    let largest = |m: &Matrix| m.data().iter().fold(0f32, |a, b| a.max(b.abs()));
    near(
        &collapse(&scalar(), &streams, &truth.pre),
        "collapsed",
        4.0 * largest(&truth.pre) * largest(&streams),
    );
    let mut expanded = streams.clone();
    hc_expand(&scalar(), expanded.view_mut(), o.view(), &truth);
    near(expanded.data(), "expanded", 2.0 * largest(&o) + 4.0 * largest(&truth.comb) * largest(&streams));
}

#[test]
fn the_head_collapses_with_its_own_gates_and_norms() {
    for (n, hidden) in [(1, 7), (4, 33), (8, 16)] {
        let cfg = config(n);
        let drawn = Drawn::new(n, n * hidden, &[1.5]);
        let head = HcHead::new(&drawn.r#fn, drawn.base.clone(), drawn.scale.clone(), n).expect("shapes fit");
        let streams = Matrix::from_vec(uniform(3 * n * hidden, 26), n * hidden);
        let norm = uniform(hidden, 27);
        let got = everywhere(|c| {
            let mut out = Matrix::zeros(3, hidden);
            hc_head(c, streams.view(), &head, &cfg, &norm, out.view_mut());
            out.into_vec()
        });
        for (row, got) in got.chunks_exact(hidden).enumerate() {
            let (v, base) = (wide(streams.row(row)), wide(&drawn.base));
            let norm_eps = f64::from(cfg.norm_eps);
            let w = reference::Weights { rows: &drawn.rows, base: &base, scale: &vec![1.5; n], norm_eps };
            let logits = reference::logits(&v, &w);
            let pre: Vec<f64> =
                logits.iter().map(|&x| reference::sigmoid(x) + f64::from(cfg.hc_eps)).collect();
            let off: Vec<f64> = (0..n)
                .map(|i| logit_bound(&v, &drawn.rows[i], 1.5, base[i], norm_eps) / 4.0 + GATE * pre[i])
                .map(|off| off + (n + 1) as f64 * U * 1.1)
                .collect();
            let bounds = reference::collapse(&magnitudes(&v), &off);
            assert_within(got, normed(&reference::collapse(&v, &pre), &bounds, &norm, norm_eps), "head");
        }
    }
}

/// The norm of numbers that are off by at most `bounds`, and how far it may be off. The root mean square is off by
/// at most that of the bounds; for the norm's own roundings see its tests. A tenth more for second-order terms.
fn normed(x: &[f64], bounds: &[f64], weight: &[f32], eps: f64) -> Vec<(f64, f64)> {
    let rms = |x: &[f64], eps: f64| (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
    let (root, off) = (rms(x, eps), rms(bounds, 0.0));
    let own = ((x.len().div_ceil(16) + 4) as f64 / 2.0 + 5.0) * U;
    let number = |((&x, &bound), &weight): ((&f64, &f64), &f32)| {
        let gain = f64::from(weight) / root;
        (x * gain, 1.1 * gain.abs() * (bound + x.abs() * (off / root + own)))
    };
    x.iter().zip(bounds).zip(weight).map(number).collect()
}

#[test]
fn weights_of_other_shapes_are_refused_by_name() {
    let weights = |rows: usize, cols: usize| WeightMatrix::from_f32(&vec![0.0; rows * cols], rows, cols);
    let part = |result: Result<HyperConnection, TensorError>| match result {
        Err(TensorError::Format { part, .. }) => part,
        other => panic!("{other:?}"),
    };
    let new = HyperConnection::new;
    assert_eq!(part(new(&weights(23, 64), vec![0.0; 24], vec![0.0; 3], 4)), "hc fn");
    assert_eq!(part(new(&weights(24, 63), vec![0.0; 24], vec![0.0; 3], 4)), "hc fn");
    assert_eq!(part(new(&weights(24, 64), vec![0.0; 23], vec![0.0; 3], 4)), "hc base");
    assert_eq!(part(new(&weights(24, 64), vec![0.0; 24], vec![0.0; 1], 4)), "hc scale");
    assert!(HcHead::new(&weights(4, 64), vec![0.0; 4], vec![0.0; 3], 4).is_err());
}
