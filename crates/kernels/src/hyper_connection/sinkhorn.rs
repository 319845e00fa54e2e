//! The square of a token made nearly doubly stochastic.

use crate::simd::Simd;

/// What the entries of a square are: a number of one token, or the same number of sixteen.
pub(super) trait Number: Copy {
    /// `self + other`.
    fn plus(self, other: Self) -> Self;
    /// `self / other`.
    fn over(self, other: Self) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn over(self, other: Self) -> Self {
        self / other
    }
}

/// A number of sixteen tokens.
#[derive(Clone, Copy)]
pub(super) struct Lanes<S: Simd>(pub S, pub S::V);

impl<S: Simd> Number for Lanes<S> {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Self(self.0, self.0.add(self.1, other.1))
    }
    #[inline(always)]
    fn over(self, other: Self) -> Self {
        Self(self.0, self.0.div(self.1, other.1))
    }
}

/// [`normalise`] of a row major square of `n` by `n` numbers of one token.
pub(super) fn normalise_slice(square: &mut [f32], n: usize, iters: usize, eps: f32) {
    /// With the size known, the compiler keeps the square in registers.
    fn of<const N: usize>(square: &mut [f32], iters: usize, eps: f32) {
        let (rows, rest) = square.as_chunks_mut::<N>();
        let square: &mut [[f32; N]; N] = rows.try_into().expect("a square has as many rows as columns");
        assert!(rest.is_empty(), "a square of {N}");
        normalise(square, iters, eps);
    }
    match n {
        1 => of::<1>(square, iters, eps),
        2 => of::<2>(square, iters, eps),
        3 => of::<3>(square, iters, eps),
        4 => of::<4>(square, iters, eps),
        5 => of::<5>(square, iters, eps),
        6 => of::<6>(square, iters, eps),
        7 => of::<7>(square, iters, eps),
        8 => of::<8>(square, iters, eps),
        _ => unreachable!("weights of more streams do not exist"),
    }
}

/// Exponentials to shares of their rows plus `eps`; columns divided by their sums plus `eps`; then `iters - 1` times
/// rows and columns. Sums in ascending index.
///
/// The order matters: the loop ends before it converges, and the columns come last.
#[inline(always)]
pub(super) fn normalise<T: Number, const N: usize>(square: &mut [[T; N]; N], iters: usize, eps: T) {
    let mut c = *square;
    for row in &mut c {
        let sum = sum(row);
        for x in row {
            *x = x.over(sum).plus(eps);
        }
    }
    for iter in 0..iters {
        if iter > 0 {
            divide_rows(&mut c, eps);
        }
        divide_columns(&mut c, eps);
    }
    *square = c;
}

#[inline(always)]
fn divide_rows<T: Number, const N: usize>(c: &mut [[T; N]; N], eps: T) {
    for row in c {
        let sum = sum(row).plus(eps);
        for x in row {
            *x = x.over(sum);
        }
    }
}

#[inline(always)]
fn divide_columns<T: Number, const N: usize>(c: &mut [[T; N]; N], eps: T) {
    let mut sums = c[0];
    for row in &c[1..] {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum = sum.plus(x);
        }
    }
    for sum in &mut sums {
        *sum = sum.plus(eps);
    }
    for row in c {
        for (x, &sum) in row.iter_mut().zip(&sums) {
            *x = x.over(sum);
        }
    }
}

#[inline(always)]
fn sum<T: Number, const N: usize>(x: &[T; N]) -> T {
    let mut sum = x[0];
    for &x in &x[1..] {
        sum = sum.plus(x);
    }
    sum
}
