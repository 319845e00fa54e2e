//! Sixteen rows and 128 columns of weights, and their products with blocks of activations.

use super::{BLOCK_BYTES, Block, SCALES};
use crate::simd::{LANES, QuadBytes, Simd};

/// Sixteen rows of FP4 numbers, up to 128 columns of them, in the form of quads.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Panel {
    /// For each scale four quads of even columns and four of odd ones.
    codes: [[QuadBytes; 8]; SCALES],
    /// [`Quads::block_scales`].
    multipliers: [[i32; LANES]; SCALES],
    units: [f32; LANES],
    /// Scales that exist.
    scales: usize,
}

/// What takes the products of a panel.
pub(crate) trait Sink {
    /// Takes the products of token `token` with the sixteen rows of panel `panel`: each is `sum * scale`. `sum` is an
    /// integer rounded to f32. Implementations mark it `#[inline(always)]`.
    fn take<S: Simd>(&mut self, s: S, token: usize, panel: usize, sum: S::V, scale: S::V);
}

impl Panel {
    /// Zeros.
    pub(crate) const ZERO: Self = Self {
        codes: [[[0; 4 * LANES]; 8]; SCALES],
        multipliers: [[0; LANES]; SCALES],
        units: [0.0; LANES],
        scales: 0,
    };

    /// Fills the panel with sixteen rows of at most 128 columns, the first byte of which is the first of `codes`, each
    /// row `stride` bytes behind the other. `scales` are the UE8M0 bytes of each row, `columns / 32` of them and then
    /// zeros.
    ///
    /// # Panics
    /// If `codes` ends before the last row does.
    #[inline(always)]
    pub(crate) fn pack<S: Simd>(
        &mut self,
        s: S,
        codes: &[u8],
        stride: usize,
        scales: &QuadBytes,
        columns: usize,
    ) {
        let (multipliers, units) = s.block_scales(s.load_quad(scales));
        for (out, v) in self.multipliers.iter_mut().zip(multipliers) {
            s.store_int(v, out);
        }
        s.store(units, &mut self.units);
        self.scales = columns / (2 * LANES);
        for (out, block) in self.codes.iter_mut().zip(0..self.scales) {
            let nibbles = s.load_quads(&codes[block * LANES..], stride);
            for i in 0..4 {
                let [even, odd] = s.e2m1_codes(nibbles[i]);
                s.store_quad(even, &mut out[i]);
                s.store_quad(odd, &mut out[4 + i]);
            }
        }
    }

    /// The products of the rows of `P` panels with all blocks of `x`, in tiles that fit the registers.
    #[inline(always)]
    pub(crate) fn multiply_all<S: Simd, const P: usize>(
        panels: &[Self; P],
        s: S,
        x: &[Block],
        sink: &mut impl Sink,
    ) {
        if const { S::ACCUMULATORS < 6 } {
            for (token, x) in x.iter().enumerate() {
                Self::multiply::<S, P, 1>(panels, s, std::array::from_ref(x), token, sink);
            }
            return;
        }
        let tiles = x.len().div_ceil(6);
        let mut first = 0;
        for tile in 0..tiles {
            let tokens = (x.len() - first).div_ceil(tiles - tile);
            let x = &x[first..][..tokens];
            match tokens {
                1 => Self::multiply_some::<S, P, 1>(panels, s, x, first, sink),
                2 => Self::multiply_some::<S, P, 2>(panels, s, x, first, sink),
                3 => Self::multiply_some::<S, P, 3>(panels, s, x, first, sink),
                4 => Self::multiply_some::<S, P, 4>(panels, s, x, first, sink),
                5 => Self::multiply_some::<S, P, 5>(panels, s, x, first, sink),
                6 => Self::multiply_some::<S, P, 6>(panels, s, x, first, sink),
                _ => unreachable!("{tokens} tokens in a tile of at most 6"),
            }
            first += tokens;
        }
    }

    #[inline(always)]
    fn multiply_some<S: Simd, const P: usize, const T: usize>(
        panels: &[Self; P],
        s: S,
        x: &[Block],
        first: usize,
        sink: &mut impl Sink,
    ) {
        Self::multiply::<S, P, T>(panels, s, x.as_array().expect("as many tokens"), first, sink);
    }

