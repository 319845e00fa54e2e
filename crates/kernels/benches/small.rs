//! Speed of the operations between the products: hyper-connections, norms, rotations, router and the like, on one
//! thread, at the shapes of the released Flash model and of a small one. Time per token, and bytes per second of
//! what an operation reads and writes. `cargo bench -p cuvier-kernels --bench small [filter]`

use std::num::NonZeroUsize;
use std::time::Duration;

use cuvier_kernels::{
    CompressorShape, Compute, EntryCodec, HcConfig, HcMix, HyperConnection, IndexKeyCodec, Isa, KvFormat,
    RopeTable, Rotation, add, compress, compressor_rows, embed, encode_entries, encode_index_keys, hadamard,
    hc_collapse, hc_expand, hc_mix, norm_and_rope, quantise, quantise_index_queries, replicate,
    rms_norm_in_place, rope, route_by_score, scale, swiglu,
};
use cuvier_tensor::{Matrix, PagedRows, WeightMatrix};

mod timing;

use timing::{best_time, filter, numbers};

/// What the small operations of a model see.
struct Shapes {
    name: &'static str,
    hidden: usize,
    heads: usize,
    head_dim: usize,
    rope_dim: usize,
    q_lora_rank: usize,
    index_heads: usize,
    experts: usize,
    experts_per_token: usize,
    inter: usize,
}

const STREAMS: usize = 4;

const MODELS: [Shapes; 2] = [
    Shapes {
        name: "tiny",
        hidden: 512,
        heads: 8,
        head_dim: 128,
        rope_dim: 64,
        q_lora_rank: 256,
        index_heads: 8,
        experts: 32,
        experts_per_token: 4,
        inter: 256,
    },
    Shapes {
        name: "flash",
        hidden: 4096,
        heads: 64,
        head_dim: 512,
        rope_dim: 64,
        q_lora_rank: 1024,
        index_heads: 64,
        experts: 256,
        experts_per_token: 6,
        inter: 2048,
    },
];

fn main() {
    let filter = filter();
    let c = Compute::new(Isa::best(), NonZeroUsize::MIN).expect("one thread needs no pool");
    println!("{}, 1 thread", c.isa().name());
    for shapes in &MODELS {
        for tokens in [1, 64, 512] {
            let bench = Bench { c: &c, shapes, tokens, filter: &filter };
            bench.hyper_connections();
            bench.norms_and_rotations();
            bench.router_and_activation();
            bench.copies();
            bench.indexer();
            bench.compressors();
        }
    }
}

struct Bench<'a> {
    c: &'a Compute,
    shapes: &'a Shapes,
    tokens: usize,
    filter: &'a str,
}

