//! Collapsing and expanding streams.

use super::*;
use crate::rms_norm_in_place;

const HIDDEN: [usize; 9] = [1, 2, 15, 16, 17, 33, 127, 129, 4096];

fn collapse_and_norm(c: &Compute, streams: &Matrix, pre: &Matrix, norm: &[f32]) -> Vec<f32> {
    let mut out = Matrix::zeros(streams.rows(), norm.len());
    hc_collapse(c, streams.view(), pre, norm, 1e-6, out.view_mut());
    out.into_vec()
}

fn expand(c: &Compute, streams: &Matrix, o: &Matrix, mix: &HcMix) -> Vec<f32> {
    let mut streams = streams.clone();
    hc_expand(c, streams.view_mut(), o.view(), mix);
    streams.into_vec()
}

fn drawn(rows: usize, cols: usize, seed: u64) -> Matrix {
    Matrix::from_vec(uniform(rows * cols, seed), cols)
}

fn drawn_mix(tokens: usize, n: usize) -> HcMix {
    HcMix {
        pre: drawn(tokens, n, 11).into(),
        post: drawn(tokens, n, 12).into(),
        comb: drawn(tokens, n * n, 13).into(),
    }
}

/// A product and n - 1 fused additions: each term meets at most n roundings. One more for second-order terms.
#[test]
fn collapsed_streams_stay_within_the_bound() {
    for n in 1..=HC_MULT_MAX {
        for hidden in HIDDEN {
            let (streams, pre) = (drawn(3, n * hidden, 1), drawn(3, n, 2));
            let got = everywhere(|c| collapse(c, &streams, &pre));
            for (row, got) in got.chunks_exact(hidden).enumerate() {
                let (x, p) = (wide(streams.row(row)), wide(pre.row(row)));
                let terms = reference::collapse(&magnitudes(&x), &magnitudes(&p));
                let bounds = terms.into_iter().map(|t| (n + 1) as f64 * U * t);
                assert_within(got, reference::collapse(&x, &p).into_iter().zip(bounds), "collapse");
            }
        }
    }
}

#[test]
fn a_sublayer_sees_the_norm_of_the_collapsed_streams() {
    for n in 1..=HC_MULT_MAX {
        for hidden in HIDDEN {
            let (streams, pre) = (drawn(3, n * hidden, 1), drawn(3, n, 2));
            let norm = uniform(hidden, 3);
            let got = everywhere(|c| collapse_and_norm(c, &streams, &pre, &norm));
            let mut want = Matrix::from_vec(collapse(&scalar(), &streams, &pre), hidden);
            rms_norm_in_place(&scalar(), want.view_mut(), Some(&norm), 1e-6);
            assert_eq!(got, want.into_vec(), "{n} streams of {hidden}");
        }
    }
}

/// As above with one term more. The square is not symmetric, so summing over its second index would not pass.
#[test]
fn expanded_streams_stay_within_the_bound() {
    for n in 1..=HC_MULT_MAX {
        for hidden in HIDDEN {
            let (streams, o, mix) = (drawn(3, n * hidden, 1), drawn(3, hidden, 2), drawn_mix(3, n));
            let got = everywhere(|c| expand(c, &streams, &o, &mix));
            for (row, got) in got.chunks_exact(n * hidden).enumerate() {
                let parts = [streams.row(row), o.row(row), mix.post.row(row), mix.comb.row(row)].map(wide);
                let [x, o, post, comb] = &parts;
                let exact = reference::expand(x, o, post, comb);
                let [x, o, post, comb] = parts.each_ref().map(|part| magnitudes(part));
                let terms = reference::expand(&x, &o, &post, &comb);
                let bounds = terms.into_iter().map(|t| (n + 2) as f64 * U * t);
                assert_within(got, exact.into_iter().zip(bounds), "expand");
            }
        }
    }
}

#[test]
fn what_stream_0_gives_to_stream_1_stands_in_row_0_column_1() {
    let mut mix = HcMix {
        pre: Matrix::zeros(1, 2).into(),
        post: Matrix::zeros(1, 2).into(),
        comb: Matrix::zeros(1, 4).into(),
    };
    mix.comb.row_mut(0)[1] = 1.0;
    let streams = Matrix::from_vec(vec![3.0, 4.0, 50.0, 60.0], 4);
    assert_eq!(expand(&scalar(), &streams, &Matrix::zeros(1, 2), &mix), [0.0, 0.0, 3.0, 4.0]);
}

#[test]
fn a_token_alone_is_the_token_in_a_batch() {
    let (tokens, n, hidden) = (64, 4, 1000);
    let (streams, o, mix) = (drawn(tokens, n * hidden, 1), drawn(tokens, hidden, 2), drawn_mix(tokens, n));
    let norm = uniform(hidden, 3);
    let collapsed = everywhere(|c| collapse_and_norm(c, &streams, &mix.pre, &norm));
    let expanded = everywhere(|c| expand(c, &streams, &o, &mix));
    for token in [0, 31, 63] {
        let only = |m: &Matrix| Matrix::from_vec(m.row(token).to_vec(), m.cols());
        let mix =
            HcMix { pre: only(&mix.pre).into(), post: only(&mix.post).into(), comb: only(&mix.comb).into() };
        assert_eq!(
            collapsed[token * hidden..][..hidden],
            collapse_and_norm(&scalar(), &only(&streams), &mix.pre, &norm)
        );
        let alone = expand(&scalar(), &only(&streams), &only(&o), &mix);
        assert_eq!(expanded[token * n * hidden..][..n * hidden], alone);
    }
}
