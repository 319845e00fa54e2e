//! One token's part of the gradients.

use super::{AttentionBackwardConfig, HEADS};
use crate::simd::{LANES, Lanes, Simd};

/// The working memory of one token after the other.
pub(super) struct Token<'a> {
    /// The row of each key among all keys, and among the sums of its chunk.
    pub keys: Vec<(u32, u32)>,
    config: &'a AttentionBackwardConfig<'a>,
    vecs: usize,
    /// `[HEADS, vecs]`, padded with zeros.
    q: Vec<Lanes>,
    /// The same, gradients of the outputs.
    dout: Vec<Lanes>,
    /// Per key: scores, then probabilities, of the heads at hand; padded to whole vectors for each head.
    p: [Vec<Lanes>; HEADS],
    /// Per key: gradients of probabilities, then of scores.
    ds: [Vec<Lanes>; HEADS],
}

/// A token's rows of `out`, of the gradient of `q`, and of the mass of entries.
pub(super) type RowsOfToken<'o> = (&'o mut [f32], &'o mut [f32], &'o mut [f32]);

impl<'a> Token<'a> {
    pub(super) fn new(vecs: usize, config: &'a AttentionBackwardConfig<'a>) -> Self {
        let rows = || vec![Lanes::ZERO; HEADS * vecs];
        Self {
            keys: Vec::new(),
            config,
            vecs,
            q: rows(),
            dout: rows(),
            p: Default::default(),
            ds: Default::default(),
        }
    }

    /// Adds the gradients of the keys to `sums` and those of the sinks to `dsink`, and writes the token's own.
    #[inline(always)]
    pub(super) fn run<S: Simd>(
        &mut self,
        s: S,
        keys: &[Lanes],
        (q, dout): (&[f32], &[f32]),
        sums: &mut [Lanes],
        dsink: &mut [f32],
        (out, dq, mass): RowsOfToken<'_>,
    ) {
        let dim = self.config.head_dim;
        let vectors = self.keys.len().div_ceil(LANES);
        for rows in self.p.iter_mut().chain(&mut self.ds) {
            rows.resize(vectors, Lanes::ZERO);
        }
        for first in (0..dsink.len()).step_by(HEADS) {
            let heads = first..dsink.len().min(first + HEADS);
            let columns = heads.start * dim..heads.end * dim;
            self.copy(&q[columns.clone()], &dout[columns.clone()]);
            self.dots(s, keys);
            for (h, head) in heads.clone().enumerate() {
                dsink[head] += self.softmax(s, h, self.config.attn_sink[head]);
            }
            let n_window = self.keys.len() - mass.len();
            for h in 0..heads.len() {
                let p = &Lanes::flat(&self.p[h])[n_window..];
                mass.iter_mut().zip(p).for_each(|(mass, p)| *mass += p);
            }
            for h in heads.len()..HEADS {
                self.p[h].fill(Lanes::ZERO);
                self.ds[h].fill(Lanes::ZERO);
            }
            for vector in 0..self.vecs {
                self.columns(
                    s,
                    keys,
                    sums,
                    vector,
                    heads.len(),
                    &mut out[columns.clone()],
                    &mut dq[columns.clone()],
                );
            }
        }
    }

    /// The rows of the heads at hand, zeros behind the last number and the last head.
    fn copy(&mut self, q: &[f32], dout: &[f32]) {
        let (dim, vecs) = (self.config.head_dim, self.vecs);
        for (padded, rows) in [(&mut self.q, q), (&mut self.dout, dout)] {
            padded.fill(Lanes::ZERO);
            for (padded, row) in padded.chunks_exact_mut(vecs).zip(rows.chunks_exact(dim)) {
                Lanes::flat_mut(padded)[..dim].copy_from_slice(row);
            }
        }
    }

    /// `scale * q . key` and `dout . key` of every head and key.
    #[inline(always)]
    fn dots<S: Simd>(&mut self, s: S, keys: &[Lanes]) {
        let vecs = self.vecs;
        let (q, dout) = (&self.q[..HEADS * vecs], &self.dout[..HEADS * vecs]);
        for (j, &(key, _)) in self.keys.iter().enumerate() {
            let key = &keys[key as usize * vecs..][..vecs];
            let (mut scores, mut dp) = ([s.splat(0.0); HEADS], [s.splat(0.0); HEADS]);
            for v in 0..vecs {
                let key = s.load(&key[v].0);
                for h in 0..HEADS {
                    scores[h] = s.fma(s.load(&q[h * vecs + v].0), key, scores[h]);
                    dp[h] = s.fma(s.load(&dout[h * vecs + v].0), key, dp[h]);
                }
            }
            let (scores, dp) = (s.sum_four(scores), s.sum_four(dp));
            for h in 0..HEADS {
                self.p[h][j / LANES].0[j % LANES] = scores[h] * self.config.scale;
                self.ds[h][j / LANES].0[j % LANES] = dp[h];
            }
        }
    }

