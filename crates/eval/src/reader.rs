//! Documents read through the model: each token is computed as it stands, whatever the model would have said.

use cuvier_model::{
    Batch, Chunk, Compute, Ctx, KvFormat, LogitRows, Matrix, Probe, SequenceState, TokenId, Transformer,
};
use cuvier_types::SequenceId;

use crate::EvalError;

/// A model and what it runs on.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// The model.
    pub model: &'a Transformer,
    /// Threads and instruction set.
    pub compute: &'a Compute,
    /// How state is stored.
    pub kv: KvFormat,
}

/// What the model made of some tokens in a row.
pub struct Rows<'a> {
    /// The place of the first of them in the document.
    pub first: usize,
    /// `[tokens, vocab_size]`, or nothing where no logits were asked for.
    pub logits: &'a Matrix,
    /// `[tokens, hc_mult * hidden_size]`.
    pub streams: &'a Matrix,
}

/// Tokens that are computed at once: enough to share the way through the weights, few enough that logits of a large
/// vocabulary stay small. It changes no number.
const CHUNK: usize = 256;

impl Reader<'_> {
    /// Reads a document from its begin; `each` hears of its tokens in order, with the state behind them.
    ///
    /// # Errors
    /// If the document does not fit the vocabulary or the context, or what `each` says.
    pub fn read(
        &self,
        tokens: &[TokenId],
        logits: LogitRows,
        mut probe: Option<&mut dyn Probe>,
        each: &mut dyn FnMut(Rows<'_>, &mut SequenceState) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let mut state = self.model.new_state(self.kv);
        for (index, tokens) in tokens.chunks(CHUNK).enumerate() {
            let chunk = Chunk { sequence: SequenceId(0), tokens: tokens.to_vec(), logits };
            let batch = Batch { chunks: vec![chunk] };
            let mut ctx = match &mut probe {
                Some(probe) => Ctx::with_probe(self.compute, &mut **probe),
                None => Ctx::new(self.compute),
            };
            let output = self.model.forward(&batch, &mut [&mut state], &mut ctx)?;
            let rows = Rows { first: index * CHUNK, logits: &output.logits, streams: &output.streams };
            each(rows, &mut state)?;
        }
        Ok(())
    }
}

/// The most likely token of a row of logits, ties to the lowest id: what a greedy answer takes.
pub fn argmax(logits: &[f32]) -> TokenId {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = token;
        }
    }
    TokenId(best as u32)
}

/// The logarithm of the sum of the exponentials of a row, in f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_token_is_the_lowest_of_equals() {
        assert_eq!(argmax(&[0.0, 3.0, 1.0, 3.0]), TokenId(1));
        assert_eq!(argmax(&[-2.0]), TokenId(0));
    }

    #[test]
    fn probabilities_add_up_to_one_however_large_the_logits() {
        for shift in [0.0, 500.0, -500.0] {
            let logits: Vec<f32> = [1.0, 2.0, -3.0].map(|logit| logit + shift).to_vec();
            let sum = log_sum_exp(&logits);
            let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - sum).exp()).sum();
            assert!((total - 1.0).abs() < 1e-6, "{shift}: {total}");
        }
    }
}
