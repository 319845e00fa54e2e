//! What storing means, by search instead of by bits.

use cuvier_tensor::formats::{e2m1_to_f32, e4m3_to_f32};

/// The exponent of the least power of two that is not below `max(amax, floor) / largest`, where the quotient is the
/// f32 product `amax * (1 / largest)`, as the official kernels take it.
pub(super) fn scale_exponent(block: &[f32], largest: f32, floor: f32) -> i32 {
    let amax = block.iter().map(|x| x.abs()).fold(floor, f32::max);
    let quotient = f64::from(amax * (1.0 / largest));
    (-126..=127).find(|&e| 2f64.powi(e) >= quotient).expect("f32 ends at 2^128")
}

/// The code of the value nearest to `x / 2^exponent`; of two equally near the even code. The sign is `x`'s.
pub(super) fn nearest_code(x: f32, exponent: i32, codes: u8, value: impl Fn(u8) -> f32, sign: u8) -> u8 {
    let wanted = f64::from(x.abs()) / 2f64.powi(exponent);
    let distance = |code: u8| (f64::from(value(code)) - wanted).abs();
    let nearest = (0..codes).map(distance).fold(f64::MAX, f64::min);
    let mut ties = (0..codes).filter(|&code| distance(code) == nearest);
    let first = ties.next().expect("there are codes");
    let code = if first % 2 == 0 { first } else { ties.next().unwrap_or(first) };
    if x.is_sign_negative() { code | sign } else { code }
}

/// The scale's exponent and the codes of a block of E4M3.
pub(super) fn e4m3_block(block: &[f32]) -> (i32, Vec<u8>) {
    let exponent = scale_exponent(block, 448.0, 1e-4);
    (exponent, block.iter().map(|&x| nearest_code(x, exponent, 0x7F, e4m3_to_f32, 0x80)).collect())
}

/// The scale's exponent and the codes of a block of E2M1.
pub(super) fn e2m1_block(block: &[f32]) -> (i32, Vec<u8>) {
    let exponent = scale_exponent(block, 6.0, 6.0 * 2f32.powi(-126));
    (exponent, block.iter().map(|&x| nearest_code(x, exponent, 8, e2m1_to_f32, 8)).collect())
}
