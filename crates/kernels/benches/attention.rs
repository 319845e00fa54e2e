//! Speed of attention and of the indexer at shapes of the released models: time, and operations per second beside
//! what this machine can do at most in f32. The indexer's FP4 keys are met in integers, of which the machine can do more
//! than of f32: its share may be over 100 %. `cargo bench -p cuvier-kernels --bench attention [filter]`

use std::num::NonZeroUsize;
use std::time::Duration;

use cuvier_kernels::{
    AttentionConfig, AttentionSegment, Compute, Entries, EntryCodec, IndexKeyCodec, IndexSegment, Isa,
    KvFormat, Selection, attention, encode_entries, encode_index_keys, hadamard, index_select, measure_roof,
    quantise_index_queries,
};
use cuvier_tensor::{Matrix, PagedRows};

mod timing;

use timing::{best_time, filter, numbers};

fn main() {
    let filter = filter();
    // Plain Rust without fused multiply-add is a hundred times slower.
    let fast = Isa::available().into_iter().filter(|isa| !matches!(isa, Isa::Scalar));
    for (isa, threads) in fast.map(|isa| (isa, 1)).chain([(Isa::best(), 2)]) {
        let threads = NonZeroUsize::new(threads).expect("positive");
        let c = Compute::new(isa, threads).expect("threads start");
        let roof = measure_roof(&c).flops_per_s;
        println!("{}, {threads} threads: {:.0} GFLOP/s", c.isa().name(), roof / 1e9);
        let bench = Bench { c, roof, filter: filter.clone() };
        bench.attention(1, 64, 512);
        bench.attention(1, 4, 512);
        bench.attention(1, 64, 8192);
        bench.attention(4, 64, 512);
        bench.attention(1, 128, 1024);
        bench.attention(512, 64, 512);
        bench.index_select(1, 4096);
        bench.index_select(1, 65_536);
        bench.index_select(1, 262_144);
        bench.index_select(8, 4096);
        bench.index_select(64, 16_384);
        bench.index_queries(1);
        bench.index_queries(512);
        bench.encode(512);
    }
}

struct Bench {
    c: Compute,
    roof: f64,
    filter: String,
}

impl Bench {
    /// `tokens` tokens that each look at a full window and `selected` entries.
    fn attention(&self, tokens: usize, heads: usize, selected: usize) {
        let codec = EntryCodec { format: KvFormat::Fp8, head_dim: 512, rope_dim: 64 };
        let past = PagedRows::new(codec.row_bytes(), 0);
        let (mut window, mut entries) = (past.clone(), past);
        for (rows, count) in [(&mut window, 128 + tokens), (&mut entries, 2 * selected)] {
            let mut bytes = Matrix::zeros(count, codec.row_bytes());
            encode_entries(&self.c, &codec, numbers(count, 512).view(), bytes.view_mut());
            rows.extend(bytes.data());
        }
        let mut selection = Selection::default();
        for token in 0..tokens {
            selection.push(&(0..selected).map(|j| (2 * j + token % 2) as u32).collect::<Vec<_>>());
        }
        let sinks = vec![0.5; heads];
        let config =
            AttentionConfig { codec, attn_sink: &sinks, sliding_window: 128, scale: 512f32.powf(-0.5) };
        let q = numbers(tokens, heads * 512);
        let mut out = Matrix::zeros(tokens, heads * 512);
        let segment = AttentionSegment {
            tokens: 0..tokens,
            first_position: 128,
            window: &window,
            entries: Some(&entries),
        };
        let chosen = Entries::Selected(&selection);
        let name = format!("attention {tokens} tokens, {heads}x512, 128+{selected} keys");
        self.time(&name, 4 * tokens * heads * 512 * (128 + selected), || {
            attention(&self.c, q.view(), std::slice::from_ref(&segment), chosen, &config, out.view_mut());
        });
    }

    fn index_select(&self, tokens: usize, count: usize) {
        let codec = IndexKeyCodec { format: KvFormat::Fp8, dim: 128 };
        let mut keys = PagedRows::new(codec.row_bytes(), 0);
        let mut bytes = Matrix::zeros(count, codec.row_bytes());
        encode_index_keys(&self.c, &codec, numbers(count, 128).view(), bytes.view_mut());
        keys.extend(bytes.data());
        let (q, w) = (numbers(tokens * 64, 128), numbers(tokens, 64));
        let segment = IndexSegment { tokens: 0..tokens, first_position: 4 * count - tokens, keys: &keys };
        self.time(
            &format!("index_select {tokens} tokens, 64x128, {count} keys"),
            2 * tokens * 64 * 128 * count,
            || {
                index_select(&self.c, q.view(), w.view(), std::slice::from_ref(&segment), &codec, 4, 512);
            },
        );
    }

    fn index_queries(&self, tokens: usize) {
        let mut q = numbers(tokens * 64, 128);
        self.time(&format!("hadamard {tokens} tokens, 64x128"), tokens * 64 * 128 * 8, || {
            hadamard(&self.c, q.view_mut());
        });
        self.time(&format!("quantise_index_queries {tokens} tokens, 64x128"), tokens * 64 * 128 * 6, || {
            quantise_index_queries(&self.c, q.view_mut());
        });
    }

    fn encode(&self, rows: usize) {
        let codec = EntryCodec { format: KvFormat::Fp8, head_dim: 512, rope_dim: 64 };
        let x = numbers(rows, 512);
        let mut out = Matrix::zeros(rows, codec.row_bytes());
        self.time(&format!("encode_entries {rows}x512"), rows * 512 * 6, || {
            encode_entries(&self.c, &codec, x.view(), out.view_mut());
        });
    }

    /// Prints how long it takes, and its share of the roof.
    fn time(&self, name: &str, flops: usize, run: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        let best = best_time(Duration::from_millis(500), run).as_secs_f64();
        let speed = flops as f64 / best;
        let micros = best * 1e6;
        println!(
            "{name:46} {micros:10.1} us {:7.1} GFLOP/s {:3.0} %",
            speed / 1e9,
            speed / self.roof * 100.0
        );
    }
}