    /// Scores of head `h` to probabilities, gradients of probabilities to those of scores times `scale`. Returns the
    /// gradient of the sink.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, h: usize, sink: f32) -> f32 {
        let len = self.keys.len();
        let (p, ds) = (&mut self.p[h], &mut self.ds[h]);
        Lanes::flat_mut(p)[len..].fill(f32::NEG_INFINITY);
        Lanes::flat_mut(ds)[len..].fill(0.0);
        let mut max = s.splat(sink);
        for p in &*p {
            max = s.max(s.load(&p.0), max);
        }
        let max = s.splat(s.max_lane(max));
        let (mut sum, mut along) = (s.splat(0.0), s.splat(0.0));
        for (p, ds) in p.iter_mut().zip(&*ds) {
            let e = s.exp(s.sub(s.load(&p.0), max));
            s.store(e, &mut p.0);
            sum = s.add(sum, e);
            along = s.fma(e, s.load(&ds.0), along);
        }
        let mut of_sink = [0.0; LANES];
        s.store(s.exp(s.sub(s.splat(sink), max)), &mut of_sink);
        // Scores of minus infinity behind the last key give e^-87, which is nothing beside the sum.
        let inverse = 1.0 / (s.sum(sum) + of_sink[0]);
        let along = s.sum(along) * inverse;
        let (by, along_all, scale) = (s.splat(inverse), s.splat(along), s.splat(self.config.scale));
        for (p, ds) in p.iter_mut().zip(ds) {
            let share = s.mul(s.load(&p.0), by);
            s.store(share, &mut p.0);
            s.store(s.mul(scale, s.mul(share, s.sub(s.load(&ds.0), along_all))), &mut ds.0);
        }
        -of_sink[0] * inverse * along
    }

    /// All sums of the heads at hand in the columns of one vector.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the innermost loop, apart from its frame")]
    fn columns<S: Simd>(
        &self,
        s: S,
        keys: &[Lanes],
        sums: &mut [Lanes],
        vector: usize,
        n_heads: usize,
        out: &mut [f32],
        dq: &mut [f32],
    ) {
        let vecs = self.vecs;
        let zero = s.splat(0.0);
        let (mut q, mut dout) = ([zero; HEADS], [zero; HEADS]);
        for h in 0..HEADS {
            q[h] = s.load(&self.q[h * vecs + vector].0);
            dout[h] = s.load(&self.dout[h * vecs + vector].0);
        }
        let p: [&[f32]; HEADS] = std::array::from_fn(|h| &Lanes::flat(&self.p[h])[..self.keys.len()]);
        let ds: [&[f32]; HEADS] = std::array::from_fn(|h| &Lanes::flat(&self.ds[h])[..self.keys.len()]);
        let (mut o_sum, mut q_sum) = ([zero; HEADS], [zero; HEADS]);
        for (j, &(key, sum)) in self.keys.iter().enumerate() {
            let key = s.load(&keys[key as usize * vecs + vector].0);
            let place = &mut sums[sum as usize * vecs + vector].0;
            let mut dkey = s.load(place);
            for h in 0..HEADS {
                let (p, ds) = (s.splat(p[h][j]), s.splat(ds[h][j]));
                o_sum[h] = s.fma(p, key, o_sum[h]);
                q_sum[h] = s.fma(ds, key, q_sum[h]);
                dkey = s.fma(p, dout[h], dkey);
                dkey = s.fma(ds, q[h], dkey);
            }
            s.store(dkey, place);
        }
        let dim = self.config.head_dim;
        let columns = vector * LANES..dim.min((vector + 1) * LANES);
        for h in 0..n_heads {
            let columns = h * dim + columns.start..h * dim + columns.end;
            s.store_partial(o_sum[h], &mut out[columns.clone()]);
            s.store_partial(q_sum[h], &mut dq[columns]);
        }
    }
}
