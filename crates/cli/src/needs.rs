//! What a verb needs memory for, as a wish to the planner.

use cuvier_model::plan::{StepSize, Wish, states};
use cuvier_weights::ModelConfig;

use crate::memory::free_memory;
use crate::options::ComputeArgs;

/// The program itself, the embedded model included, and what its libraries take.
const PROCESS_BYTES: u64 = 26 << 20;
/// Bytes that a tokenizer and the tree of its tokens, by which answers are held to grammars, take for each token.
const TOKENIZER_PER_TOKEN: u64 = 1120;
/// The share of the memory that states may take if no context was asked for, and the shortest context then.
const STATES_SHARE: f64 = 0.2;
const CONTEXT_LEAST: usize = 4096;

/// The flag for the longest sequence.
pub const CONTEXT: &str = "--context";
/// The flag for sequences at once.
pub const SLOTS: &str = "--slots";

/// What a verb needs memory for, beside weights.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Tokens of the longest sequence; `None`: as many as the model takes and memory allows.
    pub context: Option<usize>,
    /// Sequences at once.
    pub slots: usize,
    /// Tokens of a step.
    pub chunk: StepSize,
    /// Rows of logits of a step beyond one for each slot.
    pub logit_rows: usize,
    /// Bytes for states of earlier prompts; 0: none are kept.
    pub prefix_cache: u64,
    /// Which of the flags [`CONTEXT`] and [`SLOTS`] the verb has, so that only these are advised.
    pub flags: &'static [&'static str],
}

/// The wish that `needs` come to. A context that was not asked for is as long as the model takes, or as a share of the
/// memory has room for.
pub fn wish_for(config: &ModelConfig, args: &ComputeArgs, needs: Needs) -> Wish {
    let tokenizer = TOKENIZER_PER_TOKEN * config.vocab_size as u64;
    let context_max = config.max_position_embeddings;
    let memory = args.memory.or_else(free_memory).map(|memory| memory.0);
    let mut wish = Wish {
        memory,
        context: needs.context.unwrap_or(context_max).min(context_max),
        slots: needs.slots,
        kv: args.kv.into(),
        chunk: needs.chunk,
        logit_rows: needs.logit_rows,
        holds: needs.prefix_cache > 0,
        other: PROCESS_BYTES + tokenizer + needs.prefix_cache,
        threads: args.threads().get(),
    };
    let too_long =
        |wish: &Wish| memory.is_some_and(|all| states(config, wish) as f64 > STATES_SHARE * all as f64);
    while needs.context.is_none() && wish.context > CONTEXT_LEAST && too_long(&wish) {
        wish.context /= 2;
    }
    wish
}
