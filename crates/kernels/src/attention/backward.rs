//! The gradient of attention.

use std::ops::Range;

use cuvier_tensor::{MatRef, Matrix};

use super::Entries;
use crate::isa::Vectorized;
use crate::simd::{LANES, Lanes, Simd};
use crate::{Compute, DisjointRows, Lent};

mod token;

use token::Token;

#[cfg(test)]
mod tests;

/// Heads that go through the keys together.
const HEADS: usize = 4;

/// Tokens whose gradients of keys are summed by one task, at least.
const CHUNK_TOKENS_MIN: usize = 32;
/// Tasks of one sequence, at most: each sums the gradients of all its entries for itself.
const CHUNKS_MAX: usize = 16;

/// One whole sequence in a batch, from its position 0 on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeSequence {
    /// Its tokens: rows of the batch.
    pub tokens: Range<usize>,
    /// Its compressed entries: rows of the batch's entries.
    pub entries: Range<usize>,
}

/// What all tokens and heads have in common; see [`AttentionConfig`](crate::AttentionConfig).
#[derive(Clone, Copy, Debug)]
pub struct AttentionBackwardConfig<'a> {
    /// Per head the score of a key that has no value; `[n_heads]`.
    pub attn_sink: &'a [f32],
    /// Numbers of a head and of a key.
    pub head_dim: usize,
    /// How many of the last positions a token sees, its own included.
    pub sliding_window: usize,
    /// What scores are multiplied by.
    pub scale: f32,
}

/// What [`attention_backward`] gives.
#[derive(Debug)]
pub struct AttentionGradients {
    /// `[tokens, n_heads * head_dim]`: the output of the forward pass, not yet rotated back.
    pub out: Lent,
    /// `[tokens, n_heads * head_dim]`, of the queries.
    pub q: Lent,
    /// `[tokens, head_dim]`, of the tokens' own keys.
    pub kv: Lent,
    /// `[entries, head_dim]`, of the compressed entries.
    pub entries: Lent,
    /// `[n_heads]`, of the sinks.
    pub attn_sink: Vec<f32>,
    /// `[tokens, entries at most]`: the probability of each entry that a token looked at, in the order of its list and
    /// summed over heads; zeros behind the last.
    pub entry_mass: Lent,
}

