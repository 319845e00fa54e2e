use std::ops::Range;

use cuvier_tensor::Matrix;

use super::*;
use crate::compressor::reference::{Token, entry, pooled};
use crate::testing::{assert_gradient, differences, drawn, everywhere, scalar, uniform};

/// Rows of a sequence, some of S far apart.
fn drawn_rows(shape: CompressorShape, tokens: usize) -> Matrix {
    let mut rows = drawn(tokens, shape.row_len(), 1);
    for t in 0..tokens {
        let spread = [1.0, 5.0, 20.0][t % 3];
        rows.row_mut(t)[shape.features()..].iter_mut().for_each(|s| *s *= spread);
    }
    rows
}

fn run(c: &Compute, rows: &Matrix, shape: CompressorShape, dout: &Matrix) -> Vec<f32> {
    let mut drows = Matrix::from_vec(vec![f32::NAN; rows.data().len()], rows.cols());
    compress_backward(c, rows.view(), shape, dout.view(), drows.view_mut());
    drows.into_vec()
}

/// `dout . entries` of some blocks.
fn loss(rows: &[f64], shape: CompressorShape, dout: &Matrix, blocks: Range<usize>) -> f64 {
    let token = |row: &[f64]| {
        let (k, s) = row.split_at(shape.features());
        Token { k: k.to_vec(), s: s.to_vec() }
    };
    let tokens: Vec<Token> = rows.chunks_exact(shape.row_len()).map(token).collect();
    let of_entry = |(block, channel)| {
        f64::from(dout.row(block)[channel]) * entry(&pooled(&tokens, shape, block, channel))
    };
    blocks.flat_map(|block| (0..shape.dim).map(move |channel| (block, channel))).map(of_entry).sum()
}

fn check(shape: CompressorShape, tokens: usize) {
    let blocks = tokens / shape.ratio;
    let (rows, dout) = (drawn_rows(shape, tokens), drawn(blocks, shape.dim, 2));
    let got = everywhere(|c| run(c, &rows, shape, &dout));
    let exact = differences(rows.data(), |rows| loss(rows, shape, &dout, 0..blocks));
    assert_gradient(&got, &exact, &format!("{tokens} tokens in {shape:?}"));
}

#[test]
fn gradients_of_k_and_s_are_those_of_the_formula_in_every_shape() {
    for overlap in [false, true] {
        for dim in [1, 2, 15, 16, 17, 33] {
            for tokens in [3, 4, 6, 15] {
                check(CompressorShape { ratio: 4, overlap, dim }, tokens);
            }
        }
        check(CompressorShape { ratio: 1, overlap, dim: 3 }, 5);
        check(CompressorShape { ratio: 128, overlap, dim: 2 }, 127);
        check(CompressorShape { ratio: 128, overlap, dim: 2 }, 280);
    }
}

#[test]
fn many_blocks_have_the_same_gradients_on_any_number_of_threads() {
    for shape in [
        CompressorShape { ratio: 4, overlap: true, dim: 200 },
        CompressorShape { ratio: 128, overlap: false, dim: 130 },
    ] {
        let tokens = 20 * shape.ratio + 3;
        let (rows, dout) = (drawn_rows(shape, tokens), drawn(20, shape.dim, 2));
        everywhere(|c| run(c, &rows, shape, &dout));
    }
}

#[test]
fn a_token_behind_the_last_whole_block_has_no_gradient() {
    for (shape, tokens) in [
        (CompressorShape { ratio: 4, overlap: true, dim: 5 }, 11),
        (CompressorShape { ratio: 128, overlap: false, dim: 5 }, 130),
        (CompressorShape { ratio: 128, overlap: false, dim: 5 }, 127),
    ] {
        let blocks = tokens / shape.ratio;
        let got = run(&scalar(), &drawn_rows(shape, tokens), shape, &drawn(blocks, shape.dim, 2));
        let (pooled, tail) = got.split_at(blocks * shape.ratio * shape.row_len());
        assert!(tail.iter().all(|&d| d == 0.0), "{shape:?}");
        assert!(pooled.iter().all(|d| d.is_finite()), "{shape:?}");
    }
}

#[test]
fn with_overlap_the_first_half_of_features_goes_to_the_next_block_and_the_second_to_its_own() {
    let shape = CompressorShape { ratio: 4, overlap: true, dim: 3 };
    let rows = drawn_rows(shape, 12);
    for block in 0..3 {
        let mut dout = Matrix::zeros(3, 3);
        dout.row_mut(block).fill(1.0);
        let got = run(&scalar(), &rows, shape, &dout);
        for (t, drow) in got.chunks_exact(shape.row_len()).enumerate() {
            // K first, K second, S first, S second.
            for (part, d) in drow.chunks_exact(3).enumerate() {
                let pools = if part % 2 == 0 { t / 4 + 1 == block } else { t / 4 == block };
                let reached = d.iter().any(|&d| d != 0.0);
                assert_eq!(reached, pools, "token {t}, part {part}, entry {block}");
            }
        }
    }
}

#[test]
fn every_place_of_a_block_gathers_the_gradients_of_its_biases() {
    for (ratio, features, lengths) in
        [(4, 1, [3, 9]), (4, 33, [5, 14]), (128, 5, [150, 140]), (1, 16, [2, 3])]
    {
        let positions: Vec<u32> = lengths.into_iter().flat_map(|len| 0..len).collect();
        let drows = drawn(positions.len(), 2 * features, 1);
        let before = uniform(ratio * features, 2);
        let got = everywhere(|c| {
            let mut dape = before.clone();
            compressor_rows_backward(c, drows.view(), ratio, &positions, &mut dape);
            dape
        });
        let loss = |ape: &[f64]| -> f64 {
            let of_token = |(&position, drow): (&u32, &[f32])| -> f64 {
                let bias = &ape[position as usize % ratio * features..][..features];
                bias.iter().zip(&drow[features..]).map(|(b, &d)| b * f64::from(d)).sum()
            };
            positions.iter().zip(drows.view().iter()).map(of_token).sum()
        };
        let exact = differences(&before, loss);
        let exact: Vec<f64> = exact.iter().zip(&before).map(|(d, &b)| d + f64::from(b)).collect();
        assert_gradient(&got, &exact, &format!("{features} biases of {ratio} places"));
    }
}
