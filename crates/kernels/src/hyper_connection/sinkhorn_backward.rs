//! The way back through the steps that make a square nearly doubly stochastic.

use crate::simd::Simd;

/// Squares of `N` by `N`, a vector per number: the same number of sixteen tokens.
pub(super) type Square<V, const N: usize> = [[V; N]; N];

/// What a division left behind: its quotients, and what it divided by.
#[derive(Clone, Copy)]
pub(super) struct Step<V, const N: usize> {
    quotients: Square<V, N>,
    sums: [V; N],
}

/// The gradient of the logits, where `dout` is that of the square: all steps of [`super::sinkhorn::normalise`] are
/// computed once more into `steps`, and undone from the last to the first. A division `y_i = x_i / (sum of x + eps)`
/// has `dx_i = (dy_i - sum of dy y) / (sum of x + eps)`.
#[inline(always)]
pub(super) fn sinkhorn_backward<S: Simd, const N: usize>(
    s: S,
    logits: &Square<S::V, N>,
    dout: &Square<S::V, N>,
    iters: usize,
    eps: f32,
    steps: &mut Vec<Step<S::V, N>>,
) -> Square<S::V, N> {
    let shares = softmax_rows(s, logits);
    forward(s, &shares, iters, s.splat(eps), steps);
    let mut d = *dout;
    for (index, step) in steps.iter().enumerate().rev() {
        // The first division and every second one after it go by columns.
        if index % 2 == 0 {
            d = transposed(&undo(s, &transposed(&d), &transposed(&step.quotients), &step.sums));
        } else {
            d = undo(s, &d, &step.quotients, &step.sums);
        }
    }
    for (d, shares) in d.iter_mut().zip(&shares) {
        let along = dot(s, d, shares);
        for (d, &share) in d.iter_mut().zip(shares) {
            *d = s.mul(share, s.sub(*d, along));
        }
    }
    d
}

#[inline(always)]
fn softmax_rows<S: Simd, const N: usize>(s: S, logits: &Square<S::V, N>) -> Square<S::V, N> {
    let mut shares = *logits;
    for row in &mut shares {
        let mut max = row[0];
        for &x in &row[1..] {
            max = s.max(x, max);
        }
        let mut sum = s.splat(0.0);
        for x in row.iter_mut() {
            *x = s.exp(s.sub(*x, max));
            sum = s.add(sum, *x);
        }
        for x in row.iter_mut() {
            *x = s.div(*x, sum);
        }
    }
    shares
}

/// Columns, then `iters - 1` times rows and columns, as [`super::sinkhorn::normalise`] does.
#[inline(always)]
fn forward<S: Simd, const N: usize>(
    s: S,
    shares: &Square<S::V, N>,
    iters: usize,
    eps: S::V,
    steps: &mut Vec<Step<S::V, N>>,
) {
    steps.clear();
    let mut square = *shares;
    square.as_flattened_mut().iter_mut().for_each(|x| *x = s.add(*x, eps));
    for index in 0..(2 * iters).saturating_sub(1) {
        let by_columns = index % 2 == 0;
        let rows = if by_columns { transposed(&square) } else { square };
        let mut step = Step { quotients: rows, sums: [eps; N] };
        for (row, sum) in step.quotients.iter_mut().zip(&mut step.sums) {
            let mut of_row = row[0];
            for &x in &row[1..] {
                of_row = s.add(of_row, x);
            }
            *sum = s.add(of_row, eps);
            for x in row {
                *x = s.div(*x, *sum);
            }
        }
        if by_columns {
            step.quotients = transposed(&step.quotients);
        }
        square = step.quotients;
        steps.push(step);
    }
}

/// The gradient before a division of rows by their sums.
#[inline(always)]
fn undo<S: Simd, const N: usize>(
    s: S,
    d: &Square<S::V, N>,
    quotients: &Square<S::V, N>,
    sums: &[S::V; N],
) -> Square<S::V, N> {
    let mut out = *d;
    for i in 0..N {
        let along = dot(s, &d[i], &quotients[i]);
        for x in &mut out[i] {
            *x = s.div(s.sub(*x, along), sums[i]);
        }
    }
    out
}

#[inline(always)]
fn dot<S: Simd, const N: usize>(s: S, a: &[S::V; N], b: &[S::V; N]) -> S::V {
    let mut sum = s.mul(a[0], b[0]);
    for i in 1..N {
        sum = s.fma(a[i], b[i], sum);
    }
    sum
}

#[inline(always)]
fn transposed<V: Copy, const N: usize>(square: &Square<V, N>) -> Square<V, N> {
    let mut out = *square;
    for i in 0..N {
        for j in 0..N {
            out[i][j] = square[j][i];
        }
    }
    out
}