/// Gradient of [`attention`](crate::attention()) for whole sequences whose keys are exact numbers. With the
/// probabilities `p_j` of one token and head, the sink's among them, `dp_j = dout . key_j` and
/// `D = sum over keys of p_j dp_j`:
///
/// ```text
/// ds_j = p_j (dp_j - D)       dsink += -p_sink D        dq = scale * sum_j ds_j key_j
/// dkey_j += p_j dout + scale * ds_j q                    a key is its own value
/// ```
///
/// | argument    | shape                          | dtype | unit |
/// |-------------|--------------------------------|-------|------|
/// | `q`         | `[tokens, n_heads * head_dim]` | f32   | queries after norm and rotation |
/// | `kv`        | `[tokens, head_dim]`           | f32   | keys after norm and rotation |
/// | `entries`   | `[entries, head_dim]`          | f32   | compressed keys, the same |
/// | `sequences` | `[sequences]`                  |       | in order; rows outside of them get no gradient |
/// | `choice`    |                                |       | which entries tokens look at, numbered within their sequence |
/// | `dout`      | `[tokens, n_heads * head_dim]` | f32   | gradient of the output |
///
/// The probabilities are computed once more, from the same sums as in the forward pass up to their rounding. Gradients
/// of keys are summed in ascending order of tokens, in pieces that the length of a sequence alone decides.
///
/// Source: derivative of DeepSeek-V4 `inference/kernel.py`, `sparse_attn`.
///
/// # Panics
/// If the shapes disagree or sequences are not in order.
#[expect(clippy::too_many_arguments, reason = "a forward operation and the gradient of its output")]
pub fn attention_backward(
    c: &Compute,
    q: MatRef<'_>,
    kv: MatRef<'_>,
    entries: MatRef<'_>,
    sequences: &[WholeSequence],
    choice: Entries<'_>,
    config: &AttentionBackwardConfig<'_>,
    dout: MatRef<'_>,
) -> AttentionGradients {
    let (rows, dim, heads) = (q.rows(), config.head_dim, config.attn_sink.len());
    assert!(rows == 0 || (q.cols(), dout.cols(), kv.cols()) == (heads * dim, heads * dim, dim), "columns");
    assert_eq!((kv.rows(), dout.rows()), (rows, rows), "tokens");
    assert!(entries.rows() == 0 || entries.cols() == dim, "entries of {dim}");
    assert!(
        sequences.windows(2).all(|pair| pair[0].tokens.end <= pair[1].tokens.start),
        "sequences in order"
    );
    let keys = Keys::new(kv, entries);
    let chunks = chunks(sequences, config.sliding_window);
    let listed = longest_list(sequences, choice);

    let mut gradients = AttentionGradients {
        out: zeros(c, rows, heads * dim),
        q: zeros(c, rows, heads * dim),
        kv: zeros(c, rows, dim),
        entries: zeros(c, entries.rows(), dim),
        attn_sink: vec![0.0; heads],
        entry_mass: zeros(c, rows, listed.max(1)),
    };
    let len = chunks.last().map_or(0, |last| last.sums.end);
    let mut sums = vec![Lanes::ZERO; len * keys.vecs];
    let mut sinks = zeros(c, chunks.len(), heads);
    {
        let sums = DisjointRows::new(&mut sums, keys.vecs.max(1));
        let outputs = Outputs {
            out: of_rows_of(&mut gradients.out),
            dq: of_rows_of(&mut gradients.q),
            mass: of_rows_of(&mut gradients.entry_mass),
        };
        let sinks = of_rows_of(&mut sinks);
        c.for_each(chunks.len(), |index| {
            let chunk = &chunks[index];
            // SAFETY: each chunk is one task and has rows of its own.
            let (sums, dsink) = unsafe { (sums.rows(chunk.sums.clone()), sinks.part(index, 0..heads)) };
            let work = Chunk { chunk, keys: &keys, q, dout, choice, config, outputs: &outputs, sums, dsink };
            c.isa().dispatch(work);
        });
    }
    for (chunk, dsink) in chunks.iter().zip(sinks.view().iter()) {
        let sums = &sums[chunk.sums.start * keys.vecs..chunk.sums.end * keys.vecs];
        let (window, of_entries) = sums.split_at(chunk.window.len() * keys.vecs);
        keys.add_rows(window, chunk.sequence.tokens.start + chunk.window.start, &mut gradients.kv);
        keys.add_rows(of_entries, chunk.sequence.entries.start, &mut gradients.entries);
        gradients.attn_sink.iter_mut().zip(dsink).for_each(|(sum, d)| *sum += d);
    }
    gradients
}

fn zeros(c: &Compute, rows: usize, cols: usize) -> Lent {
    let mut out = c.matrix(rows, cols);
    out.data_mut().fill(0.0);
    out
}

fn of_rows_of(m: &mut Matrix) -> DisjointRows<'_, f32> {
    let cols = m.cols();
    DisjointRows::new(m.data_mut(), cols)
}

/// The most entries that a token looks at.
fn longest_list(sequences: &[WholeSequence], choice: Entries<'_>) -> usize {
    let of = |sequence: &WholeSequence| match choice {
        Entries::None => 0,
        Entries::All { ratio } => sequence.tokens.len() / ratio,
        Entries::Selected(selection) => {
            sequence.tokens.clone().map(|row| selection.of(row).len()).max().unwrap_or(0)
        }
    };
    sequences.iter().map(of).max().unwrap_or(0)
}

/// Tokens of a sequence whose gradients one task sums.
struct ChunkOfTokens<'a> {
    sequence: &'a WholeSequence,
    /// Positions of the tokens.
    positions: Range<usize>,
    /// Positions of the keys in their windows.
    window: Range<usize>,
    /// Rows of the sums: those of the window, then those of the sequence's entries.
    sums: Range<usize>,
}

