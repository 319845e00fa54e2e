//! Rows of stored weights, decoded thirty-two columns at a time.

use std::ops::Range;

use cuvier_tensor::formats::{FP4_BLOCK, FP8_WEIGHT_BLOCK};
use cuvier_tensor::{Dtype, Tensor, WeightFormat, WeightMatrix};

use crate::simd::{LANES, Simd};

/// Columns of a chunk: two vectors, or one FP4 block.
pub(super) const CHUNK: usize = 2 * LANES;

/// One row of a stored format.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a, C, B> {
    /// The bytes of [`CHUNK`] columns each.
    pub chunks: &'a [C],
    /// The columns behind the last whole chunk, followed by zero bytes; a zero byte is the number 0 everywhere.
    pub tail: Option<C>,
    /// What the scales of the row are read from.
    pub scales: B,
}

/// The rows of a weight matrix in one stored format.
pub(crate) trait Rows<'a>: Copy + Send + Sync + 'a {
    /// The bytes of [`CHUNK`] columns.
    type Chunk: Copy;
    /// What the scales of a row are read from.
    type Scales: Copy;
    /// Chunks that share a scale.
    const BLOCK_CHUNKS: usize;
    /// A decoded scale.
    type Block<S: Simd>: Copy;

    /// Row `row`.
    fn row(self, row: usize) -> Row<'a, Self::Chunk, Self::Scales>;
    /// The scale of block `block`.
    fn block<S: Simd>(s: S, scales: Self::Scales, block: usize) -> Self::Block<S>;
    /// The weights of a chunk, each the product of code and scale, rounded once.
    fn decode<S: Simd>(s: S, chunk: &Self::Chunk, block: Self::Block<S>) -> [S::V; 2];
}

/// Something to do with the rows of a weight matrix, whatever their format.
pub(crate) trait ForRows {
    /// What it returns.
    type Output;
    /// Does it with `rows`.
    fn run<'a, W: Rows<'a>>(self, rows: W) -> Self::Output;
}

/// Runs `work` on the rows of `w`.
///
/// # Panics
/// If `w` is packed.
pub(crate) fn for_rows<F: ForRows>(w: &WeightMatrix, work: F) -> F::Output {
    let cols = w.cols();
    match w.format() {
        WeightFormat::F32(weight) => work.run(F32Rows { bytes: weight.bytes(), cols }),
        WeightFormat::Bf16(weight) => work.run(Bf16Rows { bytes: weight.bytes(), cols }),
        WeightFormat::Fp8 { weight, scale } => {
            work.run(Fp8Rows { bytes: weight.bytes(), scales: Fp8Scales::new(scale), cols })
        }
        WeightFormat::Fp4 { weight, scale } => {
            work.run(Fp4Rows { bytes: weight.bytes(), scales: scale.bytes(), cols })
        }
        WeightFormat::Int8(_) => panic!("packed weights have no rows"),
    }
}

/// Hands out the weights of one row in vectors, in order, from chunk `start` on, `chunks` chunks, the last one
/// padded with zeros.
///
/// # Panics
/// If the row has fewer chunks.
#[inline(always)]
pub(super) fn decode_chunks<'a, S: Simd, W: Rows<'a>>(
    s: S,
    row: &Row<'a, W::Chunk, W::Scales>,
    chunks: Range<usize>,
    mut out: impl FnMut(usize, S::V),
) {
    let mut block = W::block(s, row.scales, chunks.start / W::BLOCK_CHUNKS);
    for (n, i) in chunks.enumerate() {
        if i.is_multiple_of(W::BLOCK_CHUNKS) {
            block = W::block(s, row.scales, i / W::BLOCK_CHUNKS);
        }
        let chunk = row.chunks.get(i).or(row.tail.as_ref()).expect("a chunk of the row");
        let [a, b] = W::decode(s, chunk, block);
        out(2 * n, a);
        out(2 * n + 1, b);
    }
}

/// Row `row` of a row-major matrix of `bytes_per_row`, in chunks of `N` bytes.
#[inline(always)]
fn split<const N: usize>(bytes: &[u8], row: usize, bytes_per_row: usize) -> (&[[u8; N]], Option<[u8; N]>) {
    let (chunks, rest) = bytes[row * bytes_per_row..][..bytes_per_row].as_chunks::<N>();
    let mut tail = [0; N];
    tail[..rest.len()].copy_from_slice(rest);
    (chunks, (!rest.is_empty()).then_some(tail))
}

#[derive(Clone, Copy)]
struct F32Rows<'a> {
    bytes: &'a [u8],
    cols: usize,
}

impl<'a> Rows<'a> for F32Rows<'a> {
    type Chunk = [u8; 128];
    type Scales = ();
    const BLOCK_CHUNKS: usize = 4;
    type Block<S: Simd> = ();

    #[inline(always)]
    fn row(self, row: usize) -> Row<'a, Self::Chunk, ()> {
        let (chunks, tail) = split(self.bytes, row, self.cols * 4);
        Row { chunks, tail, scales: () }
    }
    #[inline(always)]
    fn block<S: Simd>(_: S, _: (), _: usize) {}
    #[inline(always)]
    fn decode<S: Simd>(s: S, chunk: &Self::Chunk, (): ()) -> [S::V; 2] {
        let mut lanes = [[0.0; LANES]; 2];
        for (lane, &bytes) in lanes.as_flattened_mut().iter_mut().zip(chunk.as_chunks::<4>().0) {
            *lane = f32::from_le_bytes(bytes);
        }
        [s.load(&lanes[0]), s.load(&lanes[1])]
    }
}

