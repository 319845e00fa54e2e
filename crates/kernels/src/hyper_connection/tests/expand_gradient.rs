//! The ways back from collapsed streams and to expanded ones.

use super::*;
use crate::testing::{assert_gradient, differences, drawn};

const HIDDEN: [usize; 6] = [1, 2, 15, 16, 17, 33];

fn mix_of(tokens: usize, n: usize) -> HcMix {
    let [pre, post, comb] =
        [(n, 11), (n, 12), (n * n, 13)].map(|(cols, seed)| drawn(tokens, cols, seed).into());
    HcMix { pre, post, comb }
}

/// `dnew . expand(streams, o)` of one token.
fn loss(streams: &[f64], o: &[f64], post: &[f64], comb: &[f64], dnew: &[f32]) -> f64 {
    let new = reference::expand(streams, o, post, comb);
    new.iter().zip(dnew).map(|(x, &d)| x * f64::from(d)).sum()
}

/// The gradients of streams, of the sublayer's output, of `pre`, `post` and `comb`.
fn run_expand(c: &Compute, streams: &Matrix, o: &Matrix, mix: &HcMix, dnew: &Matrix) -> [Vec<f32>; 5] {
    let mut dstreams = dnew.clone();
    let mut d_o = Matrix::from_vec(vec![f32::NAN; o.data().len()], o.cols());
    let dmix = hc_expand_backward(c, streams.view(), o.view(), mix, dstreams.view_mut(), d_o.view_mut());
    let of_mix = [&dmix.pre, &dmix.post, &dmix.comb].map(|part| part.data().to_vec());
    let [dpre, dpost, dcomb] = of_mix;
    [dstreams.into_vec(), d_o.into_vec(), dpre, dpost, dcomb]
}

fn check_expand(n: usize, hidden: usize, tokens: usize) {
    let (streams, o, mix) = (drawn(tokens, n * hidden, 1), drawn(tokens, hidden, 2), mix_of(tokens, n));
    let dnew = drawn(tokens, n * hidden, 3);
    everywhere(|c| run_expand(c, &streams, &o, &mix, &dnew).concat());
    let [dstreams, d_o, dpre, dpost, dcomb] = run_expand(&scalar(), &streams, &o, &mix, &dnew);
    let mut exact: [Vec<f64>; 4] = Default::default();
    for row in 0..tokens {
        let numbers = [streams.row(row), o.row(row), mix.post.row(row), mix.comb.row(row)];
        let wide = numbers.map(wide);
        for (part, exact) in exact.iter_mut().enumerate() {
            let loss = |x: &[f64]| {
                let mut parts = wide.each_ref().map(Vec::as_slice);
                parts[part] = x;
                let [streams, o, post, comb] = parts;
                loss(streams, o, post, comb, dnew.row(row))
            };
            exact.extend(differences(numbers[part], loss));
        }
    }
    assert!(dpre.iter().all(|&d| d == 0.0), "what the sublayer saw is no matter of what it gives");
    let got = [dstreams, d_o, dpost, dcomb];
    for ((got, exact), name) in got.iter().zip(&exact).zip(["streams", "output", "post", "comb"]) {
        assert_gradient(got, exact, &format!("{name}, {n} streams of {hidden}"));
    }
}

#[test]
fn gradients_of_expanded_streams_are_those_of_the_formula_for_every_number_of_streams() {
    for n in 1..=HC_MULT_MAX {
        for hidden in HIDDEN {
            check_expand(n, hidden, 2);
        }
    }
    check_expand(4, 19, 100);
}