fn chunks(sequences: &[WholeSequence], sliding_window: usize) -> Vec<ChunkOfTokens<'_>> {
    let mut chunks = Vec::new();
    let mut end = 0;
    for sequence in sequences {
        let n_tokens = sequence.tokens.len();
        let len = n_tokens.div_ceil(CHUNKS_MAX).max(CHUNK_TOKENS_MIN);
        for start in (0..n_tokens).step_by(len) {
            let positions = start..n_tokens.min(start + len);
            let window = (start + 1).saturating_sub(sliding_window)..positions.end;
            let sums = end..end + window.len() + sequence.entries.len();
            end = sums.end;
            chunks.push(ChunkOfTokens { sequence, positions, window, sums });
        }
    }
    chunks
}

/// All keys, padded to whole vectors: those of the tokens, then the entries.
struct Keys {
    rows: Vec<Lanes>,
    vecs: usize,
    dim: usize,
    n_tokens: usize,
}

impl Keys {
    fn new(kv: MatRef<'_>, entries: MatRef<'_>) -> Self {
        let dim = kv.cols();
        let vecs = dim.div_ceil(LANES);
        let mut rows = vec![Lanes::ZERO; (kv.rows() + entries.rows()) * vecs];
        for (row, key) in rows.chunks_exact_mut(vecs.max(1)).zip(kv.iter().chain(entries.iter())) {
            Lanes::flat_mut(row)[..dim].copy_from_slice(key);
        }
        Self { rows, vecs, dim, n_tokens: kv.rows() }
    }

    /// Adds padded rows to the rows of `out` from `first` on.
    fn add_rows(&self, sums: &[Lanes], first: usize, out: &mut Matrix) {
        for (i, sums) in sums.chunks_exact(self.vecs.max(1)).enumerate() {
            let out = out.row_mut(first + i);
            out.iter_mut().zip(&Lanes::flat(sums)[..self.dim]).for_each(|(out, sum)| *out += sum);
        }
    }
}

/// Outputs with a row per token.
struct Outputs<'a> {
    out: DisjointRows<'a, f32>,
    dq: DisjointRows<'a, f32>,
    mass: DisjointRows<'a, f32>,
}

/// A task: the tokens of a chunk, one after the other.
struct Chunk<'a> {
    chunk: &'a ChunkOfTokens<'a>,
    keys: &'a Keys,
    q: MatRef<'a>,
    dout: MatRef<'a>,
    choice: Entries<'a>,
    config: &'a AttentionBackwardConfig<'a>,
    outputs: &'a Outputs<'a>,
    sums: &'a mut [Lanes],
    dsink: &'a mut [f32],
}

impl Vectorized for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { chunk, keys, q, dout, choice, config, outputs, sums, dsink } = self;
        let mut token = Token::new(keys.vecs, config);
        for position in chunk.positions.clone() {
            let row = chunk.sequence.tokens.start + position;
            list(chunk, keys, choice, config.sliding_window, position, row, &mut token.keys);
            let n_entries = token.keys.len() - (position + 1).min(config.sliding_window);
            // SAFETY: each token belongs to exactly one chunk, and each chunk is one task.
            let (out, dq, mass) = unsafe {
                (
                    outputs.out.part(row, 0..q.cols()),
                    outputs.dq.part(row, 0..q.cols()),
                    outputs.mass.part(row, 0..n_entries),
                )
            };
            token.run(s, &keys.rows, (q.row(row), dout.row(row)), sums, dsink, (out, dq, mass));
        }
    }
}

/// The keys of the token at `position`, window first: the row of each among all keys, and among the chunk's sums.
fn list(
    chunk: &ChunkOfTokens<'_>,
    keys: &Keys,
    choice: Entries<'_>,
    sliding_window: usize,
    position: usize,
    row: usize,
    out: &mut Vec<(u32, u32)>,
) {
    let WholeSequence { tokens, entries } = chunk.sequence;
    let window = (position + 1).saturating_sub(sliding_window)..position + 1;
    out.clear();
    out.extend(window.map(|p| ((tokens.start + p) as u32, (p - chunk.window.start) as u32)));
    let entry = |e: usize| ((keys.n_tokens + entries.start + e) as u32, (chunk.window.len() + e) as u32);
    match choice {
        Entries::None => {}
        Entries::All { ratio } => out.extend((0..(position + 1) / ratio).map(entry)),
        Entries::Selected(selection) => out.extend(selection.of(row).iter().map(|&e| entry(e as usize))),
    }
}
