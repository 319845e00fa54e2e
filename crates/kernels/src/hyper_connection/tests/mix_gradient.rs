//! The way back from the mixing numbers to streams and weights.

use super::*;
use crate::testing::{assert_gradient, differences, differences_of, drawn};

/// Weights of a drawn hyper-connection or head.
struct Drawn {
    r#fn: Matrix,
    base: Vec<f32>,
    scale: Vec<f32>,
}

impl Drawn {
    fn new(mixes: usize, cols: usize, scale: &[f32]) -> Self {
        Self { r#fn: drawn(mixes, cols, 21), base: uniform(mixes, 22), scale: scale.to_vec() }
    }

    fn r#fn(&self) -> WeightMatrix {
        WeightMatrix::from_f32(self.r#fn.data(), self.r#fn.rows(), self.r#fn.cols())
    }

    /// The logits of one token, from f64 weights.
    fn logits(&self, v: &[f64], [r#fn, base, scale]: [&[f64]; 3], n: usize, norm_eps: f32) -> Vec<f64> {
        let rows: Vec<Vec<f64>> = r#fn.chunks_exact(v.len()).map(Vec::from).collect();
        let scale: Vec<f64> = (0..base.len()).map(|i| scale[(i / n).min(scale.len() - 1)]).collect();
        let norm_eps = f64::from(norm_eps);
        reference::logits(v, &reference::Weights { rows: &rows, base, scale: &scale, norm_eps })
    }
}

/// The gradients of streams, `fn`, `base` and `scale`, each on top of a half.
type Found = [Vec<f32>; 4];

/// Lets `backward` add to halves.
fn found(drawn: &Drawn, streams: &Matrix, backward: impl Fn(&mut HcGradients<'_>, MatMut<'_>)) -> Found {
    let halves = |m: &Matrix| Matrix::from_vec(vec![0.5; m.data().len()], m.cols());
    let (mut dstreams, mut dfn) = (halves(streams), halves(&drawn.r#fn));
    let (mut base, mut scale) = (vec![0.5; drawn.base.len()], vec![0.5; drawn.scale.len()]);
    let mut gradients = HcGradients { r#fn: dfn.view_mut(), base: &mut base, scale: &mut scale };
    backward(&mut gradients, dstreams.view_mut());
    [dstreams.into_vec(), dfn.into_vec(), base, scale]
}

/// Compares with differences of the sum over tokens of `loss(token, its streams, weights)`.
fn check(
    drawn: &Drawn,
    streams: &Matrix,
    [dstreams, dfn, dbase, dscale]: Found,
    loss: impl Fn(usize, &[f64], [&[f64]; 3]) -> f64,
    what: &str,
) {
    let numbers = [drawn.r#fn.data(), &drawn.base, &drawn.scale];
    let weights = numbers.map(wide);
    let given = weights.each_ref().map(Vec::as_slice);
    let added = |exact: Vec<f64>| -> Vec<f64> { exact.iter().map(|d| d + 0.5).collect() };
    let of_streams =
        (0..streams.rows()).flat_map(|row| differences(streams.row(row), |v| loss(row, v, given)));
    assert_gradient(&dstreams, &added(of_streams.collect()), &format!("streams, {what}"));
    let rows: Vec<Vec<f64>> = streams.view().iter().map(wide).collect();
    for (part, got) in [dfn, dbase, dscale].iter().enumerate() {
        let places = || (0..got.len()).step_by(1 + got.len() / 100);
        let exact = differences_of(numbers[part], places(), |moved| {
            let mut weights = given;
            weights[part] = moved;
            rows.iter().enumerate().map(|(row, v)| loss(row, v, weights)).sum()
        });
        let got: Vec<f32> = places().map(|i| got[i]).collect();
        assert_gradient(&got, &added(exact), &format!("{}, {what}", ["fn", "base", "scale"][part]));
    }
}

fn dot(x: &[f64], d: &[f32]) -> f64 {
    x.iter().zip(d).map(|(x, &d)| x * f64::from(d)).sum()
}

fn check_mix(cfg: &HcConfig, hidden: usize, tokens: usize, scale: [f32; 3]) {
    let n = cfg.hc_mult;
    let weights = Drawn::new((2 + n) * n, n * hidden, &scale);
    let params =
        HyperConnection::new(&weights.r#fn(), weights.base.clone(), scale.to_vec(), n).expect("shapes fit");
    let streams = drawn(tokens, n * hidden, 23);
    let [pre, post, comb] = [(n, 1), (n, 2), (n * n, 3)].map(|(cols, seed)| drawn(tokens, cols, seed).into());
    let dmix = HcMix { pre, post, comb };
    let run = |c: &Compute| {
        found(&weights, &streams, |gradients, dstreams| {
            hc_mix_backward(c, streams.view(), &params, cfg, &dmix, gradients, dstreams);
        })
    };
    everywhere(|c| run(c).concat());
    let loss = |row: usize, v: &[f64], given: [&[f64]; 3]| {
        let logits = weights.logits(v, given, n, cfg.norm_eps);
        let pre: Vec<f64> = logits[..n].iter().map(|&x| reference::sigmoid(x)).collect();
        let post: Vec<f64> = logits[n..2 * n].iter().map(|&x| 2.0 * reference::sigmoid(x)).collect();
        let comb = reference::sinkhorn(&logits[2 * n..], n, cfg.sinkhorn_iters, f64::from(cfg.hc_eps));
        dot(&pre, dmix.pre.row(row)) + dot(&post, dmix.post.row(row)) + dot(&comb, dmix.comb.row(row))
    };
    check(
        &weights,
        &streams,
        run(&scalar()),
        loss,
        &format!("{tokens} tokens, {n} streams of {hidden}, {cfg:?}"),
    );
}

#[test]
fn gradients_of_mixes_are_those_of_the_formula_for_every_number_of_streams() {
    for n in 1..=HC_MULT_MAX {
        check_mix(&config(n), 3, 3, [0.7, -1.2, 0.4]);
    }
    for hidden in [1, 16, 33] {
        check_mix(&config(4), hidden, 3, [0.7, -1.2, 0.4]);
    }
}

#[test]
fn gradients_of_mixes_are_those_of_the_formula_for_blocks_of_tokens_and_their_tail() {
    for tokens in [16, 17, 100] {
        check_mix(&config(4), 2, tokens, [0.7, -1.2, 0.4]);
    }
    check_mix(&config(3), 2, 70, [0.7, -1.2, 0.4]);
}

#[test]
fn gradients_of_mixes_are_those_of_the_formula_with_few_rounds_and_sharp_logits() {
    for sinkhorn_iters in [1, 2, 3, 20] {
        let cfg = HcConfig { sinkhorn_iters, hc_eps: 0.01, ..config(4) };
        check_mix(&cfg, 5, 4, [0.7, -1.2, 6.0]);
    }
}

#[test]
fn gradients_of_the_head_are_those_of_the_formula_for_every_number_of_streams() {
    for (n, hidden, tokens) in [
        (1, 7, 3),
        (2, 1, 3),
        (3, 5, 2),
        (4, 33, 3),
        (5, 2, 3),
        (6, 3, 2),
        (7, 2, 2),
        (8, 16, 3),
        (4, 3, 100),
    ] {
        let cfg = config(n);
        let weights = Drawn::new(n, n * hidden, &[1.5]);
        let head = HcHead::new(&weights.r#fn(), weights.base.clone(), vec![1.5], n).expect("shapes fit");
        let (streams, dpre) = (drawn(tokens, n * hidden, 26), drawn(tokens, n, 27));
        let run = |c: &Compute| {
            found(&weights, &streams, |gradients, dstreams| {
                hc_head_backward(c, streams.view(), &head, &cfg, &dpre, gradients, dstreams);
            })
        };
        everywhere(|c| run(c).concat());
        let loss = |row: usize, v: &[f64], given: [&[f64]; 3]| {
            let logits = weights.logits(v, given, n, cfg.norm_eps);
            let pre: Vec<f64> = logits.iter().map(|&x| reference::sigmoid(x)).collect();
            dot(&pre, dpre.row(row))
        };
        check(
            &weights,
            &streams,
            run(&scalar()),
            loss,
            &format!("{tokens} tokens, head of {n} streams of {hidden}"),
        );
    }
}
