use cuvier_tensor::formats::{bf16_to_f32, e4m3_to_f32, e8m0_to_f32, f32_to_bf16};
use cuvier_tensor::{
    Dtype, MatRef, PANEL_COLS, PANEL_ROWS, Tensor, WeightFormat, WeightMatrix, panel_column,
};

use super::*;
use crate::fp4::Blocks;
use crate::gemm::tests::Stored;
use crate::testing::{scalar, uniform};
use crate::{Isa, QuantisedRows, quantise};

/// The number that a packed weight stands for, its code and its unit.
fn packed(w: &WeightMatrix, row: usize, col: usize) -> (f64, i8, f32) {
    let WeightFormat::Int8(panels) = w.format() else { panic!("not packed") };
    let panel = &panels[row / PANEL_ROWS * w.cols().div_ceil(PANEL_COLS) + col / PANEL_COLS];
    let place =
        |quad: usize| (0..4).find(|&byte| panel_column(quad, byte) == col % PANEL_COLS).map(|b| (quad, b));
    let (quad, byte) = (0..PANEL_COLS / 4).find_map(place).expect("every column stands somewhere");
    let (code, unit) = (panel.codes[quad][row % PANEL_ROWS][byte], panel.units[row % PANEL_ROWS]);
    (f64::from(code) * f64::from(unit), code, unit)
}

