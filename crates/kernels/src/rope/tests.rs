use super::*;
use crate::rms_norm_in_place;
use crate::testing::{
    Fixture, U, assert_gradient, assert_within, differences, drawn, everywhere, scalar, uniform,
};

/// The table of layers with compression.
fn compress_table(dim: usize) -> RopeTable {
    RopeTable::yarn(160_000.0, dim, 16.0, 65_536, 32.0, 1.0)
}

#[test]
fn frequencies_are_the_check_values() {
    let plain = RopeTable::plain(10_000.0, 64);
    let compress = compress_table(64);
    for (table, i, want) in [
        (&plain, 0, 1.0),
        (&plain, 1, 0.749_894_2),
        (&plain, 16, 0.01),
        (&plain, 31, 1.333_521_5e-4),
        (&compress, 0, 1.0),
        (&compress, 1, 0.687_656_04),
        (&compress, 15, 3.635_538_5e-3),
        (&compress, 16, 2.265_625e-3),
        (&compress, 20, 2.969_777_9e-4),
        (&compress, 25, 5.372_312_4e-6),
        (&compress, 31, 5.680_529_4e-7),
    ] {
        assert_eq!(table.freqs()[i], want, "pair {i}");
    }
}

#[test]
fn tables_are_bit_for_bit_the_recorded_ones() {
    let fixture = Fixture::read("rope");
    assert_eq!(RopeTable::plain(10_000.0, 64).freqs(), fixture.f32("plain.frequencies"));
    assert_eq!(compress_table(64).freqs(), fixture.f32("compress.frequencies"));
    for dim in [8, 16, 32] {
        let recorded = |table: &str| fixture.f32(&format!("{table}.frequencies_{dim}"));
        assert_eq!(RopeTable::plain(10_000.0, dim).freqs(), recorded("plain"), "{dim}");
        assert_eq!(compress_table(dim).freqs(), recorded("compress"), "{dim}");
    }
}

#[test]
fn angles_are_bit_for_bit_the_recorded_ones_up_to_a_million() {
    let fixture = Fixture::read("rope");
    let positions: Vec<u32> = fixture.i32("positions").into_iter().map(i32::cast_unsigned).collect();
    assert!(positions.contains(&1_048_575));
    for (name, table) in [("plain", RopeTable::plain(10_000.0, 64)), ("compress", compress_table(64))] {
        let angles = table.angles(&scalar(), &positions);
        assert_eq!(angles.cos(), &fixture.matrix(&format!("{name}.cos")), "{name}");
        assert_eq!(angles.sin(), &fixture.matrix(&format!("{name}.sin")), "{name}");
    }
}

#[test]
fn the_angle_is_the_rounded_product_not_the_exact_one() {
    let table = compress_table(64);
    let (position, freq) = (1_048_575u32, table.freqs()[1]);
    let cos = table.angles(&scalar(), &[position]).cos().row(0)[1];
    assert_eq!(cos, f64::from(position as f32 * freq).cos() as f32);
    assert!((f64::from(cos) - (f64::from(position) * f64::from(freq)).cos()).abs() > 1e-5, "{cos}");
}

#[test]
fn a_ramp_of_no_width_is_a_step() {
    // With so short an original context every pair turns less than once: all are slowed down.
    let table = RopeTable::yarn(10_000.0, 8, 4.0, 1, 32.0, 1.0);
    let plain = RopeTable::plain(10_000.0, 8);
    assert_eq!(table.freqs()[1..], plain.freqs()[1..].iter().map(|f| f / 4.0).collect::<Vec<_>>());
}

fn run(c: &Compute, x: &Matrix, heads: usize, angles: &RopeAngles, direction: Rotation) -> Vec<f32> {
    let mut x = x.clone();
    rope(c, x.view_mut(), heads, angles, direction);
    x.into_vec()
}

/// Each of two products rounds its cosine or sine and itself, and the sum rounds once more; one more for
/// second-order terms.
fn bound(pair: [f32; 2]) -> f64 {
    4.0 * U * (f64::from(pair[0].abs()) + f64::from(pair[1].abs()))
}

#[test]
fn rotation_stays_within_the_bound_for_all_widths_and_leaves_the_front_alone() {
    let positions = [0, 1, 77, 65_535, 1_048_575];
    for rope_dim in [2, 4, 6, 30, 32, 34, 64] {
        let table = compress_table(rope_dim);
        let angles = table.angles(&scalar(), &positions);
        for (heads, front) in [(1, 0), (3, 0), (1, 5), (3, 448)] {
            let cols = front + rope_dim;
            let x = Matrix::from_vec(uniform(positions.len() * heads * cols, 5), cols);
            for (direction, sign) in [(Rotation::Forward, 1.0), (Rotation::Inverse, -1.0)] {
                let got = everywhere(|c| run(c, &x, heads, &angles, direction));
                for (row, (x, got)) in x.view().iter().zip(got.chunks_exact(cols)).enumerate() {
                    assert_eq!(x[..front], got[..front]);
                    let position = positions[row / heads] as f32;
                    let turns: Vec<f64> =
                        table.freqs().iter().map(|f| sign * f64::from(position * f)).collect();
                    let exact = reference::rotate(x, &turns).into_iter().skip(front);
                    let pairs = x[front..].as_chunks::<2>().0.iter().flat_map(|&pair| [bound(pair); 2]);
                    assert_within(&got[front..], exact.zip(pairs), "rope");
                }
            }
        }
    }
}