#[derive(Clone, Copy)]
struct Bf16Rows<'a> {
    bytes: &'a [u8],
    cols: usize,
}

impl<'a> Rows<'a> for Bf16Rows<'a> {
    type Chunk = [u8; 64];
    type Scales = ();
    const BLOCK_CHUNKS: usize = 4;
    type Block<S: Simd> = ();

    #[inline(always)]
    fn row(self, row: usize) -> Row<'a, Self::Chunk, ()> {
        let (chunks, tail) = split(self.bytes, row, self.cols * 2);
        Row { chunks, tail, scales: () }
    }
    #[inline(always)]
    fn block<S: Simd>(_: S, _: (), _: usize) {}
    #[inline(always)]
    fn decode<S: Simd>(s: S, chunk: &Self::Chunk, (): ()) -> [S::V; 2] {
        let (halves, _) = chunk.as_chunks();
        [s.load_bf16(&halves[0]), s.load_bf16(&halves[1])]
    }
}

#[derive(Clone, Copy)]
struct Fp8Rows<'a> {
    bytes: &'a [u8],
    scales: Fp8Scales<'a>,
    cols: usize,
}

/// The scales of 128x128 blocks: all of a matrix, or those of one row.
#[derive(Clone, Copy)]
pub(crate) enum Fp8Scales<'a> {
    E8m0(&'a [u8]),
    F32(&'a [[u8; 4]]),
}

impl<'a> Fp8Scales<'a> {
    fn new(scale: &'a Tensor) -> Self {
        match scale.dtype() {
            Dtype::F32 => Self::F32(scale.bytes().as_chunks::<4>().0),
            _ => Self::E8m0(scale.bytes()),
        }
    }

    #[inline(always)]
    fn row(self, row: usize, cols: usize) -> Self {
        let blocks = cols.div_ceil(FP8_WEIGHT_BLOCK);
        let start = row / FP8_WEIGHT_BLOCK * blocks;
        match self {
            Self::E8m0(scales) => Self::E8m0(&scales[start..][..blocks]),
            Self::F32(scales) => Self::F32(&scales[start..][..blocks]),
        }
    }
}

impl<'a> Rows<'a> for Fp8Rows<'a> {
    type Chunk = [u8; 32];
    type Scales = Fp8Scales<'a>;
    const BLOCK_CHUNKS: usize = FP8_WEIGHT_BLOCK / CHUNK;
    type Block<S: Simd> = S::V;

    #[inline(always)]
    fn row(self, row: usize) -> Row<'a, Self::Chunk, Fp8Scales<'a>> {
        let (chunks, tail) = split(self.bytes, row, self.cols);
        Row { chunks, tail, scales: self.scales.row(row, self.cols) }
    }
    #[inline(always)]
    fn block<S: Simd>(s: S, scales: Fp8Scales<'a>, block: usize) -> S::V {
        let scale = match scales {
            Fp8Scales::E8m0(scales) => E8M0[usize::from(scales[block])],
            Fp8Scales::F32(scales) => f32::from_le_bytes(scales[block]),
        };
        // A greater scale must not become infinite here, or zeros would no longer be zeros; NaN passes.
        let scale = if scale > FP8_SCALE_MAX { FP8_SCALE_MAX } else { scale };
        s.splat(scale * 256.0)
    }
    #[inline(always)]
    fn decode<S: Simd>(s: S, chunk: &Self::Chunk, scale_times_256: S::V) -> [S::V; 2] {
        // code / 256 is exact, so code times scale is rounded once.
        let (halves, _) = chunk.as_chunks();
        [
            s.mul(s.load_e4m3_over_256(&halves[0]), scale_times_256),
            s.mul(s.load_e4m3_over_256(&halves[1]), scale_times_256),
        ]
    }
}

#[derive(Clone, Copy)]
struct Fp4Rows<'a> {
    bytes: &'a [u8],
    scales: &'a [u8],
    cols: usize,
}

impl<'a> Rows<'a> for Fp4Rows<'a> {
    type Chunk = [u8; 16];
    type Scales = &'a [u8];
    const BLOCK_CHUNKS: usize = FP4_BLOCK / CHUNK;
    type Block<S: Simd> = S::V;

    #[inline(always)]
    fn row(self, row: usize) -> Row<'a, Self::Chunk, &'a [u8]> {
        let (chunks, tail) = split(self.bytes, row, self.cols / 2);
        let blocks = self.cols / FP4_BLOCK;
        Row { chunks, tail, scales: &self.scales[row * blocks..][..blocks] }
    }
    #[inline(always)]
    fn block<S: Simd>(s: S, scales: &'a [u8], block: usize) -> S::V {
        s.e2m1_table(E8M0[usize::from(scales[block])])
    }
    #[inline(always)]
    fn decode<S: Simd>(s: S, chunk: &Self::Chunk, table: S::V) -> [S::V; 2] {
        s.load_e2m1_pair(chunk, table)
    }
}

/// The largest scale of FP8 weights that is told from greater ones: 2^119.
const FP8_SCALE_MAX: f32 = f32::from_bits((127 + 119) << 23);

/// What each UE8M0 byte stands for: a load where `e8m0_to_f32` takes branches.
pub(super) static E8M0: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut byte = 1;
    while byte < 255 {
        table[byte] = f32::from_bits((byte as u32) << 23);
        byte += 1;
    }
    table[0] = f32::from_bits(1 << 22);
    table[255] = f32::NAN;
    table
};
