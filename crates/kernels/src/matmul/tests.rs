use cuvier_tensor::Matrix;

use super::{Store, matmul, matmul_transposed, reference, transpose};
use crate::testing::{everywhere, scalar, uniform};

fn random(rows: usize, cols: usize, seed: u64) -> Matrix {
    Matrix::from_vec(uniform(rows * cols, seed), cols)
}

#[test]
fn products_equal_the_formula_to_the_bit_at_awkward_sizes() {
    let sizes = [1, 2, 5, 6, 7, 15, 16, 17, 48, 50, 63, 64, 65, 130];
    for (case, &m) in sizes.iter().enumerate() {
        let (some, n) = (sizes[(case * 5 + 3) % sizes.len()], sizes[(case * 3 + 1) % sizes.len()]);
        for terms in [some, 256, 300] {
            let (a, b, before) = (random(m, terms, 1), random(terms, n, 2), random(m, n, 3));
            let mut turned = Matrix::zeros(terms, m);
            transpose(a.view(), turned.view_mut());
            for store in [Store::Set, Store::Add] {
                let mut want = if store == Store::Set { Matrix::zeros(m, n) } else { before.clone() };
                reference::matmul(m, |i, k| a.row(i)[k], b.view(), &mut want);
                let straight = everywhere(|c| {
                    let mut got = before.clone();
                    matmul(c, a.view(), b.view(), store, got.view_mut());
                    got.into_vec()
                });
                assert_eq!(straight, want.data(), "{m} {terms} {n} {store:?}");
                let across = everywhere(|c| {
                    let mut got = before.clone();
                    matmul_transposed(c, turned.view(), b.view(), store, got.view_mut());
                    got.into_vec()
                });
                assert_eq!(across, want.data(), "turned {m} {terms} {n} {store:?}");
            }
        }
    }
}

#[test]
fn a_view_of_some_columns_is_multiplied_as_a_copy_of_them() {
    let (wide, b) = (random(20, 40, 4), random(12, 9, 5));
    let narrow: Vec<f32> = wide.view().iter().flat_map(|row| row[7..19].to_vec()).collect();
    let [mut got, mut want] = [Matrix::zeros(20, 9), Matrix::zeros(20, 9)];
    matmul(&scalar(), wide.view().columns(7, 12), b.view(), Store::Set, got.view_mut());
    matmul(&scalar(), Matrix::from_vec(narrow, 12).view(), b.view(), Store::Set, want.view_mut());
    assert_eq!(got, want);
}
