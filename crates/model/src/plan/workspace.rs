//! Memory of a step's intermediate results: the buffers of one layer after the other, as they are taken from the pool of
//! `kernels` and given back.

use cuvier_kernels::EntryCodec;
use cuvier_tensor::PANEL_COLS;
use cuvier_weights::{LayerKind, ModelConfig};

use super::{Stock, Wish, kv};

/// What allocators keep, thread stacks, and small things.
const FIXED: u64 = 8 << 20;
/// How often each kind of layer is gone through.
const ROUNDS: usize = 4;
/// What one thread gathers and unpacks.
const PER_THREAD: u64 = 3 << 20;

/// Bytes of a step of `chunk` tokens.
pub(super) fn step(stock: &Stock, wish: &Wish, chunk: usize) -> u64 {
    let config = &stock.config;
    let mut step = Step { config, tokens: chunk, f32s: Pool::default(), i8s: Pool::default() };
    step.run();
    let codec = EntryCodec { format: wish.kv, head_dim: config.head_dim, rope_dim: config.qk_rope_head_dim };
    // Of the router: ids, and which token each pair is. Of selections: entries and how many.
    let per_token = codec.row_bytes() + 6 * config.num_experts_per_tok + 4 * (config.index_topk + 1);
    let logits = 4 * (wish.logit_rows + wish.slots) * (2 * config.vocab_size + streams_width(config));
    let pooled = 4 * step.f32s.total + step.i8s.total;
    (pooled + per_token * chunk + logits) as u64
        + kv::of_step(config, wish.kv, chunk, wish.holds)
        + FIXED
        + PER_THREAD * wish.threads as u64
}

/// Numbers of all residual streams of a token.
fn streams_width(config: &ModelConfig) -> usize {
    config.hc_mult * config.hidden_size
}

/// Buffers of one type of number, and how many numbers they hold together.
#[derive(Default)]
struct Pool {
    waiting: Vec<usize>,
    total: usize,
}

impl Pool {
    /// A buffer for `len` numbers: the smallest that is large enough, else a new one in the place of the largest.
    fn take(&mut self, len: usize) -> usize {
        let waiting = self.waiting.iter().enumerate();
        if let Some((index, _)) = waiting.filter(|(_, held)| **held >= len).min_by_key(|(_, held)| **held) {
            return self.waiting.swap_remove(index);
        }
        let outgrown = (0..self.waiting.len()).max_by_key(|&index| self.waiting[index]);
        self.total -= outgrown.map_or(0, |index| self.waiting.swap_remove(index));
        self.total += len;
        len
    }

    fn give(&mut self, buffers: impl IntoIterator<Item = usize>) {
        self.waiting.extend(buffers);
    }
}

/// The buffers of a step, in the order of `Transformer::forward`.
struct Step<'a> {
    config: &'a ModelConfig,
    tokens: usize,
    f32s: Pool,
    i8s: Pool,
}

/// Rows in eight bits: codes, and a scale for each block.
type Quantised = [usize; 2];

