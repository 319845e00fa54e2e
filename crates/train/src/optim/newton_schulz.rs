//! The nearest orthogonal matrix, by Newton-Schulz iteration.

use cuvier_kernels::{Compute, Store, matmul, matmul_transposed, transpose};
use cuvier_tensor::Matrix;

/// Raises small singular values fast, and leaves all of them between 0.7 and 1.2.
const COARSE: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Brings singular values near 1 to 1.
const FINE: [f32; 3] = [2.0, -1.5, 0.5];

/// How many iterations of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Iterations {
    pub(super) coarse: usize,
    pub(super) fine: usize,
}

/// `u vᵀ` of the singular value decomposition `x = u s vᵀ`, nearly: every singular value that is not far below the
/// largest becomes 1. A matrix of zeros stays one.
///
/// ```text
/// x = x / |x|                               the root of the sum of squares, in f64, row by row of the wide one
/// x = a x + (b (x xᵀ) + c (x xᵀ)²) x        repeatedly; all in f32
/// ```
///
/// A matrix with more rows than columns stands for its transpose, so that `x xᵀ` has the shorter side. What is kept is `xᵀ`,
/// by the columns of `x`: `x xᵀ` and its polynomials are their own transposes, so nothing is turned on the way.
///
/// Source: DeepSeek-V4 report, section on Muon.
pub(super) fn newton_schulz(compute: &Compute, x: &Matrix, iterations: Iterations) -> Matrix {
    let tall = x.rows() > x.cols();
    // `xᵀ`, long side first.
    let mut x = if tall { x.clone() } else { transposed(x) };
    if !normalise(&mut x) {
        return if tall { x } else { transposed(&x) };
    }
    let side = x.cols();
    let mut gram = Matrix::zeros(side, side);
    let mut mix = Matrix::zeros(side, side);
    let mut change = Matrix::zeros(x.rows(), side);
    let coarse = std::iter::repeat_n(COARSE, iterations.coarse);
    for [a, b, c] in coarse.chain(std::iter::repeat_n(FINE, iterations.fine)) {
        matmul_transposed(compute, x.view(), x.view(), Store::Set, gram.view_mut());
        matmul(compute, gram.view(), gram.view(), Store::Set, mix.view_mut());
        for (mix, gram) in mix.data_mut().iter_mut().zip(gram.data()) {
            *mix = b * gram + c * *mix;
        }
        matmul(compute, x.view(), mix.view(), Store::Set, change.view_mut());
        for (x, change) in x.data_mut().iter_mut().zip(change.data()) {
            *x = a * *x + change;
        }
    }
    if tall { x } else { transposed(&x) }
}

/// Divides by the root of the sum of squares, column after column; false if that is zero.
fn normalise(x: &mut Matrix) -> bool {
    let columns = (0..x.cols()).flat_map(|col| x.data().iter().skip(col).step_by(x.cols()));
    let squares: f64 = columns.map(|&x| f64::from(x) * f64::from(x)).sum();
    let norm = squares.sqrt();
    for x in x.data_mut() {
        // In f64, so that gradients near the smallest numbers of f32 do not lose their digits.
        *x = if norm > 0.0 { (f64::from(*x) / norm) as f32 } else { 0.0 };
    }
    norm > 0.0
}

fn transposed(x: &Matrix) -> Matrix {
    let mut out = Matrix::zeros(x.cols(), x.rows());
    transpose(x.view(), out.view_mut());
    out
}

#[cfg(test)]
mod tests {
    use cuvier_kernels::Isa;

    use super::*;
    use crate::optim::testing::{normal_matrix, on};

    const V4: Iterations = Iterations { coarse: 8, fine: 2 };

    /// Singular values, ascending: roots of the eigenvalues of the shorter Gram matrix by Jacobi rotations in f64.
    fn singular_values(x: &Matrix) -> Vec<f64> {
        let x = if x.rows() > x.cols() { transposed(x) } else { x.clone() };
        let n = x.rows();
        let dot = |i: usize, j: usize| -> f64 {
            x.row(i).iter().zip(x.row(j)).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let mut gram: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| dot(i, j)).collect()).collect();
        for _ in 0..30 {
            for p in 0..n {
                for q in p + 1..n {
                    rotate(&mut gram, p, q);
                }
            }
        }
        let mut values: Vec<f64> = (0..n).map(|i| gram[i][i].max(0.0).sqrt()).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// Makes element `p, q` of a symmetric matrix zero.
    fn rotate(gram: &mut [Vec<f64>], p: usize, q: usize) {
        if gram[p][q] == 0.0 {
            return;
        }
        let theta = (gram[q][q] - gram[p][p]) / (2.0 * gram[p][q]);
        let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
        let (c, s) = (1.0 / t.hypot(1.0), t / t.hypot(1.0));
        for row in gram.iter_mut() {
            let (a, b) = (row[p], row[q]);
            (row[p], row[q]) = (c * a - s * b, s * a + c * b);
        }
        let (above, below) = gram.split_at_mut(q);
        for (a, b) in above[p].iter_mut().zip(&mut below[0]) {
            (*a, *b) = (c * *a - s * *b, s * *a + c * *b);
        }
    }

