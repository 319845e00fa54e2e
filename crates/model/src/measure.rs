//! What measuring needs: states of any length without computing them, and the bytes and operations of a step.

use cuvier_kernels::{
    Compute, EntryCodec, IndexKeyCodec, KvFormat, Operations, encode_entries, encode_index_keys,
};
use cuvier_tensor::{Dtype, Matrix, PagedRows, WeightFormat, WeightMatrix};
use cuvier_weights::ModelConfig;
use cuvier_weights::accounting::flops_per_token;

use crate::attention::Compressed;
use crate::layer::Layer;
use crate::moe::Experts;
use crate::{SequenceState, Transformer};

/// Distinct rows that a filled state repeats.
const DISTINCT_ROWS: usize = 61;

impl Transformer {
    /// A state of `position` tokens whose rows are random numbers in true format: the next token costs what it
    /// would cost after that many computed ones. For measuring only.
    ///
    /// # Panics
    /// If `position` exceeds the context.
    pub fn filled_state(&self, kv: KvFormat, position: usize, compute: &Compute) -> SequenceState {
        assert!(position <= self.config.max_position_embeddings, "{position} tokens exceed the context");
        let mut state = self.new_state(kv);
        let geometry = state.geometry.clone();
        let window = position.saturating_sub(self.config.sliding_window - 1);
        let layers = self.layers.iter().zip(&mut state.layers).zip(&geometry.layers);
        for ((layer, state), geometry) in layers {
            let codec = layer.attn.codec(kv);
            fill_entries(&mut state.window, window..position, &codec, compute);
            let Some((compressed, geometry)) = state.compressed.as_mut().zip(geometry.compressed.as_ref())
            else {
                continue;
            };
            let (pending, groups) =
                (geometry.pending_start(position)..position, 0..position / geometry.ratio);
            fill_floats(&mut compressed.pending, pending.clone());
            fill_entries(&mut compressed.entries, groups.clone(), &codec, compute);
            if let (Some(index), Compressed::Csa { indexer, .. }) =
                (&mut compressed.index, &layer.attn.compressed)
            {
                fill_floats(&mut index.pending, pending);
                fill_keys(&mut index.keys, groups, &indexer.codec(kv), compute);
            }
        }
        state.position = position;
        state
    }

    /// Bytes of weights that a step of `slots` sequences with one token each reads, if experts are chosen evenly:
    /// every dense matrix once, the LM head included, one embedding row per token, and the distinct experts.
    pub fn decode_weight_bytes(&self, slots: usize) -> f64 {
        let embedding = self.embed.row_bytes() * slots;
        let layers: f64 = self.layers.iter().map(|layer| layer.decode_bytes(slots)).sum();
        (embedding + self.head.bytes()) as f64 + layers
    }

    /// Operations to prefill `tokens` tokens from an empty state, the LM head for the last one only.
    pub fn prefill_operations(&self, kv: KvFormat, tokens: usize) -> Operations {
        let first = self.layers.first();
        let kinds = Kinds {
            dense: first.map_or(Kind::F32, |layer| Kind::of(&layer.attn.wq_a)),
            experts: first.map_or(Kind::F32, |layer| Kind::of_experts(&layer.ffn.experts)),
            head: Kind::of(&self.head),
            index: if kv == KvFormat::Fp8 { Kind::Fp4 } else { Kind::F32 },
        };
        prefill_operations(&self.config, kinds, tokens)
    }
}

/// What products run on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    F32,
    Int8,
    Fp4,
}

impl Kind {
    /// What products with routed experts run on.
    fn of_experts(experts: &Experts) -> Self {
        match experts {
            Experts::Loaded(all) => all.first().map_or(Self::F32, |expert| Self::of(&expert.w1)),
            Experts::Stored { store, .. } => match store.dtype() {
                Some(Dtype::I8) => Self::Fp4,
                Some(Dtype::F8E4M3) => Self::Int8,
                _ => Self::F32,
            },
        }
    }

    /// What products with `weight` run on.
    fn of(weight: &WeightMatrix) -> Self {
        match weight.format() {
            WeightFormat::F32(_) | WeightFormat::Bf16(_) => Self::F32,
            WeightFormat::Fp8 { .. } | WeightFormat::Int8(_) => Self::Int8,
            WeightFormat::Fp4 { .. } => Self::Fp4,
        }
    }
}

/// What the products of a model run on, where that follows from how it is stored. All others are in f32.
#[derive(Clone, Copy)]
struct Kinds {
    /// Projections of attention, shared experts, index queries.
    dense: Kind,
    /// Routed experts.
    experts: Kind,
    head: Kind,
    /// Scores of the indexer.
    index: Kind,
}

/// Positions at which the operations of a prompt are counted: they do not grow evenly.
const COUNTED: usize = 64;

fn prefill_operations(config: &ModelConfig, kinds: Kinds, tokens: usize) -> Operations {
    let mut operations = Operations::default();
    let mut add = |kind, amount| match kind {
        Kind::F32 => operations.f32 += amount,
        Kind::Int8 => operations.int8 += amount,
        Kind::Fp4 => operations.fp4 += amount,
    };
    let head = 2.0 * config.vocab_size as f64 * config.hidden_size as f64;
    add(kinds.head, head);
    let mut config = config.clone();
    let window = config.sliding_window;
    for i in 0..COUNTED {
        let position = tokens * (2 * i + 1) / (2 * COUNTED);
        config.sliding_window = window.min(position + 1);
        let flops = flops_per_token(&config, position as u64);
        let times = tokens as f64 / COUNTED as f64;
        add(kinds.dense, times * flops.fp8_weights);
        add(kinds.experts, times * flops.routed_experts);
        add(kinds.index, times * flops.indexer);
        add(Kind::F32, times * (flops.small - head + flops.core_attention));
    }
    operations
}

