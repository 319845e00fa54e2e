use std::sync::Arc;

use cuvier_tensor::formats::f32_to_bf16;
use cuvier_tensor::{Dtype, MatRef, Matrix, Storage, Tensor, WeightFormat, WeightMatrix};

use super::*;
use crate::testing::{U, assert_within, awkward_lengths, everywhere, scalar, uniform};

/// Every stored form of weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stored {
    F32,
    Bf16,
    Fp8,
    Fp8WithF32Scales,
    Fp4,
}

impl Stored {
    pub(crate) const ALL: [Self; 5] = [Self::F32, Self::Bf16, Self::Fp8, Self::Fp8WithF32Scales, Self::Fp4];

    /// Whether rows can have `cols` columns.
    fn takes(self, cols: usize) -> bool {
        self != Self::Fp4 || cols.is_multiple_of(32)
    }

    /// Drawn weights of moderate size; all codes occur that are numbers, both zeros and the largest included.
    pub(crate) fn draw(self, rows: usize, cols: usize, seed: u64) -> WeightMatrix {
        let numbers = uniform(rows * cols, seed);
        let bytes = || numbers.iter().map(|x| (x.to_bits() >> 3) as u8);
        let blocks = (rows.div_ceil(128), cols.div_ceil(128));
        let codes = || bytes().map(|b| if b & 0x7F == 0x7F { b ^ 1 } else { b }).collect();
        WeightMatrix::new(match self {
            Self::F32 => WeightFormat::F32(Tensor::from_f32(&numbers, vec![rows, cols])),
            Self::Bf16 => {
                let bytes = numbers.iter().flat_map(|&x| f32_to_bf16(x).to_le_bytes()).collect();
                WeightFormat::Bf16(unaligned(bytes, Dtype::BF16, rows, cols))
            }
            Self::Fp8 => WeightFormat::Fp8 {
                weight: unaligned(codes(), Dtype::F8E4M3, rows, cols),
                scale: unaligned(scales(blocks.0 * blocks.1, seed), Dtype::F8E8M0, blocks.0, blocks.1),
            },
            Self::Fp8WithF32Scales => WeightFormat::Fp8 {
                weight: unaligned(codes(), Dtype::F8E4M3, rows, cols),
                scale: Tensor::from_f32(&uniform(blocks.0 * blocks.1, seed + 1), vec![blocks.0, blocks.1]),
            },
            Self::Fp4 => WeightFormat::Fp4 {
                weight: unaligned(bytes().take(rows * cols / 2).collect(), Dtype::I8, rows, cols / 2),
                scale: unaligned(scales(rows * cols / 32, seed), Dtype::F8E8M0, rows, cols / 32),
            },
        })
        .expect("the parts fit")
    }
}

/// Powers of two from 2^-7 to 2^2.
fn scales(len: usize, seed: u64) -> Vec<u8> {
    uniform(len, seed + 1).iter().map(|x| 120 + (x.abs() * 10.0) as u8).collect()
}

/// A tensor whose bytes start at an odd address, as they may in a mapped file.
fn unaligned(bytes: Vec<u8>, dtype: Dtype, rows: usize, cols: usize) -> Tensor {
    let mut padded = vec![0xFF; bytes.len() + 2];
    let start = 1 - padded.as_ptr().addr() % 2;
    padded[start..start + bytes.len()].copy_from_slice(&bytes);
    let storage: Storage = Arc::new(padded);
    Tensor::new(storage, start..start + bytes.len(), dtype, vec![rows, cols]).expect("the shape fits")
}

fn draw(rows: usize, cols: usize, seed: u64) -> Matrix {
    Matrix::from_vec(uniform(rows * cols, seed), cols)
}

fn run(c: &Compute, x: MatRef<'_>, w: &WeightMatrix, groups: usize) -> Vec<f32> {
    let mut out = Matrix::from_vec(vec![f32::NAN; x.rows() / groups * w.rows()], w.rows());
    gemm_grouped(c, &Activations::new(x), w, groups, out.view_mut());
    out.into_vec()
}

/// Each of a lane's `n / 16` fused steps, rounded up, and each of the four levels of the final sum rounds a partial
/// sum, which is at most the sum of magnitudes; two more for terms of second order, and what is lost to underflow.
pub(crate) fn bound(n: usize, magnitudes: f64) -> f64 {
    (n.div_ceil(16) + 6) as f64 * U * magnitudes + n as f64 * f64::from(f32::from_bits(1))
}

/// The exact products and what each may be off: the sums by [`bound`], the operands by their eight bits.
fn within(exact: &[(f64, f64)], x: MatRef<'_>, w: &WeightMatrix, groups: usize) -> Vec<(f64, f64)> {
    let magnitudes = |t: usize, row: usize| -> Vec<f64> {
        let x = &x.row(t)[row / (w.rows() / groups) * w.cols()..][..w.cols()];
        x.iter().map(|&x| f64::from(x).abs()).collect()
    };
    let number = |(i, &(y, m)): (usize, &(f64, f64))| {
        let (t, row) = (i / w.rows(), i % w.rows());
        (y, bound(w.cols(), 1.02 * m) + reference::eight_bit_error(w, row, &magnitudes(t, row)))
    };
    exact.iter().enumerate().map(number).collect()
}

