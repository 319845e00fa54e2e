//! Products of eight-bit codes: sixteen rows of unsigned codes, four columns of each at a time, against one row of
//! signed codes. All sums are exact, so that every instruction set gives the same.

use super::{LANES, Simd};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

/// Four bytes of sixteen rows: byte `4 r + i` is byte `i` of row `r`.
pub type QuadBytes = [u8; 4 * LANES];

/// What [`Quads::e2m1_codes`] adds to two times an E2M1 number.
pub const E2M1_OFFSET: i32 = 12;

/// Two times the E2M1 numbers plus [`E2M1_OFFSET`], by code.
static E2M1_CODES: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// 512 activations of a token, as a row of weights meets them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct FourBlocks {
    /// For each block of 128 columns the codes of the even ones and those of the odd ones.
    pub codes: [[[i8; 4 * LANES]; 2]; 4],
    /// For each scale of a block of weights the [`Quads::bias`] of its columns in every block.
    pub bias: [[i32; 4]; 4],
    /// Of each block.
    pub scales: [f32; 4],
}

impl FourBlocks {
    /// Zeros.
    pub const ZERO: Self = Self { codes: [[[0; 4 * LANES]; 2]; 4], bias: [[0; 4]; 4], scales: [0.0; 4] };
}

/// Operations on quads: four bytes of each of sixteen rows.
pub trait Quads: Copy {
    /// A quad.
    type Quad: Copy;
    /// Running sums of products, one or two for each row.
    type Sum: Copy;
    /// Sixteen i32.
    type Int: Copy;

    /// A quad from memory.
    fn load_quad(self, bytes: &QuadBytes) -> Self::Quad;
    /// A quad to memory.
    fn store_quad(self, quad: Self::Quad, out: &mut QuadBytes);
    /// The first sixteen bytes of sixteen rows, which start `stride` bytes apart, as four quads.
    ///
    /// # Panics
    /// If `bytes` ends before them.
    fn load_quads(self, bytes: &[u8], stride: usize) -> [Self::Quad; 4];
    /// The codes that the low and the high nibbles stand for: two times an E2M1 number plus [`E2M1_OFFSET`].
    fn e2m1_codes(self, nibbles: Self::Quad) -> [Self::Quad; 2];

    /// What [`Quads::start`] takes so that sums over the columns of `x` begin with `-offset * (sum of x)`:
    /// `x` are the signed codes of eight quads of columns, `offset` is at most [`E2M1_OFFSET`].
    fn bias(self, x: &[[i8; 4]; 8], offset: i32) -> i32;
    /// Sums that begin with `bias`.
    fn start(self, bias: i32) -> Self::Sum;
    /// Adds the products of four columns. No overflow, if the codes of `w` less the offset of the bias are at most
    /// [`E2M1_OFFSET`] in magnitude, those of `x` at most 127, and the columns at most the 32 of the bias.
    fn multiply(self, sum: Self::Sum, w: Self::Quad, x: [i8; 4]) -> Self::Sum;
    /// Adds to `total` the sum of each row times its multiplier, as [`Quads::block_scales`] makes them.
    fn add_scaled(self, total: Self::Int, sum: Self::Sum, multiplier: Self::Int) -> Self::Int;

    /// For four blocks of 128 columns of one row of FP4 weights, and for each token, the sum over the block's four
    /// scales of [`Quads::block_scales`]'s multiplier times the sum of two times the weights times the codes of `x`.
    fn four_sums<const T: usize>(
        self,
        codes: &[u8; 16 * LANES],
        scales: &[u8; LANES],
        x: [&FourBlocks; T],
    ) -> [[i32; 4]; T];

    /// The four bytes of each row as a number, the lowest first.
    fn quad_to_int(self, quad: Self::Quad) -> Self::Int;
    /// Sixteen zeros.
    fn zero_int(self) -> Self::Int;
    /// Sixteen i32 from memory.
    fn load_int(self, x: &[i32; LANES]) -> Self::Int;
    /// Sixteen i32 to memory.
    fn store_int(self, v: Self::Int, out: &mut [i32; LANES]);
    /// The nearest f32, ties to even.
    fn int_to_f32(self, v: Self::Int) -> Self::V
    where
        Self: Simd;
    /// What the UE8M0 bytes of sixteen rows come to, four blocks of each: with `e` the largest of a row, the block
    /// with byte `e - d` has the multiplier `2^(13 - d)`, or 0 if `d` is over 13, in a form of the instruction set's
    /// own; and the unit of a row is `2^(e - 141)`, NaN if `e` is 255.
    fn block_scales(self, bytes: Self::Quad) -> ([Self::Int; 4], Self::V)
    where
        Self: Simd;
}
