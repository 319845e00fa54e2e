//! The exact-state sweep: one sequence computed in many ways, every row of logits compared bit by bit.
//!
//! The truth is a cold prefill in one chunk on one thread. Against it stand: chunks of many sizes, several
//! sequences in one batch, another number of threads, save and restore, forks, and drafts that are rolled back.

use std::num::NonZeroUsize;

use crate::{
    Batch, Chunk, Compute, Ctx, Isa, KvFormat, Lent, LogitRows, Matrix, ModelError, SequenceState, TokenId,
    Transformer,
};
use cuvier_types::SequenceId;

/// How much to sweep.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Tokens of the sequence.
    pub tokens: usize,
    /// Save, fork and roll back at every position that is a multiple of this.
    pub stride: usize,
    /// Instruction set.
    pub isa: Isa,
    /// How state is stored.
    pub kv: KvFormat,
    /// What the tokens are drawn from.
    pub seed: u64,
    /// Chunk sizes to compute the sequence in.
    pub chunks: &'static [usize],
    /// The most sequences that are computed together.
    pub sequences_max: usize,
}

/// One way of computing, and how it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseCount {
    /// What was done.
    pub name: &'static str,
    /// Comparisons.
    pub cases: usize,
    /// Comparisons that found a different bit.
    pub mismatches: usize,
    /// The position of the first of them.
    pub first_mismatch: Option<usize>,
}

impl Sweep {
    /// How many comparisons the sweep makes.
    pub fn comparisons(&self) -> usize {
        let chunked = self.chunks.len() * (self.tokens + 1);
        let batched = (2..=self.sequences_max).map(|sequences| sequences * self.tokens).sum::<usize>();
        let walked = self.tokens + (self.tokens - 1) / self.stride * (3 + DRAFTS.count());
        2 * (chunked + batched + walked)
    }
}

/// Tokens that are drafted and taken back.
const DRAFTS: std::ops::RangeInclusive<usize> = 1..=8;
/// Chunk sizes that meet every residue of the groups of 4 and of 128, and the window.
pub const CHUNKS: &[usize] = &[1, 2, 3, 4, 5, 7, 31, 64, 127, 128, 129, 300];

/// Runs the sweep with one and with two threads; `progress` hears of every comparison, and ends the sweep early by
/// returning false.
///
/// # Errors
/// If the model cannot run a step at all.
pub fn sweep(
    model: &Transformer,
    sweep: &Sweep,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<CaseCount>, ModelError> {
    let one = compute(sweep.isa, 1)?;
    let truth = Truth::new(model, sweep, &one)?;
    let mut counts = Counts { cases: Vec::new(), progress, stopped: false };
    for threads in [1, 2] {
        let compute = compute(sweep.isa, threads)?;
        let run = Run { model, sweep, truth: &truth, compute: &compute };
        run.chunked(&mut counts)?;
        run.batched(&mut counts)?;
        run.walked(&mut counts)?;
    }
    Ok(counts.cases)
}

fn compute(isa: Isa, threads: usize) -> Result<Compute, ModelError> {
    Compute::new(isa, NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN)).map_err(ModelError::Threads)
}

/// The tokens, and what a cold prefill says of them.
struct Truth {
    tokens: Vec<TokenId>,
    /// A hash of the logits of every position.
    logits: Vec<u64>,
    /// A hash of the saved state at the end.
    state: u64,
}

struct Counts<'a> {
    cases: Vec<CaseCount>,
    progress: &'a mut dyn FnMut(usize) -> bool,
    stopped: bool,
}

struct Run<'a> {
    model: &'a Transformer,
    sweep: &'a Sweep,
    truth: &'a Truth,
    compute: &'a Compute,
}

