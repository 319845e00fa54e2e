use cuvier_tensor::Matrix;
use cuvier_tensor::formats::{bf16_to_f32, f32_to_bf16};

use super::*;
use crate::isa::Vectorized;
use crate::simd::Simd;
use crate::testing::{Fixture, everywhere, scalar, uniform};
use crate::{Compute, Isa};

const SHAPES: [(usize, usize); 7] = [(24, 8), (31, 7), (32, 8), (36, 12), (40, 8), (200, 16), (512, 64)];

/// Encodes every row of `x`, everywhere.
fn entries(codec: EntryCodec, x: &Matrix) -> Matrix<u8> {
    let run = |c: &Compute| {
        let mut out = Matrix::from_vec(vec![0xA5; x.rows() * codec.row_bytes()], codec.row_bytes());
        encode_entries(c, &codec, x.view(), out.view_mut());
        out.into_vec().into_iter().map(f32::from).collect()
    };
    Matrix::from_vec(everywhere(run).into_iter().map(|x| x as u8).collect(), codec.row_bytes())
}

/// Encodes every row of `x`, everywhere.
fn index_keys(codec: IndexKeyCodec, x: &Matrix) -> Matrix<u8> {
    let run = |c: &Compute| {
        let mut out = Matrix::from_vec(vec![0xA5; x.rows() * codec.row_bytes()], codec.row_bytes());
        encode_index_keys(c, &codec, x.view(), out.view_mut());
        out.into_vec().into_iter().map(f32::from).collect()
    };
    Matrix::from_vec(everywhere(run).into_iter().map(|x| x as u8).collect(), codec.row_bytes())
}

fn quantised(x: &Matrix) -> Vec<f32> {
    everywhere(|c| {
        let mut x = x.clone();
        quantise_index_queries(c, x.view_mut());
        x.into_vec()
    })
}

/// Rows of very different sizes, with zeros of both signs and powers of two among them.
fn awkward(rows: usize, cols: usize) -> Matrix {
    let mut x = uniform(rows * cols, 11);
    for (i, x) in x.iter_mut().enumerate() {
        *x *= 2f32.powi((i / cols % 40) as i32 - 25);
        match i % 13 {
            0 => *x = 0.0,
            1 => *x = -0.0,
            2 => *x = 2f32.powi((i % 29) as i32 - 20),
            _ => {}
        }
    }
    Matrix::from_vec(x, cols)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn an_entry_lies_in_its_row_as_documented() {
    for (head_dim, rope_dim) in SHAPES {
        let codec = EntryCodec { format: KvFormat::Fp8, head_dim, rope_dim };
        let x = awkward(41, head_dim);
        let rows = entries(codec, &x);
        for (x, row) in x.view().iter().zip(rows.view().iter()) {
            let (nope, rope) = x.split_at(head_dim - rope_dim);
            let (exponents, codes): (Vec<i32>, Vec<Vec<u8>>) =
                nope.chunks(64).map(reference::e4m3_block).unzip();
            let mut want = codes.concat();
            want.extend(rope.iter().flat_map(|&x| f32_to_bf16(x).to_le_bytes()));
            want.extend(exponents.iter().map(|&e| (e + 127) as u8));
            want.resize(codec.row_bytes(), 0);
            assert_eq!(row, want, "{head_dim} and {rope_dim}");
        }
    }
    assert_eq!(EntryCodec { format: KvFormat::Fp8, head_dim: 512, rope_dim: 64 }.row_bytes(), 584);
}

#[test]
fn an_index_key_lies_in_its_row_as_documented() {
    for dim in [8, 16, 31, 32, 40, 128] {
        let codec = IndexKeyCodec { format: KvFormat::Fp8, dim };
        let x = awkward(41, dim);
        let rows = index_keys(codec, &x);
        for (x, row) in x.view().iter().zip(rows.view().iter()) {
            let (exponents, codes): (Vec<i32>, Vec<Vec<u8>>) =
                x.chunks(32).map(reference::e2m1_block).unzip();
            let nibbles = codes.concat();
            let mut want: Vec<u8> =
                nibbles.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)).collect();
            want.extend(exponents.iter().map(|&e| (e + 127) as u8));
            assert_eq!(row, want, "{dim}");
        }
    }
    assert_eq!(IndexKeyCodec { format: KvFormat::Fp8, dim: 128 }.row_bytes(), 68);
}