impl Bench<'_> {
    fn hyper_connections(&self) {
        let (c, tokens, hidden) = (self.c, self.tokens, self.shapes.hidden);
        let cols = STREAMS * hidden;
        let cfg = HcConfig { hc_mult: STREAMS, sinkhorn_iters: 20, hc_eps: 1e-6, norm_eps: 1e-6 };
        let rows = (2 + STREAMS) * STREAMS;
        let weights = WeightMatrix::from_f32(numbers(rows, cols).data(), rows, cols);
        let scale = vec![0.01; 3];
        let hc =
            || HyperConnection::new(&weights, vec![0.1; rows], scale.clone(), STREAMS).expect("shapes fit");
        let mut streams = numbers(tokens, cols);
        let one = hc();
        let mix = hc_mix(c, streams.view(), &one, &cfg);
        let weight_bytes = 4 * rows * cols;
        self.time("hc_mix", tokens * 4 * cols + weight_bytes, || {
            hc_mix(c, streams.view(), &one, &cfg);
        });
        if tokens == 1 {
            // As in a step: the weights of every layer in turn, so that none is still near.
            let layers: Vec<_> = (0..(64 << 20) / weight_bytes).map(|_| hc()).collect();
            let mut layer = layers.iter().cycle();
            self.time("hc_mix, weights from memory", 4 * cols + weight_bytes, || {
                hc_mix(c, streams.view(), layer.next().expect("endless"), &cfg);
            });
        }
        let mut out = Matrix::zeros(tokens, hidden);
        let norm = vec![1.0; hidden];
        self.time("hc_collapse", tokens * 4 * (cols + hidden), || {
            hc_collapse(c, streams.view(), &mix.pre, &norm, 1e-6, out.view_mut());
        });
        // Numbers of a mean, so that repetition neither grows nor vanishes.
        let share = |_: usize| 1.0 / STREAMS as f32;
        let mean = HcMix {
            pre: mix.pre.clone(),
            post: Matrix::from_vec(vec![0.1; tokens * STREAMS], STREAMS).into(),
            comb: Matrix::from_vec((0..tokens * STREAMS * STREAMS).map(share).collect(), STREAMS * STREAMS)
                .into(),
        };
        self.time("hc_expand", tokens * 4 * (2 * cols + hidden), || {
            hc_expand(c, streams.view_mut(), out.view(), &mean);
        });
    }

    fn norms_and_rotations(&self) {
        let Shapes { hidden, heads, head_dim, rope_dim, q_lora_rank, .. } = *self.shapes;
        let (c, tokens) = (self.c, self.tokens);
        let weight = vec![1.0; q_lora_rank];
        let mut qr = numbers(tokens, q_lora_rank);
        self.time("rms_norm_in_place q_lora_rank", tokens * 8 * q_lora_rank, || {
            rms_norm_in_place(c, qr.view_mut(), Some(&weight), 1e-6);
        });
        let mut q = numbers(tokens * heads, head_dim);
        let table = RopeTable::plain(10000.0, rope_dim);
        let positions: Vec<u32> = (0..tokens as u32).collect();
        self.time("angles", tokens * 4 * rope_dim, || {
            table.angles(self.c, &positions);
        });
        let angles = table.angles(self.c, &positions);
        self.time("norm_and_rope heads", tokens * 8 * heads * head_dim, || {
            norm_and_rope(c, q.view_mut(), None, 1e-6, heads, &angles);
        });
        self.time("rope heads", tokens * 8 * heads * rope_dim, || {
            rope(c, q.view_mut(), heads, &angles, Rotation::Forward);
        });
        let x = numbers(tokens, hidden);
        self.time("quantise hidden", tokens * 5 * hidden, || {
            quantise(c, x.view());
        });
        let q = Matrix::from_vec(q.into_vec(), heads * head_dim);
        self.time("quantise heads", tokens * 5 * heads * head_dim, || {
            quantise(c, q.view());
        });
    }

    fn router_and_activation(&self) {
        let Shapes { experts, experts_per_token, inter, .. } = *self.shapes;
        let (c, tokens) = (self.c, self.tokens);
        let (logits, bias) = (numbers(tokens, experts), vec![0.0; experts]);
        self.time("route_by_score", tokens * 4 * experts, || {
            route_by_score(c, logits.view(), &bias, experts_per_token, 1.5);
        });
        let (gate, up) = (numbers(tokens, inter), numbers(tokens, inter));
        let mut out = Matrix::zeros(tokens, inter);
        self.time("swiglu", tokens * 12 * inter, || {
            swiglu(c, gate.view(), up.view(), 10.0, out.view_mut());
        });
    }

    fn copies(&self) {
        let (c, tokens, hidden) = (self.c, self.tokens, self.shapes.hidden);
        let table = WeightMatrix::from_f32(numbers(1000, hidden).data(), 1000, hidden);
        let ids: Vec<u32> = (0..tokens as u32).map(|t| t * 37 % 1000).collect();
        let mut out = Matrix::zeros(tokens, hidden);
        self.time("embed", tokens * 8 * hidden, || embed(c, &ids, &table, out.view_mut()));
        self.time("replicate", tokens * 4 * hidden * (1 + STREAMS), || {
            replicate(c, out.view(), STREAMS);
        });
        let y = numbers(tokens, hidden);
        self.time("add", tokens * 12 * hidden, || add(c, out.view_mut(), y.view()));
    }

    fn indexer(&self) {
        let (c, tokens, heads) = (self.c, self.tokens, self.shapes.index_heads);
        let mut q = numbers(tokens * heads, 128);
        self.time("hadamard", tokens * 8 * heads * 128, || hadamard(c, q.view_mut()));
        self.time("quantise_index_queries", tokens * 8 * heads * 128, || {
            quantise_index_queries(c, q.view_mut());
        });
        let mut w = numbers(tokens, heads);
        self.time("scale", tokens * 8 * heads, || scale(c, w.view_mut(), 1.0));
        let (keys, codec) = (numbers(tokens, 128), IndexKeyCodec { format: KvFormat::Fp8, dim: 128 });
        let mut bytes = Matrix::zeros(tokens, codec.row_bytes());
        self.time("encode_index_keys", tokens * (512 + codec.row_bytes()), || {
            encode_index_keys(c, &codec, keys.view(), bytes.view_mut());
        });
    }

    fn compressors(&self) {
        let Shapes { head_dim, rope_dim, .. } = *self.shapes;
        let (c, tokens) = (self.c, self.tokens);
        for (ratio, overlap) in [(4, true), (128, false)] {
            let shape = CompressorShape { ratio, overlap, dim: head_dim };
            let (k, s) = (numbers(tokens, shape.features()), numbers(tokens, shape.features()));
            let ape = vec![0.1; ratio * shape.features()];
            let positions: Vec<u32> = (0..tokens as u32).collect();
            let mut out = Matrix::zeros(tokens, shape.row_len());
            let bytes = 8 * shape.row_len();
            self.time(&format!("compressor_rows {ratio}"), tokens * bytes, || {
                compressor_rows(c, k.view(), s.view(), &ape, ratio, &positions, out.view_mut());
            });
            let mut rows = PagedRows::new(shape.row_len(), 0);
            rows.extend(numbers(tokens.next_multiple_of(ratio), shape.row_len()).data());
            let blocks = tokens.div_ceil(ratio);
            let mut entries = Matrix::zeros(blocks, head_dim);
            self.time(&format!("compress {ratio}"), 4 * rows.range().len() * shape.row_len(), || {
                compress(c, &rows, shape, 0..blocks, entries.view_mut());
            });
        }
        let codec = EntryCodec { format: KvFormat::Fp8, head_dim, rope_dim };
        let (x, mut bytes) = (numbers(tokens, head_dim), Matrix::zeros(tokens, codec.row_bytes()));
        self.time("encode_entries", tokens * (4 * head_dim + codec.row_bytes()), || {
            encode_entries(c, &codec, x.view(), bytes.view_mut());
        });
    }

    /// Prints how long it takes, and what it reads and writes in that time.
    fn time(&self, operation: &str, bytes: usize, mut run: impl FnMut()) {
        let name = format!("{} {:3} {operation}", self.shapes.name, self.tokens);
        if !name.contains(self.filter) {
            return;
        }
        // One token takes less than the clock can tell: several runs a reading.
        let repeat = if self.tokens == 1 { 16 } else { 1 };
        let best = best_time(Duration::from_millis(200), || (0..repeat).for_each(|_| run()));
        let seconds = best.as_secs_f64() / f64::from(repeat);
        println!(
            "{name:48} {:10.0} ns/token {:7.1} GB/s",
            seconds / self.tokens as f64 * 1e9,
            bytes as f64 / seconds / 1e9
        );
    }
}