impl Step<'_> {
    fn run(&mut self) {
        let config = self.config;
        self.rows(streams_width(config) + config.hidden_size + 2 * config.qk_rope_head_dim);
        // Something small may have been lent a large buffer that something large then lacks. More than one was not seen.
        self.rows(config.hidden_size);
        let kinds = [LayerKind::Sliding, LayerKind::Csa, LayerKind::Hca];
        let kinds: Vec<_> = kinds.into_iter().filter(|&kind| config.n_layers_of(kind) > 0).collect();
        // A large buffer that is lent for something small is missing later: some layers pass before all have what they take.
        for _ in 0..ROUNDS {
            for (&kind, guesses) in kinds.iter().flat_map(|kind| [(kind, false), (kind, true)]) {
                self.layer(kind, guesses);
            }
        }
    }

    /// `guesses`: whether the experts of the layer behind are guessed.
    fn layer(&mut self, kind: LayerKind, guesses: bool) {
        let hidden = self.config.hidden_size;
        let mixes = (2 + self.config.hc_mult) * self.config.hc_mult;
        let x = self.rows(hidden);
        let mix = self.rows(mixes);
        let out = self.attention(kind);
        let ffn = self.rows(hidden);
        let ffn_mix = self.rows(mixes);
        let ffn_out = self.experts(guesses);
        self.f32s.give([x, mix, out, ffn, ffn_mix, ffn_out]);
    }

    /// Returns the buffer of its output.
    fn attention(&mut self, kind: LayerKind) -> usize {
        let config = self.config;
        let heads = config.num_attention_heads * config.head_dim;
        let groups = config.o_groups * config.o_lora_rank;
        let input = self.quantised(config.hidden_size);
        let qr = self.rows(config.q_lora_rank);
        let qr_quantised = self.quantised(config.q_lora_rank);
        let q = self.rows(heads);
        let kv = self.rows(config.head_dim);
        if kind != LayerKind::Sliding {
            self.compressor(kind, config.head_dim);
        }
        if kind == LayerKind::Csa {
            self.compressor(kind, config.index_head_dim);
            let index = [config.index_n_heads * config.index_head_dim, config.index_n_heads];
            let index = index.map(|cols| self.rows(cols));
            self.f32s.give(index);
        }
        let o = self.rows(heads);
        self.f32s.give([q, kv]);
        let o_quantised = self.quantised(heads);
        let z = self.rows(groups);
        self.f32s.give([o]);
        self.release([o_quantised]);
        let z_quantised = self.quantised(groups);
        let out = self.rows(config.hidden_size);
        self.f32s.give([qr, z]);
        self.release([input, qr_quantised, z_quantised]);
        out
    }

    /// Keys and scores of every token, and the entries that they become.
    fn compressor(&mut self, kind: LayerKind, dim: usize) {
        let features = if kind == LayerKind::Csa { 2 * dim } else { dim };
        let parts = [features, features, 2 * features].map(|cols| self.rows(cols));
        self.f32s.give(parts[..2].iter().copied());
        let entries = self.f32s.take(self.tokens.div_ceil(kind.ratio()) * dim);
        self.f32s.give([parts[2], entries]);
    }

    /// Returns the buffer of its output. All experts of a token may be there at once, wherever they come from.
    fn experts(&mut self, guesses: bool) -> usize {
        let config = self.config;
        let inter = config.moe_intermediate_size;
        let out = self.rows(config.hidden_size);
        let input = self.quantised(config.hidden_size);
        let router = [config.n_routed_experts, 2 * config.num_experts_per_tok].map(|cols| self.rows(cols));
        if guesses {
            self.guess();
        }
        let shared = [inter; 3].map(|cols| self.rows(cols));
        let shared_quantised = self.quantised(inter);
        let shared_out = self.rows(config.hidden_size);
        self.f32s.give(shared);
        self.release([shared_quantised]);
        let routed = self.rows(config.num_experts_per_tok * inter);
        let routed_quantised = self.quantised(config.num_experts_per_tok * inter);
        self.f32s.give([routed]);
        self.release([routed_quantised]);
        self.f32s.give(router.into_iter().chain([shared_out]));
        self.release([input]);
        out
    }

    /// What the router of the next layer is asked with.
    fn guess(&mut self) {
        let config = self.config;
        let mixes = (2 + config.hc_mult) * config.hc_mult;
        let widths = [mixes, config.hidden_size, config.n_routed_experts, 2 * config.num_experts_per_tok];
        let buffers = widths.map(|cols| self.rows(cols));
        self.f32s.give(buffers);
    }

    fn rows(&mut self, cols: usize) -> usize {
        self.f32s.take(self.tokens * cols)
    }

    fn quantised(&mut self, cols: usize) -> Quantised {
        let blocks = cols.div_ceil(PANEL_COLS);
        [self.i8s.take(self.tokens * blocks * PANEL_COLS), self.f32s.take(self.tokens * blocks)]
    }

    fn release(&mut self, quantised: impl IntoIterator<Item = Quantised>) {
        for [codes, scales] in quantised {
            self.i8s.give([codes]);
            self.f32s.give([scales]);
        }
    }
}
