//! From stored weights to panels of eight-bit integers.

use cuvier_tensor::formats::{FP8_WEIGHT_BLOCK, e8m0_to_f32};
use cuvier_tensor::{
    Dtype, Int8Panel, PANEL_COLS, PANEL_ROWS, Tensor, WeightFormat, WeightMatrix, panels_of,
    prefer_huge_pages,
};

use super::Range;
use crate::isa::Vectorized;
use crate::quantise::{block as quantise_block, block_codes};
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows, Isa};

/// The weights of `w` as eight-bit integers, for [`gemm`](crate::gemm()).
///
/// | stored as  | unit of a row's 128 columns                         | code                                      |
/// |------------|-----------------------------------------------------|-------------------------------------------|
/// | FP8        | `2^(floor(log2(amax)) - 6)` times the block's scale | `value / unit`, at most 120               |
/// | BF16, F32  | `amax / 127`                                        | `value * (127 / amax)`                    |
///
/// `amax` is the largest magnitude of the row's 128 columns, for FP8 before its scale; codes are rounded to the nearest
/// integer, ties to even. A row's block of zeros has zeros. FP8 codes that are NaN count as ±480; BF16 and F32 blocks
/// that hold an infinity or NaN have codes 0 and the unit NaN, so that no product hides it.
///
/// A weight takes 1 + 1/32 bytes. What that costs in accuracy is in docs/numerics.md.
///
/// # Panics
/// If `w` is FP4, whose products need no such form, or was packed before.
pub fn pack(c: &Compute, w: &WeightMatrix) -> WeightMatrix {
    let panels = w.cols().div_ceil(PANEL_COLS);
    let mut all: Vec<Int8Panel> = Vec::with_capacity(panels_of(w.rows(), w.cols()));
    prefer_huge_pages(all.spare_capacity_mut());
    let strips = all.capacity().checked_div(panels).unwrap_or(0).min(w.rows().div_ceil(PANEL_ROWS));
    {
        let out = DisjointRows::new(&mut all.spare_capacity_mut()[..strips * panels], panels);
        c.for_each_range(strips, 1, |strips| {
            let mut strip = Vec::new();
            for index in strips {
                pack_strips(c.isa(), w, index * PANEL_ROWS..(index + 1) * PANEL_ROWS, &mut strip);
                // SAFETY: a strip lies in one range only.
                let out = unsafe { out.rows(index..index + 1) };
                out.iter_mut().zip(&strip).for_each(|(out, panel)| _ = out.write(*panel));
            }
        });
    }
    // SAFETY: each strip has been written, all of its panels.
    unsafe { all.set_len(strips * panels) };
    WeightMatrix::from_panels(all, w.rows(), w.cols())
}

/// Replaces `out` by the panels of the strips that hold the rows `rows`, strip by strip; `rows` begins with one.
///
/// # Panics
/// As [`pack`].
pub(crate) fn pack_strips(isa: Isa, w: &WeightMatrix, rows: Range<usize>, out: &mut Vec<Int8Panel>) {
    assert!(rows.start.is_multiple_of(PANEL_ROWS), "{rows:?} does not begin with a strip");
    let panels = w.cols().div_ceil(PANEL_COLS);
    out.resize(rows.len().div_ceil(PANEL_ROWS) * panels, Int8Panel::ZERO);
    isa.dispatch(Pack { w, first_row: rows.start, panels, out });
}

struct Pack<'a> {
    w: &'a WeightMatrix,
    first_row: usize,
    panels: usize,
    out: &'a mut [Int8Panel],
}

impl Vectorized for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, first_row, panels, out } = self;
        for (i, panel) in out.iter_mut().enumerate() {
            let (strip, block) = (i / panels, i % panels);
            let columns = block * PANEL_COLS..w.cols().min((block + 1) * PANEL_COLS);
            for r in 0..PANEL_ROWS {
                let row = first_row + strip * PANEL_ROWS + r;
                let mut codes = [0; PANEL_COLS];
                let unit =
                    if row < w.rows() { pack_row(s, w, row, columns.clone(), &mut codes) } else { 0.0 };
                panel.units[r] = unit;
                let (even, odd) = codes.as_chunks::<4>().0.split_at(PANEL_COLS / 8);
                for (quads, (even, odd)) in
                    panel.codes.as_chunks_mut::<8>().0.iter_mut().zip(even.chunks(4).zip(odd.chunks(4)))
                {
                    for j in 0..4 {
                        quads[j][r] = even[j];
                        quads[4 + j][r] = odd[j];
                    }
                }
            }
        }
    }
}