#[test]
fn e4m3_blocks_are_those_of_the_recorded_truth() {
    let truth = Fixture::read("e4m3_blocks");
    let codec = EntryCodec { format: KvFormat::Fp8, head_dim: 64, rope_dim: 0 };
    let rows = entries(codec, &truth.matrix("input"));
    let output = truth.matrix("output");
    for (i, row) in rows.view().iter().enumerate() {
        assert_eq!(row[..64], truth.bytes("codes", "U8")[64 * i..][..64], "block {i}");
        assert_eq!(row[64], truth.bytes("scales", "U8")[i], "block {i}");
        let mut decoded = [0.0; 64];
        codec.decode_row(row, &mut decoded);
        assert_eq!(bits(&decoded), bits(output.row(i)), "block {i}");
    }
}

#[test]
fn e2m1_blocks_are_those_of_the_recorded_truth() {
    let truth = Fixture::read("e2m1_blocks");
    let codec = IndexKeyCodec { format: KvFormat::Fp8, dim: 32 };
    let input = truth.matrix("input");
    let rows = index_keys(codec, &input);
    for (i, row) in rows.view().iter().enumerate() {
        let codes: Vec<u8> = row[..16].iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
        assert_eq!(codes, truth.bytes("codes", "U8")[32 * i..][..32], "block {i}");
        assert_eq!(row[16], truth.bytes("scales", "U8")[i], "block {i}");
    }
    assert_eq!(bits(&quantised(&input)), bits(&truth.f32("output")));
}

#[test]
fn a_power_of_two_is_stored_exactly_and_its_neighbours_in_size_choose_the_scale() {
    let codec = EntryCodec { format: KvFormat::Fp8, head_dim: 64, rope_dim: 0 };
    let above = f32::from_bits(448f32.to_bits() + 1);
    for (amax, scale, code) in
        [(448.0, 127, 0x7E), (above, 128, 0x76), (256.0, 127, 0x78), (224.0, 126, 0x7E)]
    {
        let mut x = vec![0.0; 64];
        x[5] = -amax;
        let rows = entries(codec, &Matrix::from_vec(x, 64));
        assert_eq!((rows.row(0)[64], rows.row(0)[5]), (scale, 0x80 | code), "{amax}");
    }
}

#[test]
fn zeros_keep_their_sign_and_take_the_floor_for_scale() {
    let x = Matrix::from_vec([0.0, -0.0].repeat(32), 64);
    let row = entries(EntryCodec { format: KvFormat::Fp8, head_dim: 64, rope_dim: 0 }, &x);
    assert_eq!(row.row(0)[..2], [0, 0x80]);
    // 1e-4 / 448 lies between 2^-23 and 2^-22.
    assert_eq!(row.row(0)[64], 127 - 22);
    let key = index_keys(IndexKeyCodec { format: KvFormat::Fp8, dim: 64 }, &x);
    assert_eq!(key.row(0)[0], 0x80);
    assert_eq!(key.row(0)[32..], [1, 1]);
    assert_eq!(bits(&quantised(&x)), bits(x.data()));
}

