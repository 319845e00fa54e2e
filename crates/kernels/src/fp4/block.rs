//! Activations as the products read them: block by block, the tokens of a block side by side.

use super::SCALES;
use crate::simd::E2M1_OFFSET;
use crate::{ACTIVATION_BLOCK, Isa, Vectorized, simd::Simd};

/// 128 activations of a token.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    /// For each scale of the weights four quads of even columns and four of odd ones.
    pub(crate) codes: [[[i8; 4]; 8]; SCALES],
    /// [`Quads::bias`] of each.
    pub(super) bias: [i32; SCALES],
    /// The sum of all codes.
    pub(crate) total: i32,
    pub(crate) scale: f32,
}

impl Block {
    /// Zeros.
    pub(crate) const ZERO: Self =
        Self { codes: [[[0; 4]; 8]; SCALES], bias: [0; SCALES], total: 0, scale: 0.0 };

    /// The codes of a block, in the order of [`QuantisedRows`](crate::QuantisedRows), and their scale.
    #[inline(always)]
    pub(crate) fn new<S: Simd>(s: S, codes: &[i8; ACTIVATION_BLOCK], scale: f32) -> Self {
        let (even, odd) = codes.as_chunks::<4>().0.split_at(ACTIVATION_BLOCK / 8);
        let mut block = Self { scale, ..Self::ZERO };
        for (i, (out, bias)) in block.codes.iter_mut().zip(&mut block.bias).enumerate() {
            out[..4].copy_from_slice(&even[4 * i..][..4]);
            out[4..].copy_from_slice(&odd[4 * i..][..4]);
            *bias = s.bias(out, E2M1_OFFSET);
        }
        block.total = block.bias.iter().sum::<i32>() / -E2M1_OFFSET;
        block
    }
}

/// The blocks of some tokens, `[blocks, tokens]`.
#[derive(Default)]
pub(crate) struct Blocks {
    blocks: Vec<Block>,
    tokens: usize,
}

/// The blocks of consecutive tokens of a [`Blocks`].
#[derive(Clone, Copy)]
pub(crate) struct BlocksRef<'a> {
    blocks: &'a [Block],
    stride: usize,
    first: usize,
    tokens: usize,
}

impl Blocks {
    /// Brings rows of `blocks` codes and scales each into the form of products.
    pub(crate) fn gather<'x>(
        &mut self,
        isa: Isa,
        blocks: usize,
        rows: impl ExactSizeIterator<Item = (&'x [[i8; ACTIVATION_BLOCK]], &'x [f32])>,
    ) {
        self.tokens = rows.len();
        self.blocks.resize(blocks * self.tokens, Block::ZERO);
        for (token, (codes, scales)) in rows.enumerate() {
            let out = &mut self.blocks[token..];
            isa.dispatch(Spread {
                codes: &codes[..blocks],
                scales: &scales[..blocks],
                out,
                stride: self.tokens,
            });
        }
    }

    /// All tokens.
    pub(crate) fn view(&self) -> BlocksRef<'_> {
        BlocksRef::new(&self.blocks, self.tokens)
    }
}

impl<'a> BlocksRef<'a> {
    /// `blocks` are `[blocks, tokens]`.
    pub(crate) fn new(blocks: &'a [Block], tokens: usize) -> Self {
        Self { blocks, stride: tokens, first: 0, tokens }
    }

    /// How many tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Blocks of a token.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.len().checked_div(self.stride).unwrap_or(0)
    }

    /// Block `block` of all tokens.
    #[inline(always)]
    pub(crate) fn block(&self, block: usize) -> &'a [Block] {
        &self.blocks[block * self.stride + self.first..][..self.tokens]
    }
}

/// The blocks of one token to where they belong, `stride` apart.
struct Spread<'a> {
    codes: &'a [[i8; ACTIVATION_BLOCK]],
    scales: &'a [f32],
    out: &'a mut [Block],
    stride: usize,
}

impl Vectorized for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let out = self.out.iter_mut().step_by(self.stride);
        for ((codes, &scale), out) in self.codes.iter().zip(self.scales).zip(out) {
            *out = Block::new(s, codes, scale);
        }
    }
}
