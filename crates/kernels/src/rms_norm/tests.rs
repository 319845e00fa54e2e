use cuvier_tensor::Matrix;

use super::*;
use crate::testing::{U, assert_within, awkward_lengths, everywhere, scalar, uniform};

fn run(c: &Compute, x: &Matrix, weight: Option<&[f32]>, eps: f32) -> Vec<f32> {
    let mut x = x.clone();
    rms_norm_in_place(c, x.view_mut(), weight, eps);
    x.into_vec()
}

/// The squares are positive, so their sum is off by at most the roundings on the way of one of them: a lane's
/// additions and the four of the tree. The root halves that; factor, product and gain round once each. Two more
/// for second-order terms.
fn bound(len: usize) -> f64 {
    ((len.div_ceil(16) + 4) as f64 / 2.0 + 5.0) * U
}

#[test]
fn rows_stay_within_the_bound_at_every_tail_length() {
    for len in awkward_lengths() {
        let x = Matrix::from_vec(uniform(3 * len, len as u64), len);
        let weight = uniform(len, 7);
        for weight in [None, Some(&weight[..])] {
            let got = everywhere(|c| run(c, &x, weight, 1e-6));
            let exact = x.view().iter().flat_map(|x| reference::rms_norm(x, weight, 1e-6));
            assert_within(&got, exact.map(|e| (e, bound(len) * e.abs())), "rms_norm");
        }
    }
}

#[test]
fn a_row_alone_is_the_row_in_a_batch() {
    let x = Matrix::from_vec(uniform(50 * 5000, 1), 5000);
    let weight = uniform(5000, 2);
    let batch = everywhere(|c| run(c, &x, Some(&weight), 1e-6));
    for row in [0, 17, 49] {
        let alone = run(&scalar(), &Matrix::from_vec(x.row(row).to_vec(), 5000), Some(&weight), 1e-6);
        assert_eq!(batch[row * 5000..][..5000], alone, "row {row}");
    }
}

#[test]
fn a_tiny_eps_still_decides_over_tiny_rows() {
    // The mean square is 1e-20 too: each number becomes 1 / sqrt(2).
    let x = Matrix::from_vec(vec![1e-10; 32], 32);
    let got = run(&scalar(), &x, None, 1e-20);
    assert!(got.iter().all(|x| (f64::from(*x) - 0.5f64.sqrt()).abs() < 1e-6), "{got:?}");
}

#[test]
fn a_row_of_zeros_stays_zeros() {
    assert_eq!(run(&scalar(), &Matrix::zeros(2, 20), None, 1e-20), [0.0; 40]);
}

#[test]
fn no_rows_are_no_work() {
    assert!(run(&scalar(), &Matrix::zeros(0, 20), None, 1e-6).is_empty());
}
