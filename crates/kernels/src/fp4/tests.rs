use std::sync::Arc;

use cuvier_tensor::{Dtype, MatRef, Storage, Tensor};

use super::*;
use crate::testing::{scalar, uniform};
use crate::{Isa, QuantisedRows, quantise};

/// A tensor whose bytes start at an odd address, as they may in a mapped file, and end where memory does.
fn unaligned(bytes: Vec<u8>, dtype: Dtype, rows: usize, cols: usize) -> Tensor {
    let mut padded = vec![0xFF; bytes.len() + 2];
    let start = 1 - padded.as_ptr().addr() % 2;
    padded[start..start + bytes.len()].copy_from_slice(&bytes);
    let storage: Storage = Arc::new(padded);
    Tensor::new(storage, start..start + bytes.len(), dtype, vec![rows, cols]).expect("the shape fits")
}

/// Drawn weights whose scale bytes are drawn from `scales`.
fn weights(rows: usize, cols: usize, seed: u64, scales: &[u8]) -> WeightMatrix {
    let codes = uniform(rows * cols / 2, seed).iter().map(|x| (x.to_bits() >> 3) as u8).collect();
    let pick = |x: &f32| scales[(x.abs() * scales.len() as f32) as usize % scales.len()];
    let scales = uniform(rows * cols / 32, seed + 1).iter().map(pick).collect();
    WeightMatrix::new(WeightFormat::Fp4 {
        weight: unaligned(codes, Dtype::I8, rows, cols / 2),
        scale: unaligned(scales, Dtype::F8E8M0, rows, cols / 32),
    })
    .expect("the parts fit")
}

fn rows(x: &[f32], cols: usize) -> QuantisedRows {
    quantise(&scalar(), MatRef::new(x, x.len() / cols, cols))
}

/// The products of all tokens and rows, and those of pieces of both, which must be the same.
fn run(isa: Isa, x: &QuantisedRows, w: &WeightMatrix) -> Vec<f32> {
    let matrix = Fp4Matrix::of(w).expect("FP4");
    let mut blocks = Blocks::default();
    blocks.gather(isa, x.blocks(), (0..x.rows()).map(|t| (x.codes(t), x.scales(t))));
    blocks.gather_fours((0..x.rows()).map(|t| x.codes(t)));
    let mut out = vec![f32::NAN; x.rows() * w.rows()];
    product(isa, blocks.view(), matrix, 0..w.rows(), &mut out);
    out
}

#[track_caller]
fn assert_same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "{what}, number {i}: {got} is not {want}");
    }
}

fn check(x: &[f32], w: &WeightMatrix, what: &str) {
    let x = rows(x, w.cols());
    let want = reference::product(&x, w);
    for isa in Isa::available() {
        assert_same(&run(isa, &x, w), &want, &format!("{}, {what}", isa.name()));
    }
}

#[test]
fn products_have_the_bits_of_the_formula_at_every_shape() {
    for cols in [32, 64, 96, 128, 160, 4096 + 64] {
        for n in [1, 7, 8, 9, 15, 16, 17, 67] {
            for tokens in (1..=9).chain([13, 33, 100]) {
                if tokens * cols * n > 1 << 22 {
                    continue;
                }
                let w = weights(n, cols, (cols + n) as u64, &[118, 119, 120, 121, 122]);
                let x = uniform(tokens * cols, 5);
                check(&x, &w, &format!("{tokens} tokens, {cols} columns, {n} rows"));
            }
        }
    }
}
