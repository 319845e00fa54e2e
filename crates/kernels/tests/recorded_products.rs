//! Products with FP8 and FP4 weights, against outputs that an independent program recorded: every bit must be right.
//! `fixtures/arithmetic/README.md` says what they are and how they were made.

use std::num::NonZeroUsize;
use std::sync::Arc;

use cuvier_kernels::{Activations, Compute, Isa, gemm, gemm_grouped, pack};
use cuvier_tensor::{Dtype, MatRef, Matrix, Tensor, WeightFormat, WeightMatrix};
use safetensors::SafeTensors;

fn truth() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/arithmetic/products.safetensors");
    std::fs::read(path).expect("the truth is there")
}

fn floats(truth: &SafeTensors<'_>, name: &str) -> Matrix {
    let tensor = truth.tensor(name).expect("the truth has this tensor");
    let numbers = tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    Matrix::from_vec(numbers.collect(), tensor.shape()[1])
}

/// The bytes of `name` as a tensor of `dtype`.
fn stored(truth: &SafeTensors<'_>, name: &str, dtype: Dtype) -> Tensor {
    let tensor = truth.tensor(name).expect("the truth has this tensor");
    let len = tensor.data().len();
    Tensor::new(Arc::new(tensor.data().to_vec()), 0..len, dtype, tensor.shape().to_vec()).expect("it fits")
}

fn weights(truth: &SafeTensors<'_>, name: &str) -> WeightMatrix {
    let [weight, scale] = ["weight", "scale"].map(|part| format!("{name}.{part}"));
    WeightMatrix::new(if name.starts_with("fp4") {
        WeightFormat::Fp4 {
            weight: stored(truth, &weight, Dtype::I8),
            scale: stored(truth, &scale, Dtype::F8E8M0),
        }
    } else {
        let scales = if name.starts_with("fp8_f32") { Dtype::F32 } else { Dtype::F8E8M0 };
        WeightFormat::Fp8 {
            weight: stored(truth, &weight, Dtype::F8E4M3),
            scale: stored(truth, &scale, scales),
        }
    })
    .expect("the parts fit")
}

/// The places where `got` is not `want` to the bit; all NaN are one.
fn differing(got: &[f32], want: &[f32]) -> Vec<usize> {
    assert_eq!(got.len(), want.len());
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    (0..got.len()).filter(|&i| !same(got[i], want[i])).collect()
}

/// One matrix with its inputs and outputs.
struct Case {
    name: &'static str,
    w: WeightMatrix,
    x: Matrix,
    y: Matrix,
}

impl Case {
    fn read(name: &'static str) -> Self {
        let truth = truth();
        let truth = SafeTensors::deserialize(&truth).expect("a safetensors file");
        let floats = |part| floats(&truth, &format!("{name}.{part}"));
        let w = weights(&truth, name);
        Self { name, w, x: floats("x"), y: floats("y") }
    }

    /// The recorded rows over and over, as `rows` tokens of one product.
    fn check(&self, c: &Compute, first: usize, rows: usize) {
        let repeated = |m: &Matrix| -> Vec<f32> {
            (first..first + rows).flat_map(|row| m.row(row % m.rows()).iter().copied()).collect()
        };
        let (x, want) = (repeated(&self.x), repeated(&self.y));
        let mut out = Matrix::zeros(rows, self.w.rows());
        gemm(c, &Activations::new(MatRef::new(&x, rows, self.x.cols())), &self.w, out.view_mut());
        let differing = differing(out.data(), &want);
        let name = self.name;
        assert!(
            differing.is_empty(),
            "{name}, {rows} rows from {first} on, {}: {differing:?}",
            c.isa().name()
        );
    }

    /// The same rows as inputs of two output groups, which see each other's inputs not at all.
    fn check_groups(&self, c: &Compute) {
        let tokens = self.x.rows() / 2;
        let inputs = MatRef::new(&self.x.data()[..2 * tokens * self.x.cols()], 2 * tokens, self.x.cols());
        let mut out = Matrix::zeros(tokens, self.w.rows());
        gemm_grouped(c, &Activations::new(inputs), &self.w, 2, out.view_mut());
        let rank = self.w.rows() / 2;
        for input in 0..2 * tokens {
            let part = input % 2 * rank..(input % 2 + 1) * rank;
            let (got, want) = (&out.row(input / 2)[part.clone()], &self.y.row(input)[part]);
            let differing = differing(got, want);
            assert!(differing.is_empty(), "{}, input {input}, {}: {differing:?}", self.name, c.isa().name());
        }
    }
}

fn one_thread(isa: Isa) -> Compute {
    Compute::new(isa, NonZeroUsize::MIN).expect("one thread needs no pool")
}

fn check(names: &[&'static str]) {
    for case in names.iter().map(|name| Case::read(name)) {
        for c in Isa::available().into_iter().map(one_thread) {
            (0..case.x.rows()).for_each(|row| case.check(&c, row, 1));
            [2, 3, 4, 5, 8, 9, 16, 70].into_iter().for_each(|rows| case.check(&c, 1, rows));
            if case.w.rows().is_multiple_of(2) {
                case.check_groups(&c);
            }
        }
    }
}

#[test]
fn fp4_products_have_the_recorded_bits() {
    check(&["fp4.a", "fp4.b", "fp4.c", "fp4.d"]);
}

#[test]
fn fp8_products_have_the_recorded_bits_packed_when_loaded_or_not() {
    let names = ["fp8.a", "fp8.b", "fp8.c", "fp8_f32.a"];
    check(&names);
    for name in names {
        let mut case = Case::read(name);
        case.w = pack(&one_thread(Isa::best()), &case.w);
        for c in Isa::available().into_iter().map(one_thread) {
            [1, 3, 9, 70].into_iter().for_each(|rows| case.check(&c, 0, rows));
        }
    }
}