    /// `[rows, cols]` with singular values from 1e-3 to 1, evenly on a logarithmic scale.
    fn spread(rows: usize, cols: usize) -> Matrix {
        let short = rows.min(cols);
        let basis = |len: usize, seed| -> Vec<Vec<f64>> {
            let random = normal_matrix(short, len, seed);
            let mut basis: Vec<Vec<f64>> = Vec::new();
            for row in 0..short {
                let mut v: Vec<f64> = random.row(row).iter().map(|&x| f64::from(x)).collect();
                // Twice, for what rounding leaves of the first time.
                for _ in 0..2 {
                    for b in &basis {
                        let dot: f64 = v.iter().zip(b).map(|(v, b)| v * b).sum();
                        v.iter_mut().zip(b).for_each(|(v, b)| *v -= dot * b);
                    }
                }
                let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
                basis.push(v.into_iter().map(|v| v / norm).collect());
            }
            basis
        };
        let (u, v) = (basis(rows, 3), basis(cols, 4));
        let element = |row: usize, col: usize| -> f32 {
            let part = |k: usize| {
                let value = 10_f64.powf(-3.0 * k as f64 / (short - 1) as f64);
                value * u[k][row] * v[k][col]
            };
            (0..short).map(part).sum::<f64>() as f32
        };
        Matrix::from_vec((0..rows * cols).map(|i| element(i / cols, i % cols)).collect(), cols)
    }

    #[test]
    fn singular_values_from_a_thousandth_to_one_become_one() {
        for (rows, cols) in [(24, 24), (40, 16), (16, 40), (64, 64)] {
            let x = spread(rows, cols);
            let before = singular_values(&x);
            assert!((before[0] - 1e-3).abs() < 1e-5 && (before[before.len() - 1] - 1.0).abs() < 1e-5);
            for isa in Isa::available() {
                let after = singular_values(&newton_schulz(&on(isa), &x, V4));
                let inside = after.iter().all(|value| (0.999..=1.001).contains(value));
                assert!(inside, "{isa:?} [{rows}, {cols}]: {after:?}");
            }
        }
    }

    #[test]
    fn coarse_steps_alone_leave_singular_values_around_one() {
        let after = singular_values(&newton_schulz(
            &on(Isa::best()),
            &spread(24, 40),
            Iterations { coarse: 8, fine: 0 },
        ));
        assert!(after.iter().all(|value| (0.6..=1.25).contains(value)), "{after:?}");
        assert!(after.iter().any(|value| (value - 1.0).abs() > 0.05), "{after:?}");
    }

    #[test]
    fn a_tall_matrix_gives_the_transpose_of_what_its_transpose_gives() {
        let wide = normal_matrix(12, 37, 5);
        let of_tall = newton_schulz(&on(Isa::best()), &transposed(&wide), V4);
        assert_eq!(of_tall, transposed(&newton_schulz(&on(Isa::best()), &wide, V4)));
    }

    /// The embedded model is made anew bit for bit by its recipe as long as no step of an optimiser changes a bit.
    #[test]
    fn bits_are_those_that_made_the_embedded_model() {
        for (rows, cols, want) in [(24, 40, 11_405_362_872_174_550_338), (40, 24, 3_362_931_891_577_498_627)]
        {
            let numbers = (0..rows * cols).map(|i| ((i * i * 31 + i * 7) % 97) as f32 - 48.0).collect();
            let x = Matrix::from_vec(numbers, cols);
            for isa in Isa::available() {
                let bits = newton_schulz(&on(isa), &x, V4).data().iter().fold(0_u64, |hash, number| {
                    (hash ^ u64::from(number.to_bits())).wrapping_mul(0x0100_0000_01B3)
                });
                assert_eq!(bits, want, "{isa:?} [{rows}, {cols}]");
            }
        }
    }

    #[test]
    fn the_size_of_a_gradient_does_not_matter_and_zeros_stay_zeros() {
        let x = normal_matrix(8, 20, 6);
        let scaled = |factor: f32| Matrix::from_vec(x.data().iter().map(|x| x * factor).collect(), x.cols());
        let out = newton_schulz(&on(Isa::best()), &x, V4);
        // Powers of two change no digit.
        for factor in [2f32.powi(-60), 2f32.powi(60)] {
            assert_eq!(newton_schulz(&on(Isa::best()), &scaled(factor), V4), out, "{factor}");
        }
        let zeros = Matrix::zeros(5, 3);
        assert_eq!(newton_schulz(&on(Isa::best()), &zeros, V4), zeros);
    }
}
