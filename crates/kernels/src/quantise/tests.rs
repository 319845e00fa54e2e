use super::*;
use crate::testing::{everywhere, scalar, uniform};

/// Codes and scales as numbers, rows one after the other.
fn run(c: &Compute, x: MatRef<'_>) -> Vec<f32> {
    let rows = quantise(c, x);
    let codes = rows.codes.data().iter().map(|&code| f32::from(code));
    codes.chain(rows.scales.data().iter().copied()).collect()
}

#[test]
fn codes_and_scales_are_those_of_the_formula_at_every_length() {
    for cols in [1, 2, 31, 32, 127, 128, 129, 255, 256, 4096 + 5] {
        let mut x = uniform(3 * cols, cols as u64);
        x.iter_mut().take(cols).for_each(|x| *x *= 1e20); // another magnitude for the first row
        let got = everywhere(|c| run(c, MatRef::new(&x, 3, cols)));
        let blocks = cols.div_ceil(ACTIVATION_BLOCK);
        let (codes, scales) = got.split_at(3 * blocks * ACTIVATION_BLOCK);
        for (row, x) in x.chunks(cols).enumerate() {
            for (index, x) in x.chunks(ACTIVATION_BLOCK).enumerate() {
                let (want, scale) = reference::block(x);
                assert_eq!(scales[row * blocks + index].to_bits(), scale.to_bits());
                let codes = &codes[(row * blocks + index) * ACTIVATION_BLOCK..][..ACTIVATION_BLOCK];
                for column in 0..ACTIVATION_BLOCK {
                    let want = want.get(column).copied().unwrap_or(0);
                    let at = column % 2 * (ACTIVATION_BLOCK / 2) + column / 2;
                    assert_eq!(codes[at], f32::from(want), "{cols} columns, row {row}, column {column}");
                }
            }
        }
    }
}

#[test]
fn the_largest_number_of_a_block_has_the_largest_code() {
    for amax in [1e-30, 1.1754944e-38 * 1e9, 0.7, 3.0, 1e38, f32::MAX] {
        let x = [amax, -amax, amax / 2.0, 0.0];
        let rows = quantise(&scalar(), MatRef::new(&x, 1, 4));
        assert_eq!(rows.codes(0)[0][..2], [127, 64], "{amax}");
        assert_eq!(rows.codes(0)[0][64..66], [-127, 0], "{amax}");
    }
}

#[test]
fn a_block_without_numbers_worth_the_name_is_zero_and_a_broken_one_is_not_a_number() {
    let mut x = vec![0.5f32; 4 * ACTIVATION_BLOCK];
    x[..ACTIVATION_BLOCK].fill(9e-31);
    x[ACTIVATION_BLOCK + 7] = f32::NAN;
    x[2 * ACTIVATION_BLOCK + 127] = f32::NEG_INFINITY;
    for isa in crate::Isa::available() {
        let c = Compute::new(isa, std::num::NonZeroUsize::MIN).expect("one thread");
        let rows = quantise(&c, MatRef::new(&x, 1, x.len()));
        assert_eq!(rows.scales(0)[0], 0.0);
        assert!(rows.scales(0)[1].is_nan() && rows.scales(0)[2].is_nan());
        assert_eq!(rows.scales(0)[3], 0.5 / 127.0);
        assert!(rows.codes(0)[..3].as_flattened().iter().all(|&code| code == 0));
    }
}
