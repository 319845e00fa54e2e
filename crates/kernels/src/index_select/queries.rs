//! Index queries as their products with keys read them.

use cuvier_tensor::MatRef;

use crate::fp4::Block;
use crate::isa::Vectorized;
use crate::quantise::{block_amax, block_codes};
use crate::simd::Simd;
use crate::{ACTIVATION_BLOCK, Compute, DisjointRows, KvFormat};

/// The queries of all tokens.
pub(super) enum Queries<'a> {
    /// For keys in f32.
    Exact(MatRef<'a>),
    /// For FP4 keys.
    Codes(CodedQueries),
}

/// Queries in eight bits.
pub(super) struct CodedQueries {
    /// `[tokens, blocks, heads]`.
    blocks: Vec<Block>,
    /// Blocks of a query.
    per_query: usize,
    heads: usize,
}

impl<'a> Queries<'a> {
    /// The rows of `q`, `heads` of them for each token.
    pub(super) fn new(c: &Compute, q: MatRef<'a>, heads: usize, format: KvFormat) -> Self {
        if matches!(format, KvFormat::F32) {
            return Self::Exact(q);
        }
        let per_query = q.cols().div_ceil(ACTIVATION_BLOCK);
        let mut blocks = vec![Block::ZERO; q.rows() * per_query];
        let out = DisjointRows::new(&mut blocks, per_query * heads);
        c.for_each_range(q.rows().checked_div(heads).unwrap_or(0), 16, |tokens| {
            for token in tokens {
                // SAFETY: every token belongs to exactly one range.
                let out = unsafe { out.part(token, 0..per_query * heads) };
                c.isa().dispatch(Encode { q, first: token * heads, heads, out });
            }
        });
        Self::Codes(CodedQueries { blocks, per_query, heads })
    }
}

impl CodedQueries {
    /// Blocks of a query.
    pub(super) fn per_query(&self) -> usize {
        self.per_query
    }

    /// Block `block` of the queries of `token`.
    #[inline(always)]
    pub(super) fn of(&self, token: usize, block: usize) -> &[Block] {
        &self.blocks[(token * self.per_query + block) * self.heads..][..self.heads]
    }
}

/// The queries of one token, whose first is row `first` of `q`.
struct Encode<'a> {
    q: MatRef<'a>,
    first: usize,
    heads: usize,
    /// `[blocks, heads]`.
    out: &'a mut [Block],
}

impl Vectorized for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (i, out) in self.out.chunks_exact_mut(self.heads).enumerate() {
            for (head, out) in out.iter_mut().enumerate() {
                let x = &self.q.row(self.first + head)[i * ACTIVATION_BLOCK..];
                let mut padded = [0.0; ACTIVATION_BLOCK];
                let len = x.len().min(ACTIVATION_BLOCK);
                padded[..len].copy_from_slice(&x[..len]);
                *out = encode(s, &padded);
            }
        }
    }
}

/// 128 numbers as multiples of one power of two; with the scale NaN, if one of them is not finite.
#[inline(always)]
fn encode<S: Simd>(s: S, x: &[f32; ACTIVATION_BLOCK]) -> Block {
    let mut codes = [0; ACTIVATION_BLOCK];
    let amax = block_amax(s, x);
    if amax.is_nan() {
        return Block::new(s, &codes, f32::NAN);
    }
    let unit = unit(amax);
    block_codes(s, x, 1.0 / unit, &mut codes);
    Block::new(s, &codes, unit)
}

/// The smallest power of two of which `amax` is at most 127, and at least 2^-126.
#[inline(always)]
pub(super) fn unit(amax: f32) -> f32 {
    // 127 is 1.984375 * 2^6; a greater mantissa carries into the exponent.
    let exponent = (amax.to_bits() + (0x7F_FFFF - 0x7E_0000)) >> 23;
    f32::from_bits(exponent.saturating_sub(6).max(1) << 23)
}
