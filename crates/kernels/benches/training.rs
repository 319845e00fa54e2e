//! Speed of the products of a training step at shapes of the presets: forward, gradients of inputs, gradients of weights,
//! and those of Muon. Time, and operations per second beside what this machine can do at most in f32.
//! `cargo bench -p cuvier-kernels --bench training [filter]`

use std::num::NonZeroUsize;
use std::time::Duration;

use cuvier_kernels::{
    Activations, Compute, Isa, Store, gemm, matmul, matmul_transposed, measure_roof, transpose,
};
use cuvier_tensor::{Matrix, WeightMatrix};

mod timing;

use timing::{best_time, filter, numbers};

fn main() {
    let filter = filter();
    for threads in [1, 2] {
        let c = Compute::new(Isa::best(), NonZeroUsize::new(threads).expect("positive"));
        let c = c.expect("threads start");
        let roof = measure_roof(&c).flops_per_s;
        println!("{}, {threads} threads: {:.0} GFLOP/s", c.isa().name(), roof / 1e9);
        let bench = Bench { c, roof, filter: filter.clone() };
        // Dense matrices of all tokens, then an expert's of its own.
        for (tokens, input, output) in [
            (4096, 128, 128),
            (4096, 128, 64),
            (4096, 256, 64),
            (512, 128, 96),
            (512, 96, 128),
            (500, 64, 64),
        ] {
            bench.linear(tokens, input, output);
        }
        for (long, short) in [(128, 96), (128, 64), (256, 128)] {
            bench.muon(long, short);
        }
    }
}

struct Bench {
    c: Compute,
    roof: f64,
    filter: String,
}

impl Bench {
    /// The three products of a matrix `[output, input]`.
    fn linear(&self, tokens: usize, input: usize, output: usize) {
        let flops = 2 * tokens * input * output;
        let (x, dy) = (numbers(tokens, input), numbers(tokens, output));
        let w = numbers(output, input);
        let stored = WeightMatrix::from_f32(w.data(), output, input);
        let mut y = Matrix::zeros(tokens, output);
        self.time(&format!("forward {tokens} tokens, {input} to {output}"), flops, || {
            gemm(&self.c, &Activations::new(x.view()), &stored, y.view_mut());
        });
        let mut dx = Matrix::zeros(tokens, input);
        self.time(&format!("inputs {tokens} tokens, {input} to {output}"), flops, || {
            matmul(&self.c, dy.view(), w.view(), Store::Set, dx.view_mut());
        });
        let mut dw = Matrix::zeros(output, input);
        self.time(&format!("weights {tokens} tokens, {input} to {output}"), flops, || {
            matmul_transposed(&self.c, dy.view(), x.view(), Store::Add, dw.view_mut());
        });
    }

    /// The products of an iteration of Newton-Schulz.
    fn muon(&self, long: usize, short: usize) {
        let x = numbers(long, short);
        let mut gram = Matrix::zeros(short, short);
        self.time(&format!("gram of {long}x{short}"), 2 * long * short * short, || {
            matmul_transposed(&self.c, x.view(), x.view(), Store::Set, gram.view_mut());
        });
        let square = numbers(short, short);
        self.time(&format!("square of {short}x{short}"), 2 * short * short * short, || {
            matmul(&self.c, square.view(), square.view(), Store::Set, gram.view_mut());
        });
        let mut change = Matrix::zeros(long, short);
        self.time(&format!("change of {long}x{short}"), 2 * long * short * short, || {
            matmul(&self.c, x.view(), square.view(), Store::Set, change.view_mut());
        });
        let mut turned = Matrix::zeros(short, long);
        self.time(&format!("turning {long}x{short}"), long * short, || {
            transpose(x.view(), turned.view_mut());
        });
    }

    /// Prints how long it takes, and its share of the roof.
    fn time(&self, name: &str, flops: usize, run: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        let best = best_time(Duration::from_millis(100), run).as_secs_f64();
        let speed = flops as f64 / best;
        let micros = best * 1e6;
        println!("{name:36} {micros:9.1} us {:7.1} GFLOP/s {:3.0} %", speed / 1e9, speed / self.roof * 100.0);
    }
}
