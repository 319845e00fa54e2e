//! The square of a token made nearly doubly stochastic.

/// Softmax of each row plus `eps`; columns divided by their sums plus `eps`; then `iters - 1` times rows and
/// columns. `square` is row major, `n` by `n`.
///
/// The order matters: the loop ends before it converges, and the columns come last.
pub(super) fn normalise(square: &mut [f32], n: usize, iters: usize, eps: f32) {
    match n {
        1 => normalise_square::<1>(square, iters, eps),
        2 => normalise_square::<2>(square, iters, eps),
        3 => normalise_square::<3>(square, iters, eps),
        4 => normalise_square::<4>(square, iters, eps),
        5 => normalise_square::<5>(square, iters, eps),
        6 => normalise_square::<6>(square, iters, eps),
        7 => normalise_square::<7>(square, iters, eps),
        8 => normalise_square::<8>(square, iters, eps),
        _ => unreachable!("weights of more streams do not exist"),
    }
}

/// With the size known, the compiler keeps the square in registers.
fn normalise_square<const N: usize>(square: &mut [f32], iters: usize, eps: f32) {
    let (rows, rest) = square.as_chunks_mut::<N>();
    assert!(rows.len() == N && rest.is_empty(), "a square of {N}");
    let mut c: [[f32; N]; N] = std::array::from_fn(|j| softmax(rows[j]).map(|p| p + eps));
    for iter in 0..iters {
        if iter > 0 {
            divide_rows(&mut c, eps);
        }
        divide_columns(&mut c, eps);
    }
    rows.copy_from_slice(&c);
}

/// Exponentials in f64, each rounded to f32; their sum and the quotients in f32.
fn softmax<const N: usize>(row: [f32; N]) -> [f32; N] {
    let max = row.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let e = row.map(|x| f64::from(x - max).exp() as f32);
    let sum: f32 = sum(e);
    e.map(|e| e / sum)
}

fn divide_rows<const N: usize>(c: &mut [[f32; N]; N], eps: f32) {
    for row in c {
        let sum = sum(*row) + eps;
        *row = row.map(|x| x / sum);
    }
}

fn divide_columns<const N: usize>(c: &mut [[f32; N]; N], eps: f32) {
    let mut sums = [0.0; N];
    for row in c.iter() {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
    }
    for row in c {
        for (x, sum) in row.iter_mut().zip(sums) {
            *x /= sum + eps;
        }
    }
}

/// In ascending index.
fn sum<const N: usize>(x: [f32; N]) -> f32 {
    x.into_iter().fold(0.0, |sum, x| sum + x)
}
