//! `types`: ids and messages that cross rooms. No logic.
//!
//! **Invariant:** nothing here depends on another crate of ours, and nothing here computes.

use std::fmt;

/// One entry of the vocabulary, `0..config.vocab_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TokenId(pub u32);

/// A layer of the backbone, `0..config.num_hidden_layers`; the MTP block follows as one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(pub u16);

/// A routed expert of one layer, `0..config.n_routed_experts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExpertId(pub u16);

/// One expert of the whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExpertKey {
    /// The layer that owns the expert.
    pub layer: LayerId,
    /// The expert within its layer.
    pub expert: ExpertId,
}

/// What the engine advances: one prompt and its continuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A size in bytes. On the command line: `20GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Bytes(pub u64);

/// Which rows of a chunk need logits: only what will be sampled from is worth a pass of the LM head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogitRows {
    /// No row: a prefill chunk that is not the prompt's last.
    None,
    /// The last row only.
    Last,
    /// Every row.
    All,
}

/// The next tokens of one sequence, in order, directly after those already in its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Whose tokens these are.
    pub sequence: SequenceId,
    /// At least one token.
    pub tokens: Vec<TokenId>,
    /// Which of them need logits.
    pub logits: LogitRows,
}

/// The input of one step: chunks of distinct sequences, each of any length.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    /// One chunk per sequence that takes part.
    pub chunks: Vec<Chunk>,
}

/// The wishes of one request about how its tokens are drawn.
///
/// The order of application: penalties, `logit_bias`, `temperature`, softmax, `top_k`, `top_p`, `min_p`,
/// renormalise, draw.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 to 2; below 1e-5 the most likely token is taken, ties to the lowest id.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability is at least this, in `(0, 1]`.
    pub top_p: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep tokens at least this fraction as likely as the most likely one, in `[0, 1]`.
    pub min_p: f32,
    /// Above 0; 1 is off. Divides positive logits (multiplies negative ones) of tokens in prompt or output.
    pub repetition_penalty: f32,
    /// -2 to 2; subtracted once from every token already generated.
    pub presence_penalty: f32,
    /// -2 to 2; subtracted per occurrence of a token already generated.
    pub frequency_penalty: f32,
    /// Added to the logit of a token, -100 to 100; -100 or less bans it.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// The draw of output position `i` is a function of the seed and `i` alone.
    pub seed: u64,
    /// How many of the most likely tokens to report with each token; `None` reports no log-probability.
    pub logprobs: Option<u8>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }
}

/// Natural logarithms of probabilities before temperature, filters and bias.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token that was drawn.
    pub logprob: f32,
    /// The most likely tokens, most likely first.
    pub top: Vec<(TokenId, f32)>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string was met.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// The caller cancelled it.
    Cancelled,
}

/// What the engine tells about one sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A prompt is under way: `done` of `total` tokens are computed.
    Prefill {
        /// Tokens computed so far.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// One more token of the answer.
    Token {
        /// The token drawn.
        token: TokenId,
        /// Its probabilities, when they were asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The last event of a sequence that ended well.
    Finished {
        /// Why it ended.
        reason: FinishReason,
    },
    /// The last event of a sequence that failed; the others go on.
    Failed {
        /// What happened, for the user.
        message: String,
    },
}