#[test]
fn the_gradient_of_what_stream_0_gives_to_stream_1_stands_in_row_0_column_1() {
    let mut mix = HcMix {
        pre: Matrix::zeros(1, 2).into(),
        post: Matrix::zeros(1, 2).into(),
        comb: Matrix::zeros(1, 4).into(),
    };
    mix.comb.row_mut(0)[1] = 10.0;
    let streams = Matrix::from_vec(vec![3.0, 4.0, 50.0, 60.0], 4);
    // Only stream 1 matters afterwards.
    let dnew = Matrix::from_vec(vec![0.0, 0.0, 1.0, 2.0], 4);
    let [dstreams, _, _, _, dcomb] = run_expand(&scalar(), &streams, &Matrix::zeros(1, 2), &mix, &dnew);
    assert_eq!(dcomb, [0.0, 3.0 + 2.0 * 4.0, 0.0, 50.0 + 2.0 * 60.0]);
    assert_eq!(dstreams, [10.0, 20.0, 0.0, 0.0]);
}

/// `dout . rms_norm(collapse(streams))` of one token.
fn collapse_loss(streams: &[f64], pre: &[f64], norm: &[f64], eps: f32, dout: &[f32]) -> f64 {
    let x = reference::collapse(streams, pre);
    let rms = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(norm).zip(dout).map(|((x, norm), &d)| x / rms * norm * f64::from(d)).sum()
}

/// The gradients of streams and gains, both on top of a half, and of `pre`.
fn run_collapse(
    c: &Compute,
    streams: &Matrix,
    pre: &Matrix,
    norm: &[f32],
    eps: f32,
    dout: &Matrix,
) -> [Vec<f32>; 3] {
    let (mut dout, mut dnorm) = (dout.clone(), vec![0.5; norm.len()]);
    let mut dpre = Matrix::from_vec(vec![f32::NAN; pre.data().len()], pre.cols());
    let mut dstreams = Matrix::from_vec(vec![0.5; streams.data().len()], streams.cols());
    let views = (dout.view_mut(), dstreams.view_mut());
    hc_collapse_backward(c, streams.view(), pre, norm, eps, views.0, &mut dnorm, &mut dpre, views.1);
    [dstreams.into_vec(), dnorm, dpre.into_vec()]
}

fn check_collapse(n: usize, hidden: usize, tokens: usize) {
    let (streams, pre, norm) = (drawn(tokens, n * hidden, 1), drawn(tokens, n, 2), uniform(hidden, 3));
    let (dout, eps) = (drawn(tokens, hidden, 4), 0.05);
    everywhere(|c| run_collapse(c, &streams, &pre, &norm, eps, &dout).concat());
    let [dstreams, dnorm, dpre] = run_collapse(&scalar(), &streams, &pre, &norm, eps, &dout);
    let gains = wide(&norm);
    let (mut of_streams, mut of_pre) = (Vec::new(), Vec::new());
    for row in 0..tokens {
        let (x, shares, dout) = (streams.row(row), pre.row(row), dout.row(row));
        of_streams.extend(differences(x, |x| collapse_loss(x, &wide(shares), &gains, eps, dout)));
        of_pre.extend(differences(shares, |shares| collapse_loss(&wide(x), shares, &gains, eps, dout)));
    }
    let of_norm = differences(&norm, |gains| {
        let of_row =
            |row| collapse_loss(&wide(streams.row(row)), &wide(pre.row(row)), gains, eps, dout.row(row));
        (0..tokens).map(of_row).sum()
    });
    let what = format!("{n} streams of {hidden}");
    let added = |exact: Vec<f64>| -> Vec<f64> { exact.iter().map(|d| d + 0.5).collect() };
    assert_gradient(&dstreams, &added(of_streams), &format!("streams, {what}"));
    assert_gradient(&dnorm, &added(of_norm), &format!("gain, {what}"));
    assert_gradient(&dpre, &of_pre, &format!("pre, {what}"));
}

#[test]
fn gradients_of_collapsed_streams_are_those_of_the_formula_for_every_number_of_streams() {
    for n in 1..=HC_MULT_MAX {
        for hidden in HIDDEN {
            check_collapse(n, hidden, 2);
        }
    }
    check_collapse(4, 19, 100);
}
