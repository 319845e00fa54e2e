use cuvier_tensor::Matrix;

use super::*;
use crate::testing::{Fixture, U, assert_within, everywhere, scalar, uniform};
use crate::{RopeTable, Rotation, rms_norm_in_place, rope};

const CSA: CompressorShape = CompressorShape { ratio: 4, overlap: true, dim: 512 };
const HCA: CompressorShape = CompressorShape { ratio: 128, overlap: false, dim: 512 };

/// Rows of drawn tokens, some of S far apart.
fn drawn(shape: CompressorShape, tokens: usize) -> PagedRows<f32> {
    let mut rows = PagedRows::new(shape.row_len(), 0);
    for (position, mut row) in
        uniform(tokens * shape.row_len(), 1).chunks(shape.row_len()).map(Vec::from).enumerate()
    {
        let spread = [1.0, 5.0, 40.0][position % 3];
        row[shape.features()..].iter_mut().for_each(|s| *s *= spread);
        rows.extend(&row);
    }
    rows
}

fn run(c: &Compute, rows: &PagedRows<f32>, shape: CompressorShape, blocks: Range<usize>) -> Vec<f32> {
    let mut out = Matrix::zeros(blocks.len(), shape.dim);
    compress(c, rows, shape, blocks, out.view_mut());
    out.into_vec()
}

/// Weights: the difference of S rounds, which an exponential turns into a relative error of |S - max|; it is within
/// two units in the last place (four roundings) itself. Sums: one rounding per slot. Both above and below the
/// quotient, which rounds. Exponents below -87 are cut off there: e^-87 is far below 1e-30.
fn bound(slots: &[(f64, f64)]) -> f64 {
    let max = slots.iter().map(|slot| slot.0).fold(f64::NEG_INFINITY, f64::max);
    let relative = |s: f64| 2.0 * ((max - s) + 4.0 + slots.len() as f64 + 1.0) * U;
    let terms: Vec<(f64, f64)> = slots.iter().map(|&(s, k)| (s, k.abs() * relative(s))).collect();
    let weights: Vec<(f64, f64)> = slots.iter().map(|&(s, _)| (s, relative(s))).collect();
    let magnitudes: Vec<(f64, f64)> = slots.iter().map(|&(s, k)| (s, k.abs())).collect();
    reference::entry(&terms) + reference::entry(&weights) * reference::entry(&magnitudes) + 1e-30
}

fn tokens(rows: &PagedRows<f32>, shape: CompressorShape) -> Vec<reference::Token> {
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect();
    rows.range()
        .map(|position| rows.row(position).split_at(shape.features()))
        .map(|(k, s)| reference::Token { k: wide(k), s: wide(s) })
        .collect()
}

#[test]
fn entries_stay_within_the_bound_in_every_shape() {
    for overlap in [false, true] {
        for (ratio, dims) in
            [(1, vec![3]), (4, vec![1, 15, 16, 17, 33, 64, 65, 129, 512]), (128, vec![20, 512])]
        {
            for dim in dims {
                let shape = CompressorShape { ratio, overlap, dim };
                let rows = drawn(shape, 3 * ratio + ratio / 2);
                let got = everywhere(|c| run(c, &rows, shape, 0..3));
                let tokens = tokens(&rows, shape);
                let slots = (0..3 * dim).map(|i| reference::pooled(&tokens, shape, i / dim, i % dim));
                assert_within(&got, slots.map(|s| (reference::entry(&s), bound(&s))), "entries");
            }
        }
    }
}

/// One row `[K first, K second, S first, S second]` per token, for `dim` 1.
fn rows_of(tokens: &[[f32; 4]]) -> PagedRows<f32> {
    let mut rows = PagedRows::new(4, 0);
    tokens.iter().for_each(|row| rows.extend(row));
    rows
}

#[test]
fn the_block_before_gives_its_first_half_and_the_own_block_its_second() {
    let shape = CompressorShape { ratio: 1, overlap: true, dim: 1 };
    // Equal S: plain means. Token t has K of 10^t in its first and 2 * 10^t in its second half.
    let rows = rows_of(&[[1.0, 2.0, 0.0, 0.0], [10.0, 20.0, 0.0, 0.0], [100.0, 200.0, 0.0, 0.0]]);
    let got = run(&scalar(), &rows, shape, 0..3);
    // Entry 0 has nothing before it: its own second half alone, not a mean with zeros.
    assert_eq!(got, [2.0, (1.0 + 20.0) / 2.0, (10.0 + 200.0) / 2.0]);
}

#[test]
fn each_half_of_k_is_weighed_with_the_same_half_of_s() {
    let shape = CompressorShape { ratio: 1, overlap: true, dim: 1 };
    // e^50 outweighs all else: entry 1 is the first half of token 0, entry 2 the second half of token 2.
    let rows = rows_of(&[[1.0, 2.0, 50.0, 0.0], [10.0, 20.0, -50.0, 0.0], [100.0, 200.0, 0.0, 50.0]]);
    let got = run(&scalar(), &rows, shape, 0..3);
    for (got, want) in got.iter().zip([2.0, 1.0, 200.0]) {
        assert!((got - want).abs() < 1e-4, "{got} is not {want}");
    }
}

