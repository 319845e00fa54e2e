//! Attention of all query heads over one list of shared keys: the window and the compressed past.

use std::cell::RefCell;
use std::ops::Range;

use cuvier_tensor::{MatMut, MatRef, PagedRows};

use crate::isa::Vectorized;
use crate::simd::Simd;
use crate::{Compute, DisjointRows, EntryCodec, Selection};

mod backward;
mod keys;
mod scratch;
mod tiles;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use backward::{AttentionBackwardConfig, AttentionGradients, WholeSequence, attention_backward};
use keys::KeyList;
use scratch::Scratch;

/// Heads per task at least, when few tokens are shared by many threads: each task decodes the keys for itself.
const HEADS_PER_TASK_MIN: usize = 4;

/// The tokens of one sequence in a batch, and what they can look at.
#[derive(Clone, Debug)]
pub struct AttentionSegment<'a> {
    /// Rows of the batch.
    pub tokens: Range<usize>,
    /// The position of the first of them in its sequence.
    pub first_position: usize,
    /// The stored key of position `p` in row `p`; those of these tokens included.
    pub window: &'a PagedRows<u8>,
    /// The stored compressed entries, entry `j` in row `j`; those completed by these tokens included.
    pub entries: Option<&'a PagedRows<u8>>,
}

/// Which compressed entries the tokens look at.
#[derive(Clone, Copy, Debug)]
pub enum Entries<'a> {
    /// None.
    None,
    /// Every entry that is complete at the token: `j < (t + 1) / ratio` at position `t`.
    All {
        /// Tokens per entry.
        ratio: usize,
    },
    /// For each row of the batch the entries of its list.
    Selected(&'a Selection),
}

/// What all tokens and heads of an attention have in common.
#[derive(Clone, Copy, Debug)]
pub struct AttentionConfig<'a> {
    /// How keys are stored.
    pub codec: EntryCodec,
    /// Per head the score of a key that has no value; `[n_heads]`.
    pub attn_sink: &'a [f32],
    /// How many of the last positions a token sees, its own included.
    pub sliding_window: usize,
    /// What scores are multiplied by: `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// Attention: per token and head the mean of the keys, weighted by the softmax of their scores and the sink's.
///
/// | argument  | shape                          | dtype | unit                                |
/// |-----------|--------------------------------|-------|-------------------------------------|
/// | `q`       | `[tokens, n_heads * head_dim]` | f32   | queries after norm and rotation     |
/// | `window`  | `[positions, row_bytes]`       | bytes | keys, as `config.codec` says        |
/// | `entries` | `[entries, row_bytes]`         | bytes | compressed keys, the same           |
/// | `out`     | `[tokens, n_heads * head_dim]` | f32   | not yet rotated back                |
///
/// The keys of the token at position `t` are the window rows `max(0, t - (sliding_window - 1)) ..= t`, then its
/// entries, both ascending. A key is its own value:
///
/// ```text
/// s_j = scale * (q . key_j)       m = max(sink, s_0, s_1, ...)       p_j = exp(s_j - m)
/// out = (sum_j p_j * key_j) / (sum_j p_j + exp(sink - m))
/// ```
///
/// Arithmetic in f32, the same for every token alone: dot products in the crate's order of sixteen lanes; the sum
/// of `p_j` in that order over the list; `sum_j p_j * key_j` per dimension in order of the list with fused
/// multiply-add; the sink joins the denominator last; one division at the end. How heads and keys are cut into
/// tiles changes none of these orders.
///
/// Rows of the batch outside all segments are left as they are.
///
/// Source: DeepSeek-V4 `inference/model.py`, `Attention.forward`, and `inference/kernel.py`, `sparse_attn`.
///
/// # Panics
/// If the shapes disagree, segments overlap or are not in order, or a key that a token looks at is not held.
pub fn attention(
    c: &Compute,
    q: MatRef<'_>,
    segments: &[AttentionSegment<'_>],
    entries: Entries<'_>,
    config: &AttentionConfig<'_>,
    out: MatMut<'_>,
) {
    let heads = config.attn_sink.len();
    let cols = heads * config.codec.head_dim;
    assert_eq!((q.cols(), out.cols()), (cols, cols));
    assert_eq!(q.rows(), out.rows());
    assert!(config.sliding_window > 0, "a token sees itself");
    let lists = lists(segments, entries, config, q.rows());

    let groups = if lists.len() >= 2 * c.threads() { 1 } else { c.threads() };
    let group_heads = heads.div_ceil(groups).max(HEADS_PER_TASK_MIN).next_multiple_of(tiles::HEADS);
    let groups = heads.div_ceil(group_heads);
    let out = DisjointRows::new(out.into_data(), cols);
    c.for_each_range(lists.len() * groups, 1, |tasks| {
        SCRATCH.with_borrow_mut(|scratch| {
            c.isa().dispatch(Tasks { tasks, groups, group_heads, lists: &lists, config, q, out, scratch });
        });
    });
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The keys of every token of the segments.
fn lists<'a>(
    segments: &[AttentionSegment<'a>],
    entries: Entries<'a>,
    config: &AttentionConfig<'_>,
    rows: usize,
) -> Vec<KeyList<'a>> {
    let mut lists = Vec::with_capacity(rows);
    let mut end = 0;
    for segment in segments {
        assert!(end <= segment.tokens.start && segment.tokens.end <= rows, "segment {:?}", segment.tokens);
        end = segment.tokens.end;
        for (i, row) in segment.tokens.clone().enumerate() {
            lists.push(KeyList::new(
                segment,
                entries,
                row,
                segment.first_position + i,
                config.sliding_window,
            ));
        }
    }
    lists
}

/// Some of the work: task `i` is head group `i % groups` of token `i / groups`.
struct Tasks<'a> {
    tasks: Range<usize>,
    groups: usize,
    group_heads: usize,
    lists: &'a [KeyList<'a>],
    config: &'a AttentionConfig<'a>,
    q: MatRef<'a>,
    out: DisjointRows<'a, f32>,
    scratch: &'a mut Scratch,
}

impl Vectorized for Tasks<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (heads, dim) = (self.config.attn_sink.len(), self.config.codec.head_dim);
        for task in self.tasks {
            let list = &self.lists[task / self.groups];
            let start = task % self.groups * self.group_heads;
            let end = (start + self.group_heads).min(heads);
            let q = &self.q.row(list.row())[start * dim..end * dim];
            // SAFETY: every group of heads of every token is one task.
            let out = unsafe { self.out.part(list.row(), start * dim..end * dim) };
            self.scratch.attend(s, list, q, &self.config.attn_sink[start..end], self.config, out);
        }
    }
}
