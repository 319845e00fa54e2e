use cuvier_tensor::Matrix;

use super::*;
use crate::testing::{Fixture, U, assert_within, everywhere, scalar, uniform};
use crate::{IndexKeyCodec, KvFormat, encode_index_keys};

fn run(x: &Matrix) -> Vec<f32> {
    everywhere(|c| {
        let mut x = x.clone();
        hadamard(c, x.view_mut());
        x.into_vec()
    })
}

/// One rounding per butterfly on the way, one of the factor and one of the product, all relative to at most the
/// sum of magnitudes; one more for second-order terms.
fn bound(x: &[f32]) -> f64 {
    let magnitudes: f64 = x.iter().map(|&x| f64::from(x.abs())).sum();
    (f64::from(x.len().ilog2()) + 3.0) * U * magnitudes / (x.len() as f64).sqrt()
}

#[test]
fn rows_stay_within_the_bound_at_every_power_of_two() {
    for dim in (0..=10).map(|power| 1 << power) {
        let x = Matrix::from_vec(uniform(3 * dim, 3), dim);
        let exact =
            x.view().iter().flat_map(|row| reference::hadamard(row).into_iter().map(|y| (y, bound(row))));
        assert_within(&run(&x), exact, "hadamard");
    }
}

#[test]
fn whole_numbers_are_transformed_exactly() {
    // Sums of whole numbers are exact and 1 / sqrt(256) is a power of two.
    let x: Vec<f32> = uniform(5 * 256, 4).into_iter().map(|x| (x * 100.0).round()).collect();
    let x = Matrix::from_vec(x, 256);
    let exact = x.view().iter().flat_map(|row| reference::hadamard(row).into_iter().map(|y| (y, 0.0)));
    assert_within(&run(&x), exact, "hadamard");
}

#[test]
fn rows_are_those_of_the_recorded_truth_and_round_to_its_codes() {
    let truth = Fixture::read("hadamard_e2m1");
    let input = truth.matrix("input");
    let rotated = Matrix::from_vec(run(&input), 128);
    let exact = truth.f32("rotated").into_iter().map(f64::from);
    let bounds = input.view().iter().flat_map(|row| [bound(row); 128]);
    assert_within(rotated.data(), exact.zip(bounds), "rotated");

    let codec = IndexKeyCodec { format: KvFormat::Fp8, dim: 128 };
    let mut keys = Matrix::zeros(rotated.rows(), codec.row_bytes());
    encode_index_keys(&scalar(), &codec, rotated.view(), keys.view_mut());
    for i in 0..keys.rows() {
        let (bytes, scales) = keys.row(i).split_at(64);
        let codes: Vec<u8> = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
        assert_eq!(codes, truth.bytes("codes", "U8")[128 * i..][..128], "row {i}");
        assert_eq!(scales, &truth.bytes("scales", "U8")[4 * i..][..4], "row {i}");
    }
}
