//! Index scores of a few tokens over a range of keys.

use cuvier_tensor::MatRef;

use super::queries::Queries;
use super::top_k::TopK;
use super::{Token, Unit, coded, exact};
use crate::IndexKeyCodec;
use crate::isa::Vectorized;
use crate::simd::Simd;

/// Scores one unit and keeps the best entries of each of its tokens.
#[derive(Clone, Copy)]
pub(super) struct ScoreUnit<'a> {
    pub(super) unit: &'a Unit<'a>,
    pub(super) tokens: &'a [Token],
    pub(super) q: &'a Queries<'a>,
    pub(super) w: MatRef<'a>,
    pub(super) codec: &'a IndexKeyCodec,
    pub(super) k: usize,
}

impl Vectorized for ScoreUnit<'_> {
    type Output = Vec<TopK>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<TopK> {
        match self.q {
            Queries::Exact(q) => match const { S::ACCUMULATORS >= 16 } {
                false => exact::score::<S, 2, 2>(s, self, *q),
                true => exact::score::<S, 8, 2>(s, self, *q),
            },
            Queries::Codes(q) => match const { S::ACCUMULATORS >= 16 } {
                false => coded::score::<S, 1>(s, self, q),
                true => coded::score::<S, 2>(s, self, q),
            },
        }
    }
}