impl Truth {
    fn new(model: &Transformer, sweep: &Sweep, compute: &Compute) -> Result<Self, ModelError> {
        let vocab_size = model.config().vocab_size as u64;
        let tokens: Vec<_> = (0..sweep.tokens as u64)
            .map(|i| TokenId((mix(sweep.seed.wrapping_mul(0x1_0001).wrapping_add(i)) % vocab_size) as u32))
            .collect();
        let mut state = model.new_state(sweep.kv);
        let logits = step(model, compute, &mut [(&mut state, &tokens)], LogitRows::All)?;
        Ok(Self { tokens, logits: hashes(&logits), state: hash(&state.save()) })
    }
}

impl Counts<'_> {
    fn compare(&mut self, name: &'static str, position: usize, equal: bool) {
        let index = self.cases.iter().position(|count| count.name == name).unwrap_or_else(|| {
            self.cases.push(CaseCount { name, cases: 0, mismatches: 0, first_mismatch: None });
            self.cases.len() - 1
        });
        let count = &mut self.cases[index];
        count.cases += 1;
        if !equal {
            count.mismatches += 1;
            count.first_mismatch = count.first_mismatch.or(Some(position));
        }
        self.stopped |= !(self.progress)(1);
    }
}

impl Run<'_> {
    /// The same sequence in chunks of every size.
    fn chunked(&self, counts: &mut Counts<'_>) -> Result<(), ModelError> {
        for &size in self.sweep.chunks {
            let mut state = self.model.new_state(self.sweep.kv);
            let mut position = 0;
            for chunk in self.truth.tokens.chunks(size) {
                if counts.stopped {
                    return Ok(());
                }
                let logits = step(self.model, self.compute, &mut [(&mut state, chunk)], LogitRows::All)?;
                self.compare_rows(counts, "chunked", position, &logits);
                position += chunk.len();
            }
            counts.compare("chunked, state", position, hash(&state.save()) == self.truth.state);
        }
        Ok(())
    }

    /// Two and more sequences, each starting later and advancing by other chunks than the one before.
    fn batched(&self, counts: &mut Counts<'_>) -> Result<(), ModelError> {
        let length = self.truth.tokens.len();
        for sequences in 2..=self.sweep.sequences_max {
            let mut states: Vec<_> = (0..sequences).map(|_| self.model.new_state(self.sweep.kv)).collect();
            let mut round = 0;
            while !counts.stopped && states.iter().any(|state| state.position() < length) {
                let mut parts: Vec<(&mut SequenceState, &[TokenId])> = Vec::new();
                let mut starts = Vec::new();
                for (index, state) in states.iter_mut().enumerate() {
                    let start = state.position();
                    let size = [1, 3, 17, 2, 130, 5, 1, 40][(index + round) % 8];
                    let end = length.min(start + size);
                    if round >= index && start < end {
                        starts.push(start);
                        parts.push((state, &self.truth.tokens[start..end]));
                    }
                }
                let lengths: Vec<_> = parts.iter().map(|(_, tokens)| tokens.len()).collect();
                let logits = step(self.model, self.compute, &mut parts, LogitRows::All)?;
                let mut row = 0;
                for (start, length) in starts.into_iter().zip(lengths) {
                    for offset in 0..length {
                        let equal = hash_row(logits.row(row)) == self.truth.logits[start + offset];
                        counts.compare("batched", start + offset, equal);
                        row += 1;
                    }
                }
                round += 1;
            }
        }
        Ok(())
    }

    /// One token at a time; at every position the state is saved and restored, forked, and drafted on.
    fn walked(&self, counts: &mut Counts<'_>) -> Result<(), ModelError> {
        let mut state = self.model.new_state(self.sweep.kv);
        for position in 0..self.truth.tokens.len() {
            if counts.stopped {
                break;
            }
            if position > 0 && position.is_multiple_of(self.sweep.stride) {
                self.restored(counts, &state)?;
                self.forked(counts, &state)?;
                for drafted in DRAFTS {
                    self.rolled_back(counts, &state, drafted)?;
                }
            }
            let equal = self.advance(&mut state)?;
            counts.compare("decoded", position, equal);
        }
        Ok(())
    }

    fn restored(&self, counts: &mut Counts<'_>, state: &SequenceState) -> Result<(), ModelError> {
        let bytes = state.save();
        let mut restored = self.model.restore(&bytes, self.sweep.kv)?;
        counts.compare("restored, state", state.position(), restored.save() == bytes);
        let equal = self.advance(&mut restored)?;
        counts.compare("restored", state.position(), equal);
        Ok(())
    }

    /// A fork goes astray; neither it nor its origin may see the other.
    fn forked(&self, counts: &mut Counts<'_>, state: &SequenceState) -> Result<(), ModelError> {
        let (mut origin, mut fork) = (state.clone(), state.clone());
        let astray = self.wrong_tokens(state.position(), 3);
        step(self.model, self.compute, &mut [(&mut fork, &astray)], LogitRows::None)?;
        let equal = self.advance(&mut origin)?;
        counts.compare("forked", state.position(), equal);
        Ok(())
    }

    /// A draft of wrong tokens is computed as speculation would, and taken back.
    fn rolled_back(
        &self,
        counts: &mut Counts<'_>,
        state: &SequenceState,
        drafted: usize,
    ) -> Result<(), ModelError> {
        let mut state = state.clone();
        let position = state.position();
        let draft = self.wrong_tokens(position, drafted);
        let draft = &draft[..draft.len().min(self.model.config().max_position_embeddings - position)];
        step(self.model, self.compute, &mut [(&mut state, draft)], LogitRows::All)?;
        state.rollback(draft.len())?;
        let equal = self.advance(&mut state)?;
        counts.compare("rolled back", position, equal);
        Ok(())
    }

    /// Computes the next true token and tells whether its logits are the true ones.
    fn advance(&self, state: &mut SequenceState) -> Result<bool, ModelError> {
        let position = state.position();
        let next = &self.truth.tokens[position..=position];
        let logits = step(self.model, self.compute, &mut [(state, next)], LogitRows::Last)?;
        Ok(hash_row(logits.row(0)) == self.truth.logits[position])
    }

    fn compare_rows(&self, counts: &mut Counts<'_>, name: &'static str, start: usize, logits: &Matrix) {
        for (row, hash) in hashes(logits).into_iter().enumerate() {
            counts.compare(name, start + row, hash == self.truth.logits[start + row]);
        }
    }

    fn wrong_tokens(&self, position: usize, count: usize) -> Vec<TokenId> {
        let vocab_size = self.model.config().vocab_size as u64;
        (0..count as u64).map(|i| TokenId((mix(position as u64 * 64 + i + 7) % vocab_size) as u32)).collect()
    }
}

fn step(
    model: &Transformer,
    compute: &Compute,
    parts: &mut [(&mut SequenceState, &[TokenId])],
    logits: LogitRows,
) -> Result<Lent, ModelError> {
    let chunks = parts.iter().enumerate().map(|(index, (_, tokens))| Chunk {
        sequence: SequenceId(index as u64),
        tokens: tokens.to_vec(),
        logits,
    });
    let batch = Batch { chunks: chunks.collect() };
    let mut states: Vec<&mut SequenceState> = parts.iter_mut().map(|(state, _)| &mut **state).collect();
    Ok(model.forward(&batch, &mut states, &mut Ctx::new(compute))?.logits)
}

fn hashes(logits: &Matrix) -> Vec<u64> {
    (0..logits.rows()).map(|row| hash_row(logits.row(row))).collect()
}

/// A hash of the bits of every number: two rows that differ in any bit differ here.
fn hash_row(row: &[f32]) -> u64 {
    row.iter().fold(0, |hash, value| mix(hash ^ u64::from(value.to_bits())))
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

/// A permutation of the 64-bit numbers that spreads every bit (the finaliser of splitmix64, after its step).
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