impl SequenceState {
    /// Bytes of state that the next token reads: windows, all entries of HCA layers, and in CSA layers all index
    /// keys and the selected entries.
    pub fn decode_bytes(&self, index_topk: usize) -> usize {
        let layers = self.layers.iter();
        let rows = layers.map(|layer| {
            let window =
                layer.window.range().len().min(self.geometry.sliding_window) * layer.window.row_len();
            let compressed = layer.compressed.as_ref().map_or(0, |compressed| {
                let entries = compressed.entries.range().len();
                match &compressed.index {
                    None => entries * compressed.entries.row_len(),
                    Some(index) => {
                        entries * index.keys.row_len()
                            + entries.min(index_topk) * compressed.entries.row_len()
                    }
                }
            });
            window + compressed
        });
        rows.sum()
    }
}

impl Layer {
    fn decode_bytes(&self, slots: usize) -> f64 {
        let attn = &self.attn;
        let compressor = |c: &crate::compressor::Compressor| c.wkv.bytes() + c.wgate.bytes();
        let compressed = match &attn.compressed {
            Compressed::Sliding => 0,
            Compressed::Hca { compressor: c } => compressor(c),
            Compressed::Csa { compressor: c, indexer } => {
                compressor(c)
                    + compressor(&indexer.compressor)
                    + indexer.wq_b.bytes()
                    + indexer.weights_proj.bytes()
            }
        };
        let projections = [&attn.wq_a, &attn.wq_b, &attn.wkv, &attn.wo_a, &attn.wo_b];
        let shared = &self.ffn.shared_experts;
        let dense =
            projections.into_iter().chain([&self.ffn.gate.weight, &shared.w1, &shared.w3, &shared.w2]);
        let dense = dense.map(WeightMatrix::bytes).sum::<usize>() + compressed;
        let experts = self.ffn.experts.len() as f64;
        let expert = self.ffn.experts.bytes_of_one();
        let unused = (1.0 - self.ffn.num_experts_per_tok as f64 / experts).powi(slots as i32);
        dense as f64 + experts * (1.0 - unused) * expert as f64
    }
}

fn fill_entries(
    rows: &mut PagedRows<u8>,
    range: std::ops::Range<usize>,
    codec: &EntryCodec,
    compute: &Compute,
) {
    let mut bytes = Matrix::<u8>::zeros(DISTINCT_ROWS, codec.row_bytes());
    encode_entries(compute, codec, random(codec.head_dim).view(), bytes.view_mut());
    fill(rows, range, &bytes);
}

fn fill_keys(
    rows: &mut PagedRows<u8>,
    range: std::ops::Range<usize>,
    codec: &IndexKeyCodec,
    compute: &Compute,
) {
    let mut bytes = Matrix::<u8>::zeros(DISTINCT_ROWS, codec.row_bytes());
    encode_index_keys(compute, codec, random(codec.dim).view(), bytes.view_mut());
    fill(rows, range, &bytes);
}

fn fill_floats(rows: &mut PagedRows<f32>, range: std::ops::Range<usize>) {
    let values = random(rows.row_len());
    fill(rows, range, &values);
}

fn fill<T: Copy + Default>(rows: &mut PagedRows<T>, range: std::ops::Range<usize>, distinct: &Matrix<T>) {
    *rows = PagedRows::new(rows.row_len(), range.start);
    for index in range {
        rows.extend(distinct.row(index % distinct.rows()));
    }
}

/// [`DISTINCT_ROWS`] rows of `cols` numbers between -1 and 1.
fn random(cols: usize) -> Matrix {
    let values = (0..DISTINCT_ROWS * cols).map(|i| {
        let bits = (i as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((bits ^ (bits >> 29)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    Matrix::from_vec(values.collect(), cols)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: Kinds = Kinds { dense: Kind::Int8, experts: Kind::Fp4, head: Kind::Int8, index: Kind::Fp4 };

    #[test]
    fn the_operations_of_a_prompt_of_one_token_are_those_of_the_token() {
        let config = ModelConfig { sliding_window: 1, ..ModelConfig::flash() };
        let Operations { f32, int8, fp4 } = prefill_operations(&config, KINDS, 1);
        let flops = flops_per_token(&config, 0);
        assert!(((f32 + int8 + fp4) / flops.raw() - 1.0).abs() < 1e-12);
        assert!((fp4 / flops.routed_experts - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_prompt_has_one_head_and_attention_that_grows() {
        let config = ModelConfig::flash();
        let flops = flops_per_token(&config, 0);
        let [short, long] = [4096, 8192].map(|tokens| prefill_operations(&config, KINDS, tokens));
        let head = 2.0 * config.vocab_size as f64 * config.hidden_size as f64;
        assert!((long.int8 / (8192.0 * flops.fp8_weights + head) - 1.0).abs() < 1e-12);
        assert!(long.f32 > 2.0 * short.f32 && long.fp4 > 2.0 * short.fp4);
        // Of 2048 visible entries the indexer scores half on average, in each CSA layer.
        let index = Kinds { experts: Kind::Int8, ..KINDS };
        let scored = prefill_operations(&config, index, 8192).fp4 / 8192.0;
        let layers = config.n_layers_of(cuvier_weights::LayerKind::Csa);
        let all = (2 * layers * config.index_n_heads * config.index_head_dim * 1024) as f64;
        assert!((scored / all - 1.0).abs() < 1e-3, "{scored} of {all}");
    }

    #[test]
    fn random_rows_differ_and_stay_within_one() {
        let rows = random(64);
        assert!(rows.data().iter().all(|x| x.abs() <= 1.0));
        assert_ne!(rows.row(0), rows.row(1));
    }
}