fn check(stored: Stored, tokens: usize, rows: usize, cols: usize) {
    let what = format!("{stored:?} {tokens}x{cols}x{rows}");
    let x = draw(tokens, cols, 7);
    let w = stored.draw(rows, cols, 11);
    let got = everywhere(|c| run(c, x.view(), &w, 1));
    let exact = reference::gemm_grouped(x.view(), &w, 1);
    assert_within(&got, within(&exact, x.view(), &w, 1), &what);
}

#[test]
fn products_stay_within_their_bound_at_every_length_and_format() {
    for stored in Stored::ALL {
        for cols in awkward_lengths().chain([32 * 3, 160, 288]).filter(|&cols| stored.takes(cols)) {
            for tokens in [1, 3] {
                check(stored, tokens, 5, cols);
            }
        }
        check(stored, 14, 3, 4096 + 1024);
        check(stored, 2, 3, 160);
    }
}

#[test]
fn products_stay_within_their_bound_at_every_number_of_tokens_and_rows() {
    for stored in Stored::ALL {
        for tokens in (1..=9).chain([13, 17, 33, 100]) {
            check(stored, tokens, 131, 96);
        }
        for rows in [1, 2, 3, 4, 63, 64, 65, 128] {
            check(stored, 1, rows, 64);
            check(stored, 14, rows, 64);
        }
    }
}

#[test]
fn a_token_alone_gets_the_bits_that_it_gets_among_others() {
    for stored in Stored::ALL {
        // More columns than are decoded at a time, and not a multiple of sixteen where the format allows it.
        let cols = if stored == Stored::Fp4 { 4096 + 64 } else { 4096 + 77 };
        let x = draw(100, cols, 1);
        let w = stored.draw(67, cols, 2);
        let c = Compute::new(Isa::best(), std::num::NonZeroUsize::MIN).expect("one thread");
        let alone: Vec<f32> = x.view().iter().flat_map(|x| run(&c, MatRef::new(x, 1, cols), &w, 1)).collect();
        for tokens in [2, 3, 4, 5, 7, 12, 13, 25, 97, 100] {
            let got = run(&c, MatRef::new(&x.data()[..tokens * cols], tokens, cols), &w, 1);
            let equal = got.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(equal, "{stored:?}, {tokens} tokens");
        }
    }
}

#[test]
fn a_row_has_the_bits_of_the_crates_dot_product() {
    for cols in awkward_lengths() {
        let (x, w) = (uniform(cols, 3), uniform(cols, 4));
        let got = run(&scalar(), MatRef::new(&x, 1, cols), &WeightMatrix::from_f32(&w, 1, cols), 1);
        struct Dot<'a>(&'a [f32], &'a [f32]);
        impl Vectorized for Dot<'_> {
            type Output = f32;
            fn run<S: Simd>(self, s: S) -> f32 {
                s.dot(self.0, self.1)
            }
        }
        assert_eq!(got[0].to_bits(), Isa::Scalar.dispatch(Dot(&w, &x)).to_bits(), "{cols} columns");
    }
}

#[test]
fn groups_see_their_own_inputs_only() {
    for stored in Stored::ALL {
        for tokens in [1, 15] {
            let (groups, rank, cols) = (3, 70, 96);
            let x = draw(tokens, groups * cols, 5);
            let w = stored.draw(groups * rank, cols, 6);
            let rows = x.view().split_rows(cols);
            let got = everywhere(|c| run(c, rows, &w, groups));
            let exact = reference::gemm_grouped(rows, &w, groups);
            let exact = within(&exact, x.view(), &w, groups);
            assert_within(&got, exact, &format!("{stored:?}, {tokens} tokens"));
            // Every group by itself sees gaps between the rows of its inputs.
            for g in 0..groups {
                let alone = run(&scalar(), x.view().columns(g * cols, cols), &w, 1);
                for t in 0..tokens {
                    let at = |out: &[f32]| out[t * w.rows() + g * rank..][..rank].to_vec();
                    assert_eq!(at(&alone), at(&got), "{stored:?}, group {g}");
                }
            }
        }
    }
}

#[test]
fn no_tokens_give_no_outputs_and_no_columns_give_zeros() {
    let w = WeightMatrix::from_f32(&[1.0, 2.0], 2, 1);
    assert!(everywhere(|c| run(c, MatRef::new(&[], 0, 1), &w, 1)).is_empty());
    let w = WeightMatrix::from_f32(&[], 2, 0);
    assert_eq!(everywhere(|c| run(c, MatRef::new(&[], 1, 0), &w, 1)), [0.0; 2]);
    assert_eq!(everywhere(|c| run(c, MatRef::new(&[], 13, 0), &w, 1)), [0.0; 26]);
}

#[test]
#[should_panic(expected = "inputs")]
fn inputs_of_another_length_are_refused() {
    let w = WeightMatrix::from_f32(&[1.0, 2.0], 1, 2);
    run(&scalar(), MatRef::new(&[1.0; 3], 1, 3), &w, 1);
}