#[test]
fn one_softmax_spans_both_blocks() {
    let shape = CompressorShape { ratio: 2, overlap: true, dim: 1 };
    let (a, b) = ([1.0, 0.0, 3f32.ln(), 0.0], [1.0, 5.0, 0.0, 0.0]);
    // Weights 3 and 3 of the block before against 1 and 1: (3 + 3 + 5 + 5) / 8.
    let got = run(&scalar(), &rows_of(&[a, a, b, b]), shape, 1..2);
    assert!((got[0] - 2.0).abs() < 1e-6, "{got:?}");
}

#[test]
fn a_block_alone_is_the_block_in_a_batch_wherever_its_rows_lie() {
    for shape in [CSA, HCA] {
        let rows = drawn(shape, 8 * shape.ratio);
        let batch = everywhere(|c| run(c, &rows, shape, 0..8));
        for block in [0, 1, 5, 7] {
            // Only the rows that it needs are held.
            let needed = if shape.overlap {
                (block * shape.ratio).saturating_sub(shape.ratio)
            } else {
                block * shape.ratio
            };
            let mut held = rows.clone();
            held.release_before(needed);
            held.truncate((block + 1) * shape.ratio);
            let alone = run(&scalar(), &held, shape, block..block + 1);
            assert_eq!(batch[block * shape.dim..][..shape.dim], alone, "block {block}");
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = CompressorShape { ratio: 2, overlap: false, dim: 1 };
    let mut rows = PagedRows::new(2, 0);
    rows.extend(&[3.0, 3000.0, 7.0, 1000.0]);
    assert_eq!(run(&scalar(), &rows, shape, 0..1), [3.0]);
}

#[test]
fn no_finished_block_gives_no_entry() {
    assert!(run(&scalar(), &PagedRows::new(CSA.row_len(), 0), CSA, 0..0).is_empty());
}

#[test]
fn the_bias_of_a_row_is_that_of_its_position_modulo_the_ratio() {
    let (features, ratio) = (3, 4);
    let ape: Vec<f32> = (0..ratio * features).map(|i| (100 * i) as f32).collect();
    let positions = [2, 3, 4, 5, 1_000_003];
    let k = Matrix::from_vec(uniform(15, 1), features);
    let s = Matrix::from_vec(uniform(15, 2), features);
    let got = everywhere(|c| {
        let mut out = Matrix::zeros(5, 2 * features);
        compressor_rows(c, k.view(), s.view(), &ape, ratio, &positions, out.view_mut());
        out.into_vec()
    });
    for (row, place) in [2, 3, 0, 1, 3].into_iter().enumerate() {
        let (got_k, got_s) = got[row * 6..][..6].split_at(features);
        assert_eq!(got_k, k.row(row));
        for f in 0..features {
            assert_eq!(got_s[f], s.row(row)[f] + ape[place * features + f], "row {row}, feature {f}");
        }
    }
}

/// The entries of a recorded layer, from its weights and inputs through all that makes an entry but its last
/// rounding to FP8, which leaves the rotated numbers alone; those are compared.
fn check_recorded(name: &str, ratio: usize) {
    let fixture = Fixture::read(name);
    let (x, norm) = (fixture.matrix("input"), fixture.f32("compressor.norm.weight"));
    let shape = CompressorShape { ratio, overlap: ratio == 4, dim: norm.len() };
    let product = |weight: &str| {
        let weight = fixture.matrix(weight);
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let all = x.view().iter().flat_map(|x| weight.view().iter().map(move |w| dot(x, w) as f32)).collect();
        Matrix::from_vec(all, weight.rows())
    };
    let (k, s) = (product("compressor.wkv.weight"), product("compressor.wgate.weight"));
    let positions: Vec<u32> = (0..).take(x.rows()).collect();
    let blocks = x.rows() / ratio;
    let first_positions: Vec<u32> = (0..).step_by(ratio).take(blocks).collect();
    let table = RopeTable::yarn(160_000.0, 8, 16.0, 65_536, 32.0, 1.0);
    let got = everywhere(|c| {
        let mut packed = Matrix::zeros(x.rows(), shape.row_len());
        let ape = fixture.f32("compressor.ape");
        compressor_rows(c, k.view(), s.view(), &ape, ratio, &positions, packed.view_mut());
        let mut rows = PagedRows::new(shape.row_len(), 0);
        rows.extend(packed.data());
        let mut entries = Matrix::zeros(blocks, shape.dim);
        compress(c, &rows, shape, 0..blocks, entries.view_mut());
        rms_norm_in_place(c, entries.view_mut(), Some(&norm), 1e-6);
        rope(c, entries.view_mut(), 1, &table.angles(c, &first_positions), Rotation::Forward);
        entries.into_vec()
    });
    let recorded = fixture.matrix("entries");
    assert_eq!((recorded.rows(), recorded.cols()), (blocks, shape.dim));
    for (got, recorded) in got.chunks_exact(shape.dim).zip(recorded.view().iter()) {
        // Normed numbers of order 1, after a few roundings for each of the pooled tokens.
        let bound = (64 + 4 * ratio) as f64 * U;
        let rotated =
            recorded[shape.dim - 8..].iter().map(|&e| (f64::from(e), bound * f64::from(e.abs()).max(1.0)));
        assert_within(&got[shape.dim - 8..], rotated, name);
    }
}

#[test]
fn the_recorded_entries_of_overlapping_blocks_are_reproduced() {
    check_recorded("attention_4", 4);
}

#[test]
fn the_recorded_entries_of_long_blocks_are_reproduced() {
    check_recorded("attention_128", 128);
}
