//! Activations as the products read them: block by block, the tokens of a block side by side.

use super::SCALES;
use crate::simd::{E2M1_OFFSET, FourBlocks};
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

/// With so many tokens and fewer, rows of weights are met one by one.
pub(super) const DIRECT_TOKENS: usize = 2;

/// The blocks of some tokens, `[blocks, tokens]`.
#[derive(Default)]
pub(crate) struct Blocks {
    blocks: Vec<Block>,
    tokens: usize,
    /// `[tokens, fours]`, the last four as [`four_by_four`] says; none unless they were asked for.
    fours: Vec<FourBlocks>,
}

/// The blocks of all tokens of a [`Blocks`].
#[derive(Clone, Copy)]
pub(crate) struct BlocksRef<'a> {
    blocks: &'a [Block],
    fours: &'a [FourBlocks],
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
        self.fours.clear();
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

    /// Brings the rows that were gathered last also into the form in which rows of FP4 weights meet them one by one, if
    /// they are few enough for that.
    pub(crate) fn gather_fours<'x>(&mut self, rows: impl Iterator<Item = &'x [[i8; ACTIVATION_BLOCK]]>) {
        if self.tokens <= DIRECT_TOKENS {
            for (token, codes) in rows.enumerate() {
                let own = self.blocks[token..].iter().step_by(self.tokens);
                four_by_four(codes, own, &mut self.fours);
            }
        }
    }

    /// All tokens.
    pub(crate) fn view(&self) -> BlocksRef<'_> {
        BlocksRef { blocks: &self.blocks, fours: &self.fours, tokens: self.tokens }
    }
}

impl<'a> BlocksRef<'a> {
    /// The blocks of `T` tokens, four at a time, if there are that many tokens and few.
    pub(super) fn fours<const T: usize>(&self) -> Option<[&'a [FourBlocks]; T]> {
        let len = self.blocks().div_ceil(4);
        let all = T == self.tokens && self.fours.len() == T * len;
        all.then(|| std::array::from_fn(|t| &self.fours[t * len..][..len]))
    }

    /// How many tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Blocks of a token.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks.len().checked_div(self.tokens).unwrap_or(0)
    }

    /// Block `block` of all tokens.
    #[inline(always)]
    pub(crate) fn block(&self, block: usize) -> &'a [Block] {
        &self.blocks[block * self.tokens..][..self.tokens]
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

/// Appends the blocks of one token, whose codes are `codes`, four at a time. Where only one or two are left, they stand
/// there twice.
fn four_by_four<'a>(
    codes: &[[i8; ACTIVATION_BLOCK]],
    mut blocks: impl Iterator<Item = &'a Block>,
    out: &mut Vec<FourBlocks>,
) {
    for codes in codes.chunks(4) {
        let stands_twice = codes.len() <= 2;
        let mut four = FourBlocks::ZERO;
        for (i, (codes, block)) in codes.iter().zip(&mut blocks).enumerate() {
            set(&mut four, i, codes, block);
            if stands_twice {
                set(&mut four, i + 2, codes, block);
            }
        }
        out.push(four);
    }
}

/// Makes `block`, whose codes are `codes`, block `i` of four.
fn set(four: &mut FourBlocks, i: usize, codes: &[i8; ACTIVATION_BLOCK], block: &Block) {
    four.codes[i].as_flattened_mut().copy_from_slice(codes);
    for (bias, &of_block) in four.bias.iter_mut().zip(&block.bias) {
        bias[i] = of_block;
    }
    four.scales[i] = block.scale;
}
