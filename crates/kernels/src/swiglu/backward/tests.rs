use cuvier_tensor::Matrix;

use super::*;
use crate::swiglu::reference;
use crate::testing::{assert_gradient, differences, everywhere, scalar, uniform, wide};

const LIMIT: f32 = 1.5;

/// Rows of gates and ups, `[rows, cols]` each, and what they are weighed by.
struct Case {
    gate: Matrix,
    up: Matrix,
    weights: Vec<f32>,
    dout: Matrix,
}

/// What [`swiglu_backward`] writes.
struct Found {
    dgate: Vec<f32>,
    dup: Vec<f32>,
    out: Vec<f32>,
    dweights: Vec<f32>,
}

impl Case {
    /// About a third of the gates lie above the limit, and of the ups beyond it on either side.
    fn drawn(rows: usize, cols: usize) -> Self {
        let scaled = |seed| {
            Matrix::from_vec(uniform(rows * cols, seed).iter().map(|x| x * 2.0 * LIMIT).collect(), cols)
        };
        Self {
            gate: scaled(1),
            up: scaled(2),
            weights: uniform(rows, 3),
            dout: Matrix::from_vec(uniform(rows * cols, 4), cols),
        }
    }

    fn run(&self, c: &Compute) -> Found {
        let [mut gate, mut up, mut out] = [&self.gate, &self.up, &self.dout].map(Clone::clone);
        let mut dweights = vec![f32::NAN; self.weights.len()];
        let outputs = (gate.view_mut(), up.view_mut(), out.view_mut());
        swiglu_backward(c, outputs.0, outputs.1, &self.weights, LIMIT, outputs.2, &mut dweights);
        Found { dgate: gate.into_vec(), dup: up.into_vec(), out: out.into_vec(), dweights }
    }
}

fn all(found: Found) -> Vec<f32> {
    [found.dgate, found.dup, found.out, found.dweights].concat()
}

/// `dout . swiglu(gate, up)`.
fn loss(gate: &[f64], up: &[f64], dout: &[f32]) -> f64 {
    let numbers = gate.iter().zip(up).zip(dout);
    numbers.map(|((&g, &u), &d)| f64::from(d) * reference::swiglu(g, u, f64::from(LIMIT))).sum()
}

fn check(rows: usize, cols: usize) {
    let case = Case::drawn(rows, cols);
    everywhere(|c| all(case.run(c)));
    let found = case.run(&scalar());
    let (mut dgate, mut dup, mut dweights, mut out) = (vec![], vec![], vec![], vec![]);
    for row in 0..rows {
        let (gate, up, dout) = (case.gate.row(row), case.up.row(row), case.dout.row(row));
        let weight = f64::from(case.weights[row]);
        let [wide_gate, wide_up] = [gate, up].map(wide);
        dgate.extend(differences(gate, |gate| weight * loss(gate, &wide_up, dout)));
        dup.extend(differences(up, |up| weight * loss(&wide_gate, up, dout)));
        dweights.push(loss(&wide_gate, &wide_up, dout));
        let activation = |(&g, &u): (&f64, &f64)| weight * reference::swiglu(g, u, f64::from(LIMIT));
        out.extend(wide_gate.iter().zip(&wide_up).map(activation));
    }
    let what = format!("{rows} rows of {cols}");
    assert_gradient(&found.dgate, &dgate, &format!("gate, {what}"));
    assert_gradient(&found.dup, &dup, &format!("up, {what}"));
    assert_gradient(&found.dweights, &dweights, &format!("weights, {what}"));
    assert_gradient(&found.out, &out, &format!("output, {what}"));
}

#[test]
fn gradients_of_gate_up_and_weight_are_those_of_the_formula_at_every_length() {
    for cols in (1..=33).chain([127, 129]) {
        check(3, cols);
    }
    check(100, 300);
}

#[test]
fn no_gradient_passes_a_gate_above_the_limit_or_an_up_beyond_it_on_either_side() {
    let beyond = LIMIT.next_up();
    let gate = vec![1.0, LIMIT, beyond, 40.0, -40.0, 1.0, 1.0, 1.0, 1.0, f32::INFINITY];
    let up = vec![1.0, 1.0, 1.0, 1.0, 1.0, LIMIT, -LIMIT, beyond, -beyond, -50.0];
    let case = Case {
        gate: Matrix::from_vec(gate, 10),
        up: Matrix::from_vec(up, 10),
        weights: vec![1.0],
        dout: Matrix::from_vec(vec![1.0; 10], 10),
    };
    everywhere(|c| all(case.run(c)));
    let found = case.run(&scalar());
    let blocked = |d: &[f32]| (0..10).filter(|&i| d[i] == 0.0).collect::<Vec<_>>();
    // A gate far below has a slope of its own, which is small: it is not clamped.
    assert_eq!(blocked(&found.dgate), [2, 3, 9], "{:?}", found.dgate);
    assert_eq!(blocked(&found.dup), [7, 8, 9], "{:?}", found.dup);
}
