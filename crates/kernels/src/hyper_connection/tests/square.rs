//! The square alone: its order of divisions, every eps, the number of rounds.

use super::*;

/// The square of these logits, and the reference.
fn both(logits: &[f32], n: usize, iters: usize, eps: f32) -> (Vec<f32>, Vec<f64>) {
    let got = everywhere(|c| {
        let mut square = logits.to_vec();
        c.isa().dispatch(gates::Square { square: &mut square, n, iters, eps });
        square
    });
    (got, reference::sinkhorn(&wide(logits), n, iters, f64::from(eps)))
}

#[test]
fn squares_of_every_size_stay_within_the_bound() {
    for n in 1..=HC_MULT_MAX {
        for iters in [1, 2, 3, 20] {
            for (seed, spread, eps) in [(1, 1.0, 1e-6), (2, 8.0, 1e-6), (3, 3.0, 0.05)] {
                let logits: Vec<f32> = uniform(n * n, seed).iter().map(|x| x * spread).collect();
                let (got, exact) = both(&logits, n, iters, eps);
                let bound = square_bound(n, iters, 0.0);
                assert_within(&got, exact.iter().map(|&e| (e, bound * e)), "square");
            }
        }
    }
}

/// Nearly triangular: converges so slowly that every round still shows after twenty.
pub(super) const SLOW: [f32; 16] = [
    0.0, -2.0, 1.0, 0.5, //
    -30.0, 0.0, -1.0, 2.0, //
    -30.0, -30.0, 0.0, 1.0, //
    -30.0, -30.0, -30.0, 0.0,
];

/// Softmax plus the first eps, then rounds of divisions with the others under rows and columns.
fn rounds_of(
    [start, row, column]: [f64; 3],
    rounds: usize,
    [first_rows, last_columns]: [bool; 2],
) -> Vec<f64> {
    let mut c = reference::softmax_rows(&wide(&SLOW), 4);
    c.iter_mut().for_each(|x| *x += start);
    for round in 0..rounds {
        if round > 0 || first_rows {
            reference::divide_rows(&mut c, 4, row);
        }
        if round + 1 < rounds || last_columns {
            reference::divide_columns(&mut c, 4, column);
        }
    }
    c
}

/// Whether the computed square could be taken for this one.
fn passes_for(got: &[f32], square: &[f64], iters: usize) -> bool {
    let bound = square_bound(4, iters, 0.0);
    square.iter().zip(got).all(|(&want, &got)| (want - f64::from(got)).abs() <= bound * want)
}

#[test]
fn order_and_number_of_rounds_show_beyond_the_bound() {
    let (got, exact) = both(&SLOW, 4, 20, 1e-6);
    let e = [f64::from(1e-6f32); 3];
    assert_eq!(rounds_of(e, 20, [false, true]), exact);
    let transposed: Vec<f64> = (0..16).map(|i| exact[i % 4 * 4 + i / 4]).collect();
    assert!(passes_for(&got, &exact, 20));
    for (wrong, name) in [
        (rounds_of(e, 19, [false, true]), "19 rounds"),
        (rounds_of(e, 21, [false, true]), "21 rounds"),
        (rounds_of(e, 20, [false, false]), "no columns at the end"),
        (transposed, "rows and columns exchanged"),
    ] {
        assert!(!passes_for(&got, &wrong, 20), "{name} would pass");
    }
}

#[test]
fn each_eps_and_the_first_columns_show_beyond_the_bound() {
    // A large eps and few rounds, before the divisions have hidden where it was added.
    let (got, exact) = both(&SLOW, 4, 3, 0.01);
    let e = f64::from(0.01f32);
    assert_eq!(rounds_of([e; 3], 3, [false, true]), exact);
    assert!(passes_for(&got, &exact, 3));
    for (wrong, name) in [
        (rounds_of([0.0, e, e], 3, [false, true]), "no eps after the softmax"),
        (rounds_of([e, 0.0, e], 3, [false, true]), "no eps under rows"),
        (rounds_of([e, e, 0.0], 3, [false, true]), "no eps under columns"),
        (rounds_of([e; 3], 3, [true, true]), "rows before the first columns"),
    ] {
        assert!(!passes_for(&got, &wrong, 3), "{name} would pass");
    }
}

#[test]
fn columns_sum_to_one_less_the_eps_and_rows_only_nearly() {
    let (got, _) = both(&SLOW, 4, 20, 1e-6);
    let column = |k: usize| (0..4).map(|j| got[j * 4 + k]).sum::<f32>();
    let row = |j: usize| got[j * 4..][..4].iter().sum::<f32>();
    assert!((0..4).all(|k| (column(k) - 1.0).abs() < 1e-5));
    assert!((0..4).any(|j| (row(j) - 1.0).abs() > 1e-3));
}

#[test]
fn large_logits_do_not_overflow() {
    let (got, exact) = both(&[2000.0, -500.0, 1990.0, 2000.0], 2, 20, 1e-6);
    assert!(got.iter().all(|x| x.is_finite()), "{got:?}");
    assert!(exact[0].is_nan(), "the plain formula does overflow here");
}