/// Writes the codes of some columns of a row, the even ones first; returns their unit.
#[inline(always)]
fn pack_row<S: Simd>(
    s: S,
    w: &WeightMatrix,
    row: usize,
    columns: Range<usize>,
    codes: &mut [i8; PANEL_COLS],
) -> f32 {
    let at = row * w.cols() + columns.start;
    match w.format() {
        WeightFormat::Fp8 { weight, scale } => {
            let blocks = w.cols().div_ceil(FP8_WEIGHT_BLOCK);
            let place = row / FP8_WEIGHT_BLOCK * blocks + columns.start / FP8_WEIGHT_BLOCK;
            pack_fp8(s, &weight.bytes()[at..][..columns.len()], codes) * scale_at(scale, place)
        }
        WeightFormat::Bf16(weight) => {
            let mut numbers = [0.0; PANEL_COLS];
            let bytes = &weight.bytes()[2 * at..][..2 * columns.len()];
            match bytes.as_array::<{ 2 * PANEL_COLS }>() {
                Some(bytes) => {
                    for (x, out) in bytes.as_chunks().0.iter().zip(numbers.as_chunks_mut::<LANES>().0) {
                        s.store(s.load_bf16(x), out);
                    }
                }
                None => {
                    for (x, out) in bytes.as_chunks().0.iter().zip(&mut numbers) {
                        *out = cuvier_tensor::formats::bf16_to_f32(u16::from_le_bytes(*x));
                    }
                }
            }
            quantise_block(s, &numbers, codes)
        }
        WeightFormat::F32(weight) => {
            let mut numbers = [0.0; PANEL_COLS];
            let bytes = &weight.bytes()[4 * at..][..4 * columns.len()];
            for (x, out) in bytes.as_chunks().0.iter().zip(&mut numbers) {
                *out = f32::from_le_bytes(*x);
            }
            quantise_block(s, &numbers, codes)
        }
        WeightFormat::Fp4 { .. } | WeightFormat::Int8(_) => panic!("weights that need no packing"),
    }
}

/// Writes the codes of up to 128 FP8 numbers, the even columns first; returns their unit.
#[inline(always)]
fn pack_fp8<S: Simd>(s: S, bytes: &[u8], codes: &mut [i8; PANEL_COLS]) -> f32 {
    let mut padded = [0; PANEL_COLS];
    let bytes = match bytes.as_array::<PANEL_COLS>() {
        Some(bytes) => bytes,
        None => {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded
        }
    };
    let zero = s.splat(0.0);
    let mut numbers = [0.0; PANEL_COLS];
    let mut amax = zero;
    for (number, bytes) in numbers.as_chunks_mut::<LANES>().0.iter_mut().zip(bytes.as_chunks().0) {
        let x = s.load_e4m3_over_256(bytes);
        amax = s.max(amax, s.max(x, s.sub(zero, x)));
        s.store(x, number);
    }
    let amax = s.max_lane(amax);
    if amax == 0.0 {
        codes.fill(0);
        return 1.0;
    }
    // The exponent of `amax / 256`, which is a normal f32 even where E4M3 is not.
    let exponent = amax.to_bits() >> 23;
    // 2^6 over the power of two, and the unit, which knows nothing of the division by 256.
    block_codes(s, &numbers, f32::from_bits((2 * 127 + 6 - exponent) << 23), codes);
    f32::from_bits((exponent + 8 - 6) << 23)
}

/// Scale `index` of an FP8 matrix.
#[inline(always)]
fn scale_at(scale: &Tensor, index: usize) -> f32 {
    match scale.dtype() {
        Dtype::F32 => f32::from_le_bytes(scale.bytes().as_chunks().0[index]),
        _ => e8m0_to_f32(scale.bytes()[index]),
    }
}