#[test]
fn what_is_no_number_does_not_become_one() {
    let codec = EntryCodec { format: KvFormat::Fp8, head_dim: 160, rope_dim: 32 };
    let mut x = uniform(160, 5);
    (x[3], x[70], x[130], x[131]) = (f32::NAN, f32::NEG_INFINITY, f32::NAN, f32::INFINITY);
    let mut decoded = [0.0; 160];
    codec.decode_row(entries(codec, &Matrix::from_vec(x.clone(), 160)).row(0), &mut decoded);
    assert!(decoded[..64].iter().all(|x| x.is_nan()), "NaN marks its block");
    assert!(decoded[64..128].iter().all(|x| !x.is_nan()));
    assert_eq!(decoded[70], f32::NEG_INFINITY);
    assert!(decoded[130].is_nan() && decoded[131] == f32::INFINITY);

    let codec = IndexKeyCodec { format: KvFormat::Fp8, dim: 160 };
    codec.decode_row(index_keys(codec, &Matrix::from_vec(x.clone(), 160)).row(0), &mut decoded);
    assert!(decoded[..32].iter().all(|x| x.is_nan()));
    assert!(decoded[32..128].iter().all(|x| !x.is_nan()));
    let mut queries = Matrix::from_vec(x, 160);
    quantise_index_queries(&scalar(), queries.view_mut());
    assert!(queries.row(0)[..32].iter().all(|x| x.is_nan()));
    assert!(queries.row(0)[32..128].iter().all(|x| !x.is_nan()));
}

#[test]
fn f32_rows_come_back_bit_for_bit() {
    let x = awkward(5, 40);
    let rows = entries(EntryCodec { format: KvFormat::F32, head_dim: 40, rope_dim: 8 }, &x);
    let keys = index_keys(IndexKeyCodec { format: KvFormat::F32, dim: 40 }, &x);
    for i in 0..5 {
        let mut decoded = [0.0; 40];
        EntryCodec { format: KvFormat::F32, head_dim: 40, rope_dim: 8 }.decode_row(rows.row(i), &mut decoded);
        assert_eq!(bits(&decoded), bits(x.row(i)));
        IndexKeyCodec { format: KvFormat::F32, dim: 40 }.decode_row(keys.row(i), &mut decoded);
        assert_eq!(bits(&decoded), bits(x.row(i)));
    }
}

struct Decode<'a>(EntryCodec, &'a [u8]);

impl Vectorized for Decode<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.0.head_dim];
        self.0.decode(s, self.1, &mut out);
        out
    }
}

#[test]
fn a_row_decodes_to_code_times_scale_on_every_instruction_set() {
    for (head_dim, rope_dim) in SHAPES {
        let codec = EntryCodec { format: KvFormat::Fp8, head_dim, rope_dim };
        let x = awkward(41, head_dim);
        let rows = entries(codec, &x);
        for (x, row) in x.view().iter().zip(rows.view().iter()) {
            let (nope, rope) = x.split_at(head_dim - rope_dim);
            let mut want = Vec::new();
            for block in nope.chunks(64) {
                let (exponent, codes) = reference::e4m3_block(block);
                let value = |code| cuvier_tensor::formats::e4m3_to_f32(code) * 2f32.powi(exponent);
                want.extend(codes.into_iter().map(value));
            }
            want.extend(rope.iter().map(|&x| bf16_to_f32(f32_to_bf16(x))));
            for isa in Isa::available() {
                assert_eq!(bits(&isa.dispatch(Decode(codec, row))), bits(&want), "{isa:?}");
            }
        }
    }
}

#[test]
fn rounded_index_queries_are_what_stored_keys_decode_to() {
    let x = awkward(41, 128);
    let codec = IndexKeyCodec { format: KvFormat::Fp8, dim: 128 };
    let rows = index_keys(codec, &x);
    let mut want = Matrix::zeros(41, 128);
    for i in 0..41 {
        codec.decode_row(rows.row(i), want.row_mut(i));
    }
    assert_eq!(bits(&quantised(&x)), bits(want.data()));
}

#[test]
fn rounding_errs_up_as_often_as_down() {
    let x = Matrix::from_vec(uniform(128 * 512, 9), 128);
    let rounded = quantised(&x);
    let up = rounded.iter().zip(x.data()).filter(|(rounded, x)| rounded > x).count() as f64;
    let down = rounded.iter().zip(x.data()).filter(|(rounded, x)| rounded < x).count() as f64;
    // Five standard deviations of fair coins.
    assert!((up - down).abs() < 5.0 * (up + down).sqrt(), "{up} up, {down} down");
}