    /// The products of the rows of `P` panels with `T` blocks of activations, the first of which is token `first`.
    #[inline(always)]
    pub(crate) fn multiply<S: Simd, const P: usize, const T: usize>(
        panels: &[Self; P],
        s: S,
        x: &[Block; T],
        first: usize,
        sink: &mut impl Sink,
    ) {
        let mut totals = [[s.zero_int(); P]; T];
        for block in 0..panels[0].scales {
            let mut sums = [[s.start(0); P]; T];
            for t in 0..T {
                sums[t] = [s.start(x[t].bias[block]); P];
            }
            for i in 0..8 {
                let mut w = [s.load_quad(&panels[0].codes[block][i]); P];
                for p in 1..P {
                    w[p] = s.load_quad(&panels[p].codes[block][i]);
                }
                for t in 0..T {
                    for p in 0..P {
                        sums[t][p] = s.multiply(sums[t][p], w[p], x[t].codes[block][i]);
                    }
                }
            }
            for p in 0..P {
                let multiplier = s.load_int(&panels[p].multipliers[block]);
                for t in 0..T {
                    totals[t][p] = s.add_scaled(totals[t][p], sums[t][p], multiplier);
                }
            }
        }
        for p in 0..P {
            let units = s.load(&panels[p].units);
            for t in 0..T {
                let scale = s.mul(units, s.splat(x[t].scale));
                sink.take(s, first + t, p, s.int_to_f32(totals[t][p]), scale);
            }
        }
    }
}

/// Sixteen rows of weights.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    pub codes: &'a [u8],
    /// Bytes from the codes of a row to those of the next.
    pub codes_stride: usize,
    pub scales: &'a [u8],
    /// Bytes from the scales of a row to those of the next.
    pub scales_stride: usize,
}

impl<'a> Strip<'a> {
    /// The bytes from block `block` of the first row on.
    #[inline(always)]
    pub(super) fn codes(&self, block: usize) -> &'a [u8] {
        &self.codes[block * BLOCK_BYTES..]
    }

    /// Codes and scales of the last blocks of row `r`: what is left behind whole fours of them.
    #[inline(always)]
    pub(super) fn tail(&self, r: usize) -> (&'a [u8], &'a [u8]) {
        let codes = &self.codes[r * self.codes_stride..][..self.codes_stride];
        let scales = &self.scales[r * self.scales_stride..][..self.scales_stride];
        (codes.as_chunks::<{ 4 * BLOCK_BYTES }>().1, scales.as_chunks::<{ 4 * SCALES }>().1)
    }

    /// Scales that block `block` has.
    #[inline(always)]
    pub(super) fn n_scales(&self, block: usize) -> usize {
        (self.scales_stride - block * SCALES).min(SCALES)
    }

    /// The scales of four blocks from `block` on, zeros where there are none.
    #[inline(always)]
    pub(super) fn scales<S: Simd>(&self, s: S, block: usize) -> [QuadBytes; 4] {
        let mut out = [[0; 4 * LANES]; 4];
        let quads = self.scale_quads(s, block);
        for i in 0..4 {
            s.store_quad(quads[i], &mut out[i]);
        }
        out
    }

    /// As [`Strip::scales`].
    #[inline(always)]
    pub(super) fn scale_quads<S: Simd>(&self, s: S, block: usize) -> [S::Quad; 4] {
        let bytes = &self.scales[block * SCALES..];
        let n = (self.scales_stride - block * SCALES).min(LANES);
        // What comes behind the end of a row is no harm, unless it would belong to a block that has begun.
        if n.is_multiple_of(SCALES) && bytes.len() >= (LANES - 1) * self.scales_stride + LANES {
            return s.load_quads(bytes, self.scales_stride);
        }
        let mut out = [[0; 4 * LANES]; 4];
        for r in 0..LANES {
            for (i, &byte) in bytes[r * self.scales_stride..][..n].iter().enumerate() {
                out[i / SCALES][4 * r + i % SCALES] = byte;
            }
        }
        let mut quads = [s.load_quad(&out[0]); 4];
        for i in 1..4 {
            quads[i] = s.load_quad(&out[i]);
        }
        quads
    }
}