#[test]
fn a_row_normed_and_rotated_at_once_is_one_normed_and_then_rotated() {
    let positions = [3, 1000, 77];
    for (heads, front, rope_dim) in [(1, 0, 2), (3, 5, 30), (4, 448, 64)] {
        let angles = compress_table(rope_dim).angles(&scalar(), &positions);
        let cols = front + rope_dim;
        let x = Matrix::from_vec(uniform(positions.len() * heads * cols, 6), cols);
        let weight = uniform(cols, 7);
        for weight in [None, Some(&weight[..])] {
            let got = everywhere(|c| {
                let mut x = x.clone();
                norm_and_rope(c, x.view_mut(), weight, 1e-6, heads, &angles);
                x.into_vec()
            });
            let mut want = x.clone();
            rms_norm_in_place(&scalar(), want.view_mut(), weight, 1e-6);
            assert_eq!(got, run(&scalar(), &want, heads, &angles, Rotation::Forward));
        }
    }
}

#[test]
fn rotation_is_the_recorded_one() {
    let fixture = Fixture::read("rope");
    let x = fixture.matrix("rotate.input");
    let angles = compress_table(64).angles(&scalar(), &[1000]);
    for (name, direction) in [("rotate.output", Rotation::Forward), ("rotate.back", Rotation::Inverse)] {
        let got = everywhere(|c| run(c, &x, x.rows(), &angles, direction));
        let largest = x.data().iter().fold(0f32, |a, b| a.max(b.abs()));
        let recorded = fixture.f32(name).into_iter().map(|e| (f64::from(e), bound([largest; 2])));
        assert_within(&got, recorded, name);
    }
}

#[test]
fn a_token_alone_is_the_token_in_a_batch() {
    let positions: Vec<u32> = (0..900).map(|i| i * 1000).collect();
    let (heads, cols) = (3, 70);
    let table = compress_table(64);
    let x = Matrix::from_vec(uniform(positions.len() * heads * cols, 9), cols);
    let batch = everywhere(|c| run(c, &x, heads, &table.angles(c, &positions), Rotation::Forward));
    for token in [0, 345, 899] {
        let range = token * heads * cols..(token + 1) * heads * cols;
        let alone = Matrix::from_vec(x.data()[range.clone()].to_vec(), cols);
        let got = run(
            &scalar(),
            &alone,
            heads,
            &table.angles(&scalar(), &positions[token..=token]),
            Rotation::Forward,
        );
        assert_eq!(batch[range], got, "token {token}");
    }
}

#[test]
fn the_gradient_of_either_rotation_is_the_other_one() {
    let (heads, dim, rope_dim, tokens) = (3, 11, 8, 5);
    let angles = compress_table(rope_dim).angles(&scalar(), &[0, 1, 7, 1000, 900_000]);
    let (x, dout) = (drawn(tokens * heads, dim, 1), drawn(tokens * heads, dim, 2));
    for (direction, back, sign) in
        [(Rotation::Forward, Rotation::Inverse, 1.0), (Rotation::Inverse, Rotation::Forward, -1.0)]
    {
        let loss_of_row = |row: usize, x: &[f64]| -> f64 {
            let (mut turned, (cos, sin)) =
                (x.to_vec(), (angles.cos.row(row / heads), angles.sin.row(row / heads)));
            for (pair, (&cos, &sin)) in turned[dim - rope_dim..].chunks_exact_mut(2).zip(cos.iter().zip(sin))
            {
                let (a, b, cos, sin) = (pair[0], pair[1], f64::from(cos), sign * f64::from(sin));
                (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
            }
            turned.iter().zip(dout.row(row)).map(|(x, &d)| x * f64::from(d)).sum()
        };
        let of_row = |row: usize| differences(x.row(row), |x| loss_of_row(row, x));
        let exact: Vec<f64> = (0..tokens * heads).flat_map(of_row).collect();
        let got = everywhere(|c| {
            let mut dx = dout.clone();
            rope(c, dx.view_mut(), heads, &angles, back);
            dx.into_vec()
        });
        assert_gradient(&got, &exact, &format!("{direction:?}"));
    }
}
