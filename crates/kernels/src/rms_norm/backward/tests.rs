use cuvier_tensor::Matrix;

use super::*;
use crate::testing::{assert_gradient, differences, drawn, everywhere, scalar, uniform, wide};

/// `dout . rms_norm(x)` of one row.
fn loss_of_row(x: &[f64], weight: Option<&[f64]>, eps: f32, dout: &[f32]) -> f64 {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
    let gain = |i: usize| weight.map_or(1.0, |weight| weight[i]);
    x.iter().zip(dout).enumerate().map(|(i, (x, dout))| f64::from(*dout) * x * inverse * gain(i)).sum()
}

/// The gradient of `x`, then that of the gains on top of `before`.
fn run(c: &Compute, x: &Matrix, weight: Option<&[f32]>, eps: f32, dout: &Matrix, before: f32) -> Vec<f32> {
    let mut dx = dout.clone();
    let mut dweight = vec![before; weight.map_or(0, <[f32]>::len)];
    rms_norm_backward(c, x.view(), weight, eps, dx.view_mut(), &mut dweight);
    [dx.into_vec(), dweight].concat()
}

fn check(rows: usize, cols: usize, eps: f32) {
    let (x, dout) = (drawn(rows, cols, 1), drawn(rows, cols, 2));
    let gain: Vec<f32> = uniform(cols, 3).iter().map(|x| x + 0.1).collect();
    for weight in [None, Some(&gain[..])] {
        let wide_gain = weight.map(wide);
        let got = everywhere(|c| run(c, &x, weight, eps, &dout, 0.25));
        let (dx, dweight) = got.split_at(rows * cols);
        let of_row =
            |row| differences(x.row(row), |x| loss_of_row(x, wide_gain.as_deref(), eps, dout.row(row)));
        let exact: Vec<f64> = (0..rows).flat_map(of_row).collect();
        assert_gradient(dx, &exact, &format!("x, {rows} rows of {cols}"));
        let all = |gain: &[f64]| -> f64 {
            (0..rows).map(|row| loss_of_row(&wide(x.row(row)), Some(gain), eps, dout.row(row))).sum()
        };
        let exact: Vec<f64> = weight.iter().flat_map(|w| differences(w, all)).map(|d| d + 0.25).collect();
        assert_gradient(dweight, &exact, &format!("gain, {rows} rows of {cols}"));
    }
}

#[test]
fn gradients_of_rows_and_gains_are_those_of_the_formula_at_every_length() {
    for cols in 1..=33 {
        check(3, cols, 0.05);
    }
    for cols in [9, 127, 129] {
        check(2, cols, 1e-6);
    }
}

#[test]
fn gains_gather_the_gradients_of_all_rows_in_blocks() {
    check(130, 5, 1e-3);
}

#[test]
fn a_row_alone_gets_the_gradient_that_it_gets_in_a_batch() {
    let (x, dout, weight) = (drawn(50, 5000, 1), drawn(50, 5000, 2), uniform(5000, 3));
    let batch = everywhere(|c| run(c, &x, Some(&weight), 1e-6, &dout, 0.0));
    for row in [0, 17, 49] {
        let only = |m: &Matrix| Matrix::from_vec(m.row(row).to_vec(), 5000);
        let alone = run(&scalar(), &only(&x), Some(&weight), 1e-6, &only(&dout), 0.0);
        assert_eq!(batch[row * 5000..][..5000], alone[..5000], "row {row}");
    }
}

#[test]
fn no_rows_change_no_gradient_of_gains() {
    let none = Matrix::zeros(0, 3);
    assert_eq!(run(&scalar(), &none, Some(&[1.0; 3]), 1e-6, &none, 0.5), [0.5; 3]);
}
