use cuvier_tensor::{Dtype, Matrix, Tensor, WeightFormat};

use super::*;
use crate::gemm::reference::weight;
use crate::gemm::tests::Stored;
use crate::testing::{awkward_lengths, everywhere, scalar};

fn run(c: &Compute, ids: &[u32], table: &WeightMatrix) -> Vec<f32> {
    let mut out = Matrix::from_vec(vec![f32::NAN; ids.len() * table.cols()], table.cols());
    embed(c, ids, table, out.view_mut());
    out.into_vec()
}

#[track_caller]
fn assert_decodes(table: &WeightMatrix, ids: &[u32]) {
    let got = everywhere(|c| run(c, ids, table));
    for (got, &id) in got.chunks_exact(table.cols()).zip(ids) {
        for (col, got) in got.iter().enumerate() {
            let want = weight(table, id as usize, col);
            assert_eq!(got.to_bits(), want.to_bits(), "row {id}, column {col}: {got:e}, not {want:e}");
        }
    }
}

#[test]
fn rows_come_decoded_in_the_order_of_the_ids() {
    for stored in Stored::ALL {
        for cols in awkward_lengths().chain([32 * 5]).filter(|cols| stored != Stored::Fp4 || cols % 32 == 0) {
            assert_decodes(&stored.draw(131, cols, 3), &[130, 0, 7, 7, 129]);
        }
    }
    assert_decodes(&Stored::Bf16.draw(64, 512, 4), &(0..300).map(|t| t * 37 % 64).collect::<Vec<u32>>());
}

#[test]
fn every_e4m3_byte_with_every_scale_decodes_to_its_number() {
    let codes: Vec<u8> = (0..=255u8).map(|b| if b & 0x7F == 0x7F { 0 } else { b }).collect();
    for scale in 0..=246 {
        let table = WeightMatrix::new(WeightFormat::Fp8 {
            weight: Tensor::from_bytes(codes.clone(), Dtype::F8E4M3, vec![1, 256]).expect("fits"),
            scale: Tensor::from_bytes(vec![scale; 2], Dtype::F8E8M0, vec![1, 2]).expect("fits"),
        });
        assert_decodes(&table.expect("the parts fit"), &[0]);
    }
}

#[test]
fn greater_e4m3_scales_keep_zeros_and_signs() {
    for scale in 247..=254 {
        let table = WeightMatrix::new(WeightFormat::Fp8 {
            weight: Tensor::from_bytes(vec![0, 0x80, 0x38, 0xB8], Dtype::F8E4M3, vec![1, 4]).expect("fits"),
            scale: Tensor::from_bytes(vec![scale], Dtype::F8E8M0, vec![1, 1]).expect("fits"),
        });
        let got = everywhere(|c| run(c, &[0], &table.clone().expect("the parts fit")));
        let bits: Vec<u32> = got.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [0.0, -0.0, 2f32.powi(119), -2f32.powi(119)].map(f32::to_bits));
    }
}

#[test]
fn every_e2m1_code_with_every_scale_decodes_to_its_number() {
    let codes: Vec<u8> = (0..=255).collect();
    let table = WeightMatrix::new(WeightFormat::Fp4 {
        weight: Tensor::from_bytes(codes.repeat(255), Dtype::I8, vec![255, 256]).expect("fits"),
        scale: Tensor::from_bytes(
            (0..255u8).flat_map(|scale| [scale; 16]).collect(),
            Dtype::F8E8M0,
            vec![255, 16],
        )
        .expect("fits"),
    });
    assert_decodes(&table.expect("the parts fit"), &(0..255).collect::<Vec<u32>>());
}

#[test]
fn every_bf16_pattern_decodes_to_its_number() {
    let bytes = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let table = WeightMatrix::new(WeightFormat::Bf16(
        Tensor::from_bytes(bytes, Dtype::BF16, vec![256, 256]).expect("fits"),
    ));
    assert_decodes(&table.expect("the parts fit"), &(0..256).collect::<Vec<u32>>());
}

#[test]
#[should_panic(expected = "id 3 of a table of 3 rows")]
fn an_id_beyond_the_table_is_refused() {
    run(&scalar(), &[1, 3], &WeightMatrix::from_f32(&[0.0; 6], 3, 2));
}
