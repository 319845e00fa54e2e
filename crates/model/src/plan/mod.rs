//! Law 3, know before you start: what a model takes in memory, what of it stays there, and what is read from disk.
//!
//! Door: [`Stock`] is what a checkpoint holds, from headers or from a config alone; [`plan`] lays it out in the memory
//! that there is. A [`Plan`] is a promise: who frees as it says ([`return_large_blocks`]), loads as it says
//! ([`Plan::streaming`]) and steps within its chunk, its slots and its context stays below [`Plan::total`].

mod kv;
mod parts;
#[cfg(test)]
mod tests;
mod workspace;

use cuvier_kernels::KvFormat;
use cuvier_weights::ModelConfig;
use cuvier_weights::expert_store::ExpertStore;

use crate::Streaming;

pub use cuvier_tensor::return_large_blocks;
pub use parts::Stock;

/// What is asked of a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wish {
    /// The ceiling, in bytes; `None`: none.
    pub memory: Option<u64>,
    /// Tokens of the longest sequence.
    pub context: usize,
    /// Sequences computed at the same time.
    pub slots: usize,
    /// How their state is stored.
    pub kv: KvFormat,
    /// Tokens of one step.
    pub chunk: StepSize,
    /// Rows of logits of one step, beyond one for each slot.
    pub logit_rows: usize,
    /// Whether states may be asked to keep all rows of a step until it ends, as a cache of prefixes does.
    pub holds: bool,
    /// Bytes that the process takes for other things: its code, a tokenizer, a cache of prefixes.
    pub other: u64,
    /// Threads that compute.
    pub threads: usize,
}

/// Tokens of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepSize {
    /// So many.
    Given(usize),
    /// As suits where the experts are and what memory there is: the more tokens, the more of them share the way through
    /// an expert.
    Chosen,
}

/// Where everything goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// What it was made for.
    pub wish: Wish,
    /// Tokens of one step.
    pub chunk: usize,
    /// Tokens of a step while a sequence waits for its next token.
    pub chunk_answering: usize,
    /// Bytes of all weights that stay in memory but routed experts; with all of those, if they stay as well.
    pub weights: u64,
    /// Bytes of the states of all slots at full context.
    pub kv: u64,
    /// Bytes of a step's intermediate results, and of what is read for it and then given up.
    pub workspace: u64,
    /// Bytes for routed experts from disk; 0 if all of them are loaded.
    pub expert_cache: u64,
    /// What to load, if not everything.
    pub streaming: Option<Streaming>,
    /// Bytes read from disk for one decoded token, if experts are chosen evenly.
    pub read_bytes_per_token: f64,
    /// Bytes read from memory for it.
    pub memory_bytes_per_token: f64,
}

/// Not enough memory, and what would do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TooLittle {
    /// The least memory that does, with everything else as it was wished.
    pub memory: u64,
    /// The longest context that fits, with everything else as it was wished.
    pub context: Option<usize>,
    /// The most slots that fit, with everything else as it was wished.
    pub slots: Option<usize>,
}

/// Tokens of a step where all weights are in memory: so many while others wait for their next token, or where there is
/// no room for more.
const CHUNK_LOADED: usize = 512;
/// The same while nobody waits. At true width, steps of 512, 1,024, 2,048 and 4,096 tokens read a prompt of 4,096 in the
/// ratio 1 : 1.09 : 1.15 : 1.15; longer ones would make a newcomer wait for nothing.
const CHUNK_LOADED_ALONE: usize = 2048;
/// Where experts come from disk, a step reads almost all of them, however few its tokens.
const CHUNK_STREAMED: usize = 4096;
/// Tokens by which a step is smaller where it has to be.
const CHUNK_UNIT: usize = 16;
/// The share of the memory that the workspace of a large step may take. Where experts come from disk, it is set apart
/// whole, also where the chunk leaves some of it: with more memory there are then never fewer experts.
const WORKSPACE_SHARE: f64 = 0.12;
/// The shortest context worth telling of.
const CONTEXT_LEAST: usize = 256;

impl Plan {
    /// Bytes, at most.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.workspace + self.expert_cache + self.wish.other
    }

    /// Tokens per second of one sequence, from the bytes per second of disk and memory: what is read from one is hidden
    /// behind the other.
    pub fn tokens_per_s(&self, disk: f64, memory: f64) -> f64 {
        1.0 / (self.read_bytes_per_token / disk).max(self.memory_bytes_per_token / memory)
    }
}

/// Bytes of the states of all slots of a wish at full context.
pub fn states(config: &ModelConfig, wish: &Wish) -> u64 {
    wish.slots as u64 * kv::state(config, wish.kv, wish.context)
}

/// Lays `stock` out: all in memory if it fits; else routed experts from disk, with as many of them in memory as there is
/// room for; else other weights of the last layers as well.
///
/// # Errors
/// If the wish does not fit even so.
pub fn plan(stock: &Stock, wish: Wish) -> Result<Plan, TooLittle> {
    lay_out(stock, wish).ok_or_else(|| nearest(stock, wish))
}

fn lay_out(stock: &Stock, wish: Wish) -> Option<Plan> {
    let memory = wish.memory.unwrap_or(u64::MAX);
    let loaded = load(stock, wish, memory);
    if loaded.is_some() || !stock.can_stream() {
        return loaded;
    }
    let (chunk, workspace) = streamed_step(stock, &wish, memory);
    stream(stock, wish, chunk, workspace, memory)
}

