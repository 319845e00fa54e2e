//! Speed of the products with stored weights, at shapes of the released models: time, and bytes or operations per
//! second beside what this machine can do at most. `cargo bench -p cuvier-kernels --bench products [filter]`

use std::num::NonZeroUsize;
use std::time::Duration;

use cuvier_kernels::{Activations, Compute, ExpertWeights, Isa, Roof, experts, gemm, measure_roof, pack};
use cuvier_tensor::{Dtype, Matrix, Tensor, WeightFormat, WeightMatrix};

mod timing;

use timing::{best_time, filter, numbers};

/// How long a case runs.
const WITHIN: Duration = Duration::from_millis(800);

fn main() {
    let filter = filter();
    for threads in [1, 2] {
        let threads = NonZeroUsize::new(threads).expect("positive");
        let c = Compute::new(Isa::best(), threads).expect("threads start");
        let roof = measure_roof(&c);
        let isa = c.isa().name();
        println!(
            "{isa}, {threads} threads: {:.1} GB/s, {:.0} GFLOP/s",
            roof.memory_bytes_per_s / 1e9,
            roof.flops_per_s / 1e9
        );
        for (name, rows) in [("bf16", 8192), ("int8", 16384), ("fp4", 32768)] {
            for tokens in [1, 2, 3, 4, 6, 8, 12, 24, 96] {
                bench_gemm(&c, &roof, &filter, name, (rows, 4096), tokens);
            }
            bench_gemm(&c, &roof, &filter, name, (512, 4096), 512);
            bench_gemm(&c, &roof, &filter, name, (2048, 1024), 512);
        }
        bench_gemm(&c, &roof, &filter, "bf16", (256, 4096), 1);
        bench_gemm(&c, &roof, &filter, "int8", (512, 4096), 1);
        bench_pack(&c, &roof, &filter, "fp8", (16384, 4096));
        bench_pack(&c, &roof, &filter, "bf16", (16384, 4096));
        for tokens in [1, 8, 128] {
            bench_experts(&c, &roof, &filter, tokens);
        }
    }
}

fn print(roof: &Roof, name: &str, time: Duration, bytes: usize, products: usize) {
    let seconds = time.as_secs_f64();
    let (bytes, flops) = (bytes as f64 / seconds, 2.0 * products as f64 / seconds);
    println!(
        "{name:32} {:9.1} us {:6.1} GB/s {:3.0} % {:7.1} GFLOP/s {:3.0} %",
        seconds * 1e6,
        bytes / 1e9,
        bytes / roof.memory_bytes_per_s * 100.0,
        flops / 1e9,
        flops / roof.flops_per_s * 100.0,
    );
}

fn bench_gemm(
    c: &Compute,
    roof: &Roof,
    filter: &str,
    format: &str,
    (rows, cols): (usize, usize),
    tokens: usize,
) {
    let name = format!("gemm_{format} {tokens}x{cols}x{rows}");
    if name.contains(filter) {
        let w = match format {
            "int8" => pack(c, &weights("fp8", rows, cols)),
            _ => weights(format, rows, cols),
        };
        let x = numbers(tokens, cols);
        let mut out = Matrix::zeros(tokens, rows);
        let time = best_time(WITHIN, || gemm(c, &Activations::new(x.view()), &w, out.view_mut()));
        print(roof, &name, time, w.bytes(), rows * cols * tokens);
    }
}

/// From stored weights to panels, memory and its pages included.
fn bench_pack(c: &Compute, roof: &Roof, filter: &str, format: &str, (rows, cols): (usize, usize)) {
    let name = format!("pack_{format} {cols}x{rows}");
    if name.contains(filter) {
        let w = weights(format, rows, cols);
        let time = best_time(WITHIN, || drop(pack(c, &w)));
        print(roof, &name, time, w.bytes(), 0);
    }
}

fn bench_experts(c: &Compute, roof: &Roof, filter: &str, tokens: usize) {
    const DIM: usize = 4096;
    const INTER: usize = 2048;
    const N: usize = 32;
    const K: usize = 6;
    let name = format!("experts_fp4 {tokens}x{DIM}x{INTER}, {K} of {N}");
    if name.contains(filter) {
        let make = |_| ExpertWeights {
            w1: weights("fp4", INTER, DIM),
            w3: weights("fp4", INTER, DIM),
            w2: weights("fp4", DIM, INTER),
        };
        let all: Vec<ExpertWeights> = (0..N).map(make).collect();
        let ids: Vec<u16> =
            (0..tokens).flat_map(|t| (0..K).map(move |j| ((t * 7 + j * 5) % N) as u16)).collect();
        let mut used = ids.clone();
        used.sort_unstable();
        used.dedup();
        let bytes = used.len() * (2 * all[0].w1.bytes() + all[0].w2.bytes());
        let (routing, x) = (numbers(tokens, K), numbers(tokens, DIM));
        let mut out = Matrix::zeros(tokens, DIM);
        // Others each time, as in a step: the same ones would stay in a large cache.
        let turned = |turn| Matrix::from_vec(ids.iter().map(|id| (id + turn) % N as u16).collect(), K);
        let turns: Vec<Matrix<u16>> = (0..N as u16).map(turned).collect();
        let mut turn = turns.iter().cycle().step_by(K);
        let time = best_time(WITHIN, || {
            let ids = turn.next().expect("endless");
            experts(c, &Activations::new(x.view()), ids, &routing, &all, 10.0, out.view_mut());
        });
        print(roof, &name, time, bytes, 3 * DIM * INTER * tokens * K);
    }
}

fn weights(format: &str, rows: usize, cols: usize) -> WeightMatrix {
    let mut state = 1u64;
    let mut tensor = |dtype, rows, cols, byte: &dyn Fn(u8) -> u8| {
        let bytes = (0..rows * cols * Dtype::size(dtype)).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            byte((state >> 56) as u8)
        });
        Tensor::from_bytes(bytes.collect(), dtype, vec![rows, cols]).expect("the shape fits")
    };
    let format = match format {
        "bf16" => WeightFormat::Bf16(tensor(Dtype::BF16, rows, cols, &|b| b & 0x3F | 0x20)),
        "fp8" => WeightFormat::Fp8 {
            weight: tensor(Dtype::F8E4M3, rows, cols, &|b| b & 0xBF),
            scale: tensor(Dtype::F8E8M0, rows.div_ceil(128), cols.div_ceil(128), &|b| 120 + b % 4),
        },
        _ => WeightFormat::Fp4 {
            weight: tensor(Dtype::I8, rows, cols / 2, &|b| b),
            scale: tensor(Dtype::F8E8M0, rows, cols / 32, &|b| 120 + b % 4),
        },
    };
    WeightMatrix::new(format).expect("the parts fit")
}
