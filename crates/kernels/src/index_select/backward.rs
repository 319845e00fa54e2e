//! The indexer's own loss and its gradient.

use std::ops::Range;

use cuvier_tensor::MatRef;

use super::Selection;
use crate::isa::Vectorized;
use crate::simd::{LANES, Simd};
use crate::{Compute, DisjointRows, Lent, WholeSequence};

#[cfg(test)]
mod tests;

/// Tokens whose gradients of keys are summed by one task, at least.
const CHUNK_TOKENS_MIN: usize = 64;
/// Tasks of one sequence, at most: each sums the gradients of all its keys for itself.
const CHUNKS_MAX: usize = 16;

/// What [`index_backward`] gives.
#[derive(Debug)]
pub struct IndexGradients {
    /// `[tokens]`: the loss of each token, in nats; 0 where it has no entries.
    pub losses: Vec<f32>,
    /// `[tokens, n_heads * dim]`, of the index queries.
    pub q: Lent,
    /// `[tokens, n_heads]`, of the weights of the heads.
    pub w: Lent,
    /// `[entries, dim]`, of the index keys.
    pub keys: Lent,
}

/// How far the indexer's scores of the selected entries are from what attention made of them: with
/// `I_j = sum over heads h of w_h * relu(q_h . k_j)` and `p` the token's `mass` divided by its sum,
///
/// ```text
/// loss = sum over j of p_j (ln p_j - ln softmax(I)_j)        dI = per_token * (softmax(I) - p)
/// ```
///
/// | argument    | shape                    | dtype | unit |
/// |-------------|--------------------------|-------|------|
/// | `q`         | `[tokens, n_heads * dim]`| f32   | index queries |
/// | `w`         | `[tokens, n_heads]`      | f32   | weights of the heads |
/// | `keys`      | `[entries, dim]`         | f32   | index keys of all sequences |
/// | `sequences` | `[sequences]`            |       | in order |
/// | `selection` | per token                |       | entries, numbered within their sequence |
/// | `mass`      | `[tokens, at least as many as listed]` | f32 | of the entries, in the order of the list |
/// | `per_token` | scalar                   | f32   | factor of a token's loss in the gradients |
///
/// Source: DeepSeek-V3.2 report, section on the lightning indexer's sparse stage; that the entries' share of V4's joint
/// softmax is the target is a reading of ours.
///
/// # Panics
/// If the shapes disagree.
#[expect(clippy::too_many_arguments, reason = "a forward operation and its target")]
pub fn index_backward(
    c: &Compute,
    q: MatRef<'_>,
    w: MatRef<'_>,
    keys: MatRef<'_>,
    sequences: &[WholeSequence],
    selection: &Selection,
    mass: MatRef<'_>,
    per_token: f32,
) -> IndexGradients {
    let (rows, dim, heads) = (q.rows(), keys.cols(), w.cols());
    assert!(rows == 0 || q.cols() == heads * dim, "{heads} queries of {dim}");
    assert_eq!((w.rows(), mass.rows()), (rows, rows), "tokens");
    let zeros = |rows, cols| {
        let mut out = c.matrix(rows, cols);
        out.data_mut().fill(0.0);
        out
    };
    let mut gradients = IndexGradients {
        losses: vec![0.0; rows],
        q: zeros(rows, heads * dim),
        w: zeros(rows, heads),
        keys: zeros(keys.rows(), dim),
    };
    let chunks = chunks(sequences);
    let mut sums = zeros(chunks.last().map_or(0, |last| last.sums.end), dim);
    {
        let sums = DisjointRows::new(sums.data_mut(), dim.max(1));
        let losses = DisjointRows::new(&mut gradients.losses, 1);
        let dq = DisjointRows::new(gradients.q.data_mut(), (heads * dim).max(1));
        let dw = DisjointRows::new(gradients.w.data_mut(), heads.max(1));
        c.for_each(chunks.len(), |index| {
            let chunk = &chunks[index];
            // SAFETY: each chunk is one task and has rows of its own.
            let sums = unsafe { sums.rows(chunk.sums.clone()) };
            let first = chunk.sequence.entries.start;
            for row in chunk.rows.clone() {
                let list = selection.of(row);
                // SAFETY: each row belongs to exactly one chunk.
                let (loss, dq, dw) =
                    unsafe { (losses.part(row, 0..1), dq.part(row, 0..heads * dim), dw.part(row, 0..heads)) };
                let (q, w, mass) = (q.row(row), w.row(row), &mass.row(row)[..list.len()]);
                let token = Token { q, w, keys, first, list, mass, per_token, dq, dw, sums };
                loss[0] = c.isa().dispatch(token);
            }
        });
    }
    for chunk in &chunks {
        for (entry, row) in chunk.sequence.entries.clone().zip(chunk.sums.clone()) {
            gradients.keys.row_mut(entry).iter_mut().zip(sums.row(row)).for_each(|(sum, d)| *sum += d);
        }
    }
    gradients
}