/// The products with some rows, on one instruction set.
fn run(isa: Isa, x: &QuantisedRows, w: &WeightMatrix, rows: Range<usize>) -> Vec<f32> {
    let WeightFormat::Int8(panels) = w.format() else { panic!("not packed") };
    let mut blocks = Blocks::default();
    blocks.gather(isa, x.blocks(), (0..x.rows()).map(|t| (x.codes(t), x.scales(t))));
    let mut out = vec![f32::NAN; x.rows() * rows.len()];
    product(isa, blocks.view(), Strips::new(panels, 0), rows, &mut out);
    out
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

fn check(w: &WeightMatrix, tokens: usize) {
    let x = uniform(tokens * w.cols(), 5);
    let x = quantise(&scalar(), MatRef::new(&x, tokens, w.cols()));
    let want = reference::product(&x, w);
    for isa in Isa::available() {
        let got = run(isa, &x, w, 0..w.rows());
        let equal = got.len() == want.len() && got.iter().zip(&want).all(|(&a, &b)| same(a, b));
        assert!(equal, "{}, {tokens} tokens, {} rows, {} columns", isa.name(), w.rows(), w.cols());
        // Any rows alone, from the middle of a strip to that of another.
        let part = w.rows() / 3..w.rows() - w.rows() / 4;
        let got = run(isa, &x, w, part.clone());
        for (got, want) in got.chunks(part.len()).zip(want.chunks(w.rows())) {
            assert!(got.iter().zip(&want[part.clone()]).all(|(&a, &b)| same(a, b)), "rows {part:?}");
        }
    }
}

#[test]
fn products_have_the_bits_of_the_formula_at_every_shape() {
    for cols in [1, 31, 32, 127, 128, 129, 160, 1024 + 77] {
        for rows in [1, 15, 16, 17, 67] {
            let w = pack(&scalar(), &Stored::Fp8.draw(rows, cols, (cols + rows) as u64));
            for tokens in (1..=9).chain([13, 33]).filter(|tokens| tokens * cols * rows < 1 << 20) {
                check(&w, tokens);
            }
        }
    }
}

#[test]
fn the_largest_codes_do_not_overflow() {
    let (rows, cols) = (16, 4096);
    let numbers = |sign: f32| WeightMatrix::from_f32(&vec![sign; rows * cols], rows, cols);
    for sign in [1.0, -1.0] {
        let w = pack(&scalar(), &numbers(sign));
        assert_eq!(packed(&w, 3, 77).1, (127.0 * sign) as i8);
        for tokens in [1, 5] {
            let x = vec![-3.0; tokens * cols];
            let x = quantise(&scalar(), MatRef::new(&x, tokens, cols));
            for isa in Isa::available() {
                let got = run(isa, &x, &w, 0..rows);
                let want = -3.0 * sign * cols as f32;
                assert!(got.iter().all(|y| (y / want - 1.0).abs() < 1e-5), "{}: {got:?}", isa.name());
            }
        }
    }
}

#[test]
fn every_instruction_set_packs_the_same_panels() {
    for stored in [Stored::F32, Stored::Bf16, Stored::Fp8, Stored::Fp8WithF32Scales] {
        for (rows, cols) in [(1, 1), (17, 128), (130, 300)] {
            let w = stored.draw(rows, cols, 3);
            let mut want = Vec::new();
            pack_strips(Isa::Scalar, &w, 0..rows, &mut want);
            for isa in Isa::available() {
                let mut got = Vec::new();
                pack_strips(isa, &w, 0..rows, &mut got);
                let equal = |(a, b): (&cuvier_tensor::Int8Panel, &cuvier_tensor::Int8Panel)| {
                    a.codes == b.codes && a.units.map(f32::to_bits) == b.units.map(f32::to_bits)
                };
                assert!(
                    got.len() == want.len() && got.iter().zip(&want).all(equal),
                    "{stored:?} {}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn packed_fp8_is_within_half_a_unit_of_the_stored_number_and_the_unit_follows_the_rule() {
    let (rows, cols) = (130, 300);
    let w = Stored::Fp8.draw(rows, cols, 9);
    let WeightFormat::Fp8 { weight, scale } = w.format() else { panic!("FP8") };
    let int8 = pack(&scalar(), &w);
    for row in 0..rows {
        for col in 0..cols {
            let block = col / 128 * 128..cols.min(col / 128 * 128 + 128);
            let codes = block.map(|c| e4m3_to_f32(weight.bytes()[row * cols + c]).abs());
            let amax = codes.fold(0.0, f32::max);
            let scale = e8m0_to_f32(scale.bytes()[row / 128 * 3 + col / 128]);
            let (number, _, unit) = packed(&int8, row, col);
            assert_eq!(unit, 2f32.powi(amax.log2().floor() as i32 - 6) * scale, "row {row}, column {col}");
            let exact = f64::from(e4m3_to_f32(weight.bytes()[row * cols + col])) * f64::from(scale);
            assert!((number - exact).abs() <= f64::from(unit) / 2.0, "{number} for {exact}, unit {unit}");
        }
    }
}

#[test]
fn packed_bf16_is_within_half_a_unit_and_what_is_not_finite_is_not_hidden() {
    let (rows, cols) = (18, 140);
    let numbers = uniform(rows * cols, 4);
    let stored = |numbers: &[f32]| {
        let bytes = numbers.iter().flat_map(|&x| f32_to_bf16(x).to_le_bytes()).collect();
        let tensor = Tensor::from_bytes(bytes, Dtype::BF16, vec![rows, cols]).expect("the shape fits");
        pack(&scalar(), &WeightMatrix::new(WeightFormat::Bf16(tensor)).expect("a matrix"))
    };
    let w = stored(&numbers);
    for (i, &x) in numbers.iter().enumerate() {
        let (number, _, unit) = packed(&w, i / cols, i % cols);
        let off = (number - f64::from(bf16_to_f32(f32_to_bf16(x)))).abs();
        assert!(off <= 0.5001 * f64::from(unit), "{number} for {x}, unit {unit}");
    }
    for bad in [f32::INFINITY, f32::NAN] {
        let mut numbers = numbers.clone();
        numbers[cols + 3] = bad;
        let w = stored(&numbers);
        assert!(
            packed(&w, 1, 100).2.is_nan() && !packed(&w, 1, 130).2.is_nan() && !packed(&w, 2, 3).2.is_nan()
        );
    }
}
