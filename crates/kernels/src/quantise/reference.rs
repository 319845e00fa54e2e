//! The meaning of [`quantise`](super::quantise()): one block, one number after the other.

/// The codes of a block in the order of its columns, and its scale.
pub(crate) fn block(x: &[f32]) -> (Vec<i8>, f32) {
    let amax = x.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
    if x.iter().any(|x| !x.is_finite()) {
        return (vec![0; x.len()], f32::NAN);
    }
    if amax < 1e-30 {
        return (vec![0; x.len()], 0.0);
    }
    let inverse = 127.0 / amax;
    (x.iter().map(|x| (x * inverse).round_ties_even() as i8).collect(), amax / 127.0)
}