/// Tokens of a sequence whose gradients one task sums.
struct Chunk<'a> {
    sequence: &'a WholeSequence,
    rows: Range<usize>,
    /// Rows of the sums, one per entry of the sequence.
    sums: Range<usize>,
}

fn chunks(sequences: &[WholeSequence]) -> Vec<Chunk<'_>> {
    let mut chunks: Vec<Chunk<'_>> = Vec::new();
    for sequence in sequences {
        let len = sequence.tokens.len().div_ceil(CHUNKS_MAX).max(CHUNK_TOKENS_MIN);
        for start in sequence.tokens.clone().step_by(len) {
            let end = chunks.last().map_or(0, |last| last.sums.end);
            chunks.push(Chunk {
                sequence,
                rows: start..sequence.tokens.end.min(start + len),
                sums: end..end + sequence.entries.len(),
            });
        }
    }
    chunks
}

/// One token and the entries that it looks at.
struct Token<'a> {
    q: &'a [f32],
    w: &'a [f32],
    keys: MatRef<'a>,
    /// The row of the sequence's first key.
    first: usize,
    list: &'a [u32],
    mass: &'a [f32],
    per_token: f32,
    dq: &'a mut [f32],
    dw: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Vectorized for Token<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let Self { q, w, keys, first, list, mass, per_token, dq, dw, sums } = self;
        let (dim, total) = (keys.cols(), mass.iter().sum::<f32>());
        if list.is_empty() || total <= 0.0 {
            return 0.0;
        }
        let key = |entry: u32| keys.row(first + entry as usize);
        let score = |entry: u32| -> f32 {
            let heads = q.chunks_exact(dim).zip(w);
            heads.map(|(q, w)| w * s.dot(q, key(entry)).max(0.0)).sum()
        };
        let scores: Vec<f32> = list.iter().map(|&entry| score(entry)).collect();
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut shares = scores.clone();
        for part in shares.chunks_mut(LANES) {
            s.store_partial(s.exp(s.sub(s.load_partial(part, max), s.splat(max))), part);
        }
        let sum: f32 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= sum);
        let log_sum = max + sum.ln();
        let mut loss = 0.0;
        for (((&entry, score), share), mass) in list.iter().zip(&scores).zip(&shares).zip(mass) {
            let target = mass / total;
            if target > 0.0 {
                loss += target * (target.ln() - (score - log_sum));
            }
            let dscore = per_token * (share - target);
            let dkey = &mut sums[entry as usize * dim..][..dim];
            for (((q, &w), dq), dw) in q.chunks_exact(dim).zip(w).zip(dq.chunks_exact_mut(dim)).zip(&mut *dw)
            {
                let dot = s.dot(q, key(entry));
                if dot > 0.0 {
                    *dw += dscore * dot;
                    add_scaled(s, dscore * w, key(entry), dq);
                    add_scaled(s, dscore * w, q, dkey);
                }
            }
        }
        loss
    }
}

/// `out += by * x`.
#[inline(always)]
fn add_scaled<S: Simd>(s: S, by: f32, x: &[f32], out: &mut [f32]) {
    for (out, x) in out.chunks_mut(LANES).zip(x.chunks(LANES)) {
        s.store_partial(s.fma(s.splat(by), s.load_partial(x, 0.0), s.load_partial(out, 0.0)), out);
    }
}