/// All in memory, if it fits.
fn load(stock: &Stock, wish: Wish, memory: u64) -> Option<Plan> {
    let plan = |chunk: usize| Plan {
        chunk_answering: chunk.min(CHUNK_LOADED),
        weights: stock.loaded(),
        workspace: workspace::step(stock, &wish, chunk),
        ..outline(stock, wish, chunk)
    };
    let fits = |plan: &Plan| plan.total() <= memory;
    let chunk = match wish.chunk {
        StepSize::Given(chunk) => chunk,
        StepSize::Chosen => chosen_step(&wish, CHUNK_LOADED_ALONE, |chunk| {
            let plan = plan(chunk);
            fits(&plan) && plan.workspace <= workspace_share(memory)
        }),
    };
    Some(plan(chunk)).filter(fits)
}

/// Tokens of a step where experts come from disk, and the workspace set apart for it.
fn streamed_step(stock: &Stock, wish: &Wish, memory: u64) -> (usize, u64) {
    let bytes = |chunk: usize| workspace::step(stock, wish, chunk);
    match wish.chunk {
        StepSize::Given(chunk) => (chunk, bytes(chunk)),
        StepSize::Chosen => {
            let share = workspace_share(memory);
            let chunk = chosen_step(wish, CHUNK_STREAMED, |chunk| bytes(chunk) <= share);
            (chunk, bytes(chunk).max(share.min(bytes(longest_step(wish, CHUNK_STREAMED)))))
        }
    }
}

/// What the workspace of a large step may take of the memory.
fn workspace_share(memory: u64) -> u64 {
    (WORKSPACE_SHARE * memory as f64) as u64
}

/// The longest step up to `most_tokens` that fits; [`CHUNK_LOADED`] if none does.
fn chosen_step(wish: &Wish, most_tokens: usize, fits: impl Fn(usize) -> bool) -> usize {
    let longest = longest_step(wish, most_tokens);
    let in_units = |tokens: usize| tokens.div_ceil(CHUNK_UNIT);
    let least = in_units(longest.min(CHUNK_LOADED));
    let units = most(least, in_units(longest), |units| fits(units * CHUNK_UNIT)).unwrap_or(least);
    longest.min(units * CHUNK_UNIT)
}

/// No step has more tokens than all sequences together.
fn longest_step(wish: &Wish, chunk: usize) -> usize {
    chunk.min(wish.context.saturating_mul(wish.slots)).max(1)
}

/// The plan before weights and workspace.
fn outline(stock: &Stock, wish: Wish, chunk: usize) -> Plan {
    Plan {
        wish,
        chunk,
        chunk_answering: chunk,
        weights: 0,
        kv: states(&stock.config, &wish),
        workspace: 0,
        expert_cache: 0,
        streaming: None,
        read_bytes_per_token: 0.0,
        memory_bytes_per_token: stock.used_per_token(),
    }
}

/// Experts from disk, and as many layers as there is room for.
fn stream(stock: &Stock, wish: Wish, chunk: usize, workspace: u64, memory: u64) -> Option<Plan> {
    let all = stock.layers.len();
    let plan = (0..=all).rev().find_map(|layers| {
        let transient = if layers < all { stock.transient() } else { 0 };
        let plan = Plan {
            weights: stock.kept_streamed(layers),
            workspace: workspace + transient + stock.reading_rows(chunk),
            ..outline(stock, wish, chunk)
        };
        let left = memory.checked_sub(plan.total())?;
        let least = (2 * stock.config.num_experts_per_tok).max(ExpertStore::CAPACITY_MIN);
        let experts = ((left / stock.expert) as usize).min(stock.n_experts());
        // While the head is packed, there are no experts and no states yet.
        let fits_while_loading = plan.weights + stock.packing() + wish.other <= memory;
        (experts >= least.min(stock.n_experts()) && fits_while_loading).then_some((plan, layers, experts))
    });
    let (plan, layers, experts) = plan?;
    let hits = experts as f64 / stock.n_experts() as f64;
    let read = (1.0 - hits) * stock.experts_per_token() + stock.read_per_step(layers) as f64;
    Some(Plan {
        expert_cache: experts as u64 * stock.expert,
        streaming: Some(Streaming { experts, layers }),
        read_bytes_per_token: read,
        ..plan
    })
}

/// What would fit instead.
fn nearest(stock: &Stock, wish: Wish) -> TooLittle {
    let fits = |wish: Wish| lay_out(stock, wish).is_some();
    let enough = lay_out(stock, Wish { memory: None, ..wish }).map_or(u64::MAX, |plan| plan.total());
    let memory = least(0, enough, |memory| fits(Wish { memory: Some(memory), ..wish }));
    let context = most(CONTEXT_LEAST, wish.context, |context| fits(Wish { context, ..wish }));
    let slots = most(1, wish.slots, |slots| fits(Wish { slots, ..wish }));
    TooLittle { memory, context, slots }
}

/// The least of `low..=high` that does; `high` does.
fn least(mut low: u64, mut high: u64, does: impl Fn(u64) -> bool) -> u64 {
    while low < high {
        let middle = low + (high - low) / 2;
        if does(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    high
}

/// The most of `low..=high` that does, if `low` does.
fn most(low: usize, high: usize, does: impl Fn(usize) -> bool) -> Option<usize> {
    if low > high || !does(low) {
        return None;
    }
    let past = least(low as u64, high as u64 + 1, |n| n as usize > high || !does(n as usize));
    Some(past as usize - 1)
}
